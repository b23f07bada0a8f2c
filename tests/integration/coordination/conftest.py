"""A real Valkey of these tests' own, which they may flush, restart and reconfigure."""

import asyncio
import dataclasses
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from chaos.redis_proxy import RedisProxy
from edge.coordination import RedisCoordination
from edge.ports import Ask, Budget, Nonce
from edge.redis_store import redis_client
from edge.settings import EdgeSettings
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from schemas.envelope import EventKey

DAY_MS = 86_400_000
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)
PATIENT = dataclasses.replace(SETTINGS, redis_timeout_ms=10_000)
"""Where the promise is not about time, a busy machine shall not matter."""
AMPLE = Budget(rate_per_s=1_000, burst=1_000)
BOUND_S = 20

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    with await DataDirectory.open(tmp_path_factory.mktemp("coordination") / "data") as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start_one("valkey")
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


@pytest.fixture
def tenant() -> str:
    return f"tenant-{next(_numbers)}"


@pytest.fixture
def other_tenant() -> str:
    return f"tenant-{next(_numbers)}"


@asynccontextmanager
async def coordinating(url: str, settings: EdgeSettings = PATIENT) -> AsyncIterator[RedisCoordination]:
    coordination = RedisCoordination(redis_client(url), settings)
    try:
        yield coordination
    finally:
        await coordination.close()


@pytest.fixture
async def coordination(store: EmbeddedServers) -> AsyncIterator[RedisCoordination]:
    async with coordinating(store.redis_url) as made:
        yield made


@pytest.fixture
async def admin(store: EmbeddedServers) -> AsyncIterator["Redis"]:
    client = redis_client(store.redis_admin_url)
    yield client
    await client.aclose()


@pytest.fixture
async def proxied(store: EmbeddedServers) -> AsyncIterator[tuple[RedisProxy, str]]:
    """A proxy before the server, and the URL that goes through it."""
    port = urlsplit(store.redis_url).port
    assert port is not None
    proxy = await RedisProxy.open("127.0.0.1", port)
    try:
        yield proxy, store.redis_url.replace(f":{port}", f":{proxy.port}")
    finally:
        await proxy.close()


def stored_key(tenant_id: str, event_id: str) -> EventKey:
    return EventKey(tenant_id, event_id, "trace", "request", "2026-01-01T00:00:00.000Z", "FG_INGEST_0", 7, "hash")


def signed(tenant_id: str, nonce: str, created_s: int) -> Ask:
    return Ask(tenant_id, [f"evt-{nonce}"], AMPLE, Nonce("key-1", nonce, created_s))


def now_s() -> int:
    return SystemClock().now_ms() // 1000


async def command(client: "Redis", *words: str) -> Any:
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]  # not annotated there


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110  (what is watched has no event to wait for)
            await asyncio.sleep(0.01)
