"""Connections and throw-away streams on the session's real broker."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from ops.embedded import EmbeddedServers
from schemas.metrics import Metric
from streams.fair import ByteBudget
from streams.inbox import Inbox
from streams.jetstream import JetStream
from streams.pin import PIN_GROUP, PIN_TIMEOUT_MS, Source
from streams.settings import StreamSettings
from tests.conftest import laid_out

_numbers = itertools.count()


class Tally:
    """A meter that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, tuple[str, ...]]] = []

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        self.told.append((metric.name, value, labels))


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture(scope="module")
async def own_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """Servers that only the tests of one module use, for `servers` to be overridden with."""
    async with laid_out(tmp_path_factory.mktemp("own") / "data") as embedded:
        yield embedded


@pytest.fixture
def stream_settings(servers: EmbeddedServers) -> StreamSettings:
    return StreamSettings(
        url=servers.nats_url("admin"),
        system_url=servers.nats_url("system"),
        replicas=1,
        shards=1,
        tenant_messages_max=12_000,
    )


@pytest.fixture
async def admin(servers: EmbeddedServers) -> AsyncIterator[JetStream]:
    jetstream = await JetStream.connect(servers.nats_url("admin"), "admin")
    yield jetstream
    await jetstream.close()


MakeStream = Callable[..., Awaitable[str]]


@pytest.fixture
async def make_stream(admin: JetStream) -> AsyncIterator[MakeStream]:
    """Makes a work queue of its own, subjects `<name>.*`, with the given cap per subject; gone after the test."""
    made: list[str] = []

    async def make(messages_per_subject_max: int, **more: Any) -> str:
        name = f"T{next(_numbers)}"
        config = {
            "name": name,
            "subjects": [f"{name}.*"],
            "retention": "workqueue",
            "storage": "file",
            "num_replicas": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": messages_per_subject_max,
            "allow_atomic": True,
            "allow_direct": True,
            "duplicate_window": 120_000_000_000,
            **more,
        }
        await admin.api(f"STREAM.CREATE.{name}", config, dict)
        made.append(name)
        return name

    yield make
    for name in made:
        await admin.api(f"STREAM.DELETE.{name}", None, dict)


OpenInbox = Callable[..., Awaitable[Inbox]]


@pytest.fixture
async def pinned_stream(make_stream: MakeStream, admin: JetStream) -> str:
    """A stream with one pinned consumer, named `c`."""
    name = await make_stream(1_000, retention="limits")
    config = {
        "durable_name": "c",
        "ack_policy": "explicit",
        "ack_wait": 60_000_000_000,
        "priority_groups": [PIN_GROUP],
        "priority_policy": "pinned_client",
        "priority_timeout": PIN_TIMEOUT_MS * 1_000_000,
        "filter_subject": f"{name}.*",
    }
    request = {"stream_name": name, "config": config, "action": "create"}
    await admin.api(f"CONSUMER.CREATE.{name}.c", request, dict)
    return name


@pytest.fixture
async def open_inbox(
    servers: EmbeddedServers, pinned_stream: str, stream_settings: StreamSettings, tally: Tally
) -> AsyncIterator[OpenInbox]:
    connections: list[JetStream] = []

    async def make(**limits: Any) -> Inbox:
        connections.append(await JetStream.connect(servers.nats_url("worker"), "worker"))
        inbox = Inbox(
            jetstream=connections[-1],
            settings=replace(stream_settings, **limits),
            source=Source("dedupe", pinned_stream, "c", pinned=True, ack_wait_ms=60_000),
            budget=ByteBudget(stream_settings.buffer_bytes_max),
            meter=tally,
            arrived=asyncio.Event(),
        )
        await inbox.open()
        return inbox

    yield make
    for connection in connections:
        await connection.close()
