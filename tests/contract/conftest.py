"""The real edge over HTTP, on the real servers."""

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from edge.redis_store import redis_client
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.settings import load
from schemas.principal import Scope
from schemas.units import format_rfc3339
from sinks.api_keys import ApiKeys
from sinks.pg import Pool
from sinks.tenants import Tenants
from streams.settings import StreamSettings
from tests.contract.proxy import Proxy
from tests.contract.running import Edge, Wiring, opened, running
from tests.contract.wire import Client

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Sender:
    """A tenant of its own with a key of all scopes."""

    tenant_id: str
    api_key: str
    client: Client

    def envelope(self, **changes: Any) -> dict[str, Any]:
        """A sound envelope; a change to `...` takes the field away."""
        fields = {
            "tenant_id": self.tenant_id,
            "event_id": "evt-1",
            "trace_id": "018f7e20-6d6f-7e20-a3f1-9eb6b7a1f112",
            "agent_id": "agent-7",
            "schema_version": "1.0",
            "created_at": format_rfc3339(SystemClock().now_ms()),
            "source": "sensor/edge",
            "payload": {"action": "login", "attempts": 3},
        } | changes
        return {name: value for name, value in fields.items() if value is not ...}

    def body(self, **changes: Any) -> bytes:
        return msgspec.json.encode(self.envelope(**changes))

    def at(self, edge: Edge) -> "Sender":
        """The same sender at another edge."""
        return dataclasses.replace(self, client=Client(edge.port, self.api_key))


@pytest.fixture(scope="session")
def stream_settings(servers: EmbeddedServers) -> StreamSettings:
    return dataclasses.replace(
        load({}).streams,
        url=servers.nats_url("edge"),
        system_url=servers.nats_url("system"),
        replicas=1,
        shards=1,
    )


@pytest.fixture(scope="session")
def wiring(servers: EmbeddedServers) -> Wiring:
    return Wiring(
        nats_url=servers.nats_url("edge"), postgres_dsn=servers.postgres_dsn("edge"), redis_url=servers.redis_url
    )


RunEdge = Callable[..., Any]


@pytest.fixture(scope="session")
def run_edge(wiring: Wiring, stream_settings: StreamSettings) -> RunEdge:
    """`async with run_edge(redis_url=..)` serves an edge that differs from the usual one in what is named."""

    def run(**changes: Any) -> Any:
        return running(dataclasses.replace(wiring, **changes), stream_settings)

    return run


@pytest.fixture(scope="session")
async def edge(run_edge: RunEdge) -> AsyncIterator[Edge]:
    async with run_edge() as edge:
        yield edge


@pytest.fixture(scope="session")
async def operator_pool(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    async with opened(servers.postgres_dsn("operator")) as pool:
        yield pool


@pytest.fixture(scope="session")
def keys(operator_pool: Pool) -> ApiKeys:
    """For issuing and revoking."""
    return ApiKeys(operator_pool)


@pytest.fixture(scope="session")
async def worker_pool(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    async with opened(servers.postgres_dsn("worker")) as pool:
        yield pool


@pytest.fixture
async def sender(operator_pool: Pool, edge: Edge) -> Sender:
    return await _new_sender(operator_pool, edge)


@pytest.fixture
async def other_sender(operator_pool: Pool, edge: Edge) -> Sender:
    return await _new_sender(operator_pool, edge)


async def _new_sender(pool: Pool, edge: Edge) -> Sender:
    tenant_id = f"contract-{next(_numbers)}"
    await Tenants(pool).add(tenant_id, "pro")
    issued = await ApiKeys(pool).issue(tenant_id, None, list(Scope))
    return Sender(tenant_id, issued.secret, Client(edge.port, issued.secret))


@pytest.fixture
def redis(servers: EmbeddedServers) -> str:
    """Of the user who may also scan and delete."""
    return servers.redis_admin_url


async def until_hinted(url: str, sender: Sender, count: int = 1) -> list[bytes]:
    """Return the names of this tenant's hints once there are so many: they are written behind the answers."""
    client = redis_client(url)
    names: list[bytes] = []
    async with asyncio.timeout(20):
        while len(names) < count:
            names = [name async for name in client.scan_iter(f"fg:{{{sender.tenant_id}}}:h:*", count=10_000)]
    await client.aclose()
    return names


async def forget_hints(url: str, sender: Sender, count: int = 1) -> None:
    """On return so many hints of this tenant were written and are gone."""
    names = await until_hinted(url, sender, count)
    client = redis_client(url)
    await client.delete(*names)
    await client.aclose()


@pytest.fixture
async def redis_proxy(servers: EmbeddedServers) -> AsyncIterator[tuple[Proxy, str]]:
    async with _proxied(servers.redis_url) as both:
        yield both


@pytest.fixture
async def postgres_proxy(servers: EmbeddedServers) -> AsyncIterator[tuple[Proxy, str]]:
    async with _proxied(servers.postgres_dsn("edge")) as both:
        yield both


@pytest.fixture
async def nats_proxy(servers: EmbeddedServers) -> AsyncIterator[tuple[Proxy, str]]:
    async with _proxied(servers.nats_url("edge")) as both:
        yield both


@asynccontextmanager
async def _proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of this URL, and the URL that goes through it."""
    port = urlsplit(url).port
    assert port is not None
    proxy = await Proxy.open(port)
    try:
        yield proxy, url.replace(f":{port}", f":{proxy.port}")
    finally:
        await proxy.close()
