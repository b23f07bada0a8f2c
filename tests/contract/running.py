"""An edge as its process wires it, in this process, on a free port."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from edge.app import EdgeApp
from edge.settings import EdgeSettings, QueueSettings, RateSettings
from ops.clock import SystemClock
from ops.edge_parts import EdgeParts, assembled
from ops.edge_service import EdgeServer, http_config
from ops.settings import Settings, load
from ops.telemetry import PrometheusMeter
from schemas.subjects import partition_of
from schemas.units import Clock, UnixMs
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from streams.durability import DurabilityWatch
from streams.settings import StreamSettings

DAY_MS = 86_400_000
UNHURRIED = dataclasses.replace(load({}).breaker, latency_p95_ms=60_000)
"""Circuits that open for failures, and not because the machine is busy."""
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS, redis_timeout_ms=2_000)
"""Redis may take its time: on a busy machine it does, and what is tested here is not that it may not."""
HASTY = dataclasses.replace(SETTINGS, redis_timeout_ms=50)
EVERYWHERE = {partition_of(f"t{number}"): f"t{number}" for number in range(200)}.values()
"""A tenant of each partition."""
GENEROUS = RateSettings(
    rps_base=100_000,
    rps_burst=100_000,
    rps_by_tier=(),
    events_per_month_by_tier=(),
    latency_p95_ms_hard=60_000,
)


@dataclass(frozen=True)
class Edge:
    """A running edge and its parts."""

    port: int
    settings: EdgeSettings
    watch: DurabilityWatch
    pool: Pool


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How one edge reaches its servers, and what of it a test replaces: settings by slice, ports by name."""

    nats_url: str
    postgres_dsn: str
    redis_url: str
    settings: EdgeSettings = SETTINGS
    rates: RateSettings = GENEROUS
    queues: QueueSettings = load({}).queues
    clock: Clock = dataclasses.field(default_factory=SystemClock)
    proves_durability: bool = True
    settles: bool = True
    """No worker runs beside these edges, so it is said here whether what they accept is settled in time."""
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further settings, by the name in `Settings`."""
    ports: dict[str, Any] = dataclasses.field(default_factory=dict)


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Pool]:
    pool = await Pool.open(PostgresSettings(dsn=dsn, pool_size=4, statement_cache_size=100))
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def running(wiring: Wiring, streams: StreamSettings) -> AsyncIterator[Edge]:
    settings = dataclasses.replace(
        load({}),
        edge=wiring.settings,
        streams=dataclasses.replace(streams, url=wiring.nats_url),
        postgres=PostgresSettings(dsn=wiring.postgres_dsn, pool_size=4, statement_cache_size=100),
        redis_url=wiring.redis_url,
        rates=wiring.rates,
        queues=wiring.queues,
        **{"breaker": UNHURRIED, **wiring.more},
    )
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(opened(wiring.postgres_dsn))
        parts = await stack.enter_async_context(assembled(settings, PrometheusMeter("edge"), wiring.clock))
        if wiring.settles:
            parts.durability.forgotten_before_ms = lambda: UnixMs(0)  # type: ignore[method-assign]
        await stack.enter_async_context(_watched(parts, wiring))
        ports = dataclasses.replace(parts.ports, **_replaced(wiring))
        port = await stack.enter_async_context(_served(EdgeApp(settings.edge, ports), settings))
        yield Edge(port, wiring.settings, parts.durability, pool)


def _replaced(wiring: Wiring) -> dict[str, Any]:
    """A clock a test has moved disagrees with the servers' on purpose."""
    moved = not isinstance(wiring.clock, SystemClock)
    return ({"clock_skewed": lambda: False} if moved else {}) | wiring.ports


@asynccontextmanager
async def _watched(parts: EdgeParts, wiring: Wiring) -> AsyncIterator[None]:
    """Run the standing checks until the block is left, and enter it once they have looked."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for run in parts.watches:
            if wiring.proves_durability or run != parts.durability.run:
                tasks.create_task(run(stopping))
        try:
            async with asyncio.timeout(20):
                while not _looked(parts, wiring):  # noqa: ASYNC110  (many parts, none of them with an event to wait for)
                    await asyncio.sleep(0.01)
            yield
        finally:
            stopping.set()


def _looked(parts: EdgeParts, wiring: Wiring) -> bool:
    ports = parts.ports
    moved = not isinstance(wiring.clock, SystemClock)
    skewed = ports.clock_skewed() and not moved
    proven = parts.durability.proven() or not wiring.proves_durability
    return proven and ports.redis_proven() and not skewed and all(ports.depths.of(one) for one in EVERYWHERE)


@asynccontextmanager
async def _served(app: EdgeApp, settings: Settings) -> AsyncIterator[int]:
    """Serve on a free port as the edge process does."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = EdgeServer(http_config(app, settings), app)
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
