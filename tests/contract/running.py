"""An edge as its process wires it, in this process, on a free port."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import uvicorn

from edge.app import EdgeApp
from edge.hints import RedisHints, redis_client
from edge.ports import EdgePorts, Publisher
from edge.settings import EdgeSettings
from ops.clock import SystemClock, new_span_id, new_uuid7
from ops.telemetry import PrometheusMeter
from schemas.readiness import Readiness
from schemas.units import Clock, UnixMs
from sinks.api_keys import ApiKeys
from sinks.event_keys import EventKeys
from sinks.life import Lives
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from streams.durability import DurabilityWatch
from streams.jetstream import JetStream
from streams.publisher import IngestPublisher
from streams.settings import StreamSettings

DAY_MS = 86_400_000
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)


@dataclass(frozen=True)
class Edge:
    """A running edge and its parts."""

    port: int
    settings: EdgeSettings
    watch: DurabilityWatch
    pool: Pool


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How one edge reaches its servers, and what of it a test replaces."""

    nats_url: str
    postgres_dsn: str
    redis_url: str
    settings: EdgeSettings = SETTINGS
    clock: Clock = dataclasses.field(default_factory=SystemClock)
    proves_durability: bool = True
    publisher: Publisher | None = None


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Pool]:
    pool = await Pool.open(PostgresSettings(dsn=dsn, pool_size=4, statement_cache_size=100))
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def running(wiring: Wiring, streams: StreamSettings) -> AsyncIterator[Edge]:
    meter = PrometheusMeter("edge")
    async with AsyncExitStack() as stack:
        jetstream = await JetStream.connect(wiring.nats_url, "edge")
        stack.push_async_callback(jetstream.close)
        system = await JetStream.connect(streams.system_url, "system")
        stack.push_async_callback(system.close)
        pool = await stack.enter_async_context(opened(wiring.postgres_dsn))
        hints = RedisHints(redis_client(wiring.redis_url), wiring.settings)
        stack.push_async_callback(hints.close)
        watch = DurabilityWatch(jetstream, system, streams, wiring.clock)
        if wiring.proves_durability:
            assert await watch.check() == []
        publisher = IngestPublisher(jetstream, watch, streams, meter)
        stack.push_async_callback(publisher.close)
        app = EdgeApp(
            wiring.settings,
            EdgePorts(
                publisher=wiring.publisher or publisher,
                stored_keys=EventKeys(pool),
                hints=hints,
                credentials=ApiKeys(pool),
                lives=Lives(pool),
                readiness=lambda: Readiness(()),
                queue_depth_hardstop=streams.tenant_messages_max,
                meter=meter,
                clock=wiring.clock,
                new_request_id=new_uuid7,
                new_span_id=new_span_id,
            ),
        )
        port = await stack.enter_async_context(_served(app))
        yield Edge(port, wiring.settings, watch, pool)


@asynccontextmanager
async def _served(app: EdgeApp) -> AsyncIterator[int]:
    """Serve on a free port as the edge process does."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.config.load()
    started = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.wait({started}, timeout=0.01)
            assert not started.done()
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await started
        listener.close()


class ShiftedClock:
    """The system's time, some way ahead."""

    def __init__(self, ahead_ms: int) -> None:
        self._ahead_ms = ahead_ms
        self._clock = SystemClock()

    def now_ms(self) -> UnixMs:
        return UnixMs(self._clock.now_ms() + self._ahead_ms)
