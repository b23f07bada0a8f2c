"""What an edge is made of, wired once: adapters for its ports, and the standing checks behind them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import Redis

from edge.break_glass import ArmedDocument
from edge.breaker import Breakers
from edge.coordination import RedisCoordination
from edge.depths import DepthView
from edge.limits import LimitsView
from edge.ports import EdgePorts
from edge.redis_store import redis_client
from edge.throttle import AdaptiveThrottle
from ops.clock import new_span_id, new_uuid7
from ops.clock_watch import ClockWatch
from ops.connect import connected
from ops.late_worm import LateWorm
from ops.redis_watch import RedisWatch
from ops.settings import Settings
from ops.telemetry import PrometheusMeter
from ops.watch import IsolationWatch, unpublished
from schemas.metrics import RLS_DENIED
from schemas.readiness import Readiness
from schemas.units import Clock
from sinks.agent_keys import AgentKeys
from sinks.api_keys import ApiKeys
from sinks.decisions import Decisions
from sinks.event_evidence import EvidenceReader, ServedFiles
from sinks.event_keys import EventKeys
from sinks.exports import ExportDesk
from sinks.life import Lives
from sinks.limits import RuntimeLimits
from sinks.serving import EdgePools
from streams.depth import LaneDepths
from streams.durability import DurabilityWatch
from streams.jetstream import JetStream
from streams.publisher import IngestPublisher

Watch = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeParts:
    """An edge without its HTTP server."""

    ports: EdgePorts
    durability: DurabilityWatch
    readiness: Callable[[], Readiness]
    watches: tuple[Watch, ...]


class _Links(NamedTuple):
    """The connections of one edge. What requests wait for has a Redis client of its own."""

    jetstream: JetStream
    system: JetStream
    pools: EdgePools
    admitting: Redis
    background: Redis


async def _linked(settings: Settings, meter: PrometheusMeter, stack: AsyncExitStack) -> _Links:
    """Open every connection; `stack` closes them."""
    jetstream = await connected(settings.streams.url, "edge")
    stack.push_async_callback(jetstream.close)
    system = await connected(settings.streams.system_url, "system")
    stack.push_async_callback(system.close)
    pools = await EdgePools.open(settings.postgres, partial(meter.add, RLS_DENIED, 1, "edge"))
    stack.push_async_callback(pools.close)
    clients = [redis_client(settings.redis_url) for _ in range(2)]
    for client in clients:
        stack.push_async_callback(client.aclose)
    return _Links(jetstream, system, pools, *clients)


@asynccontextmanager
async def assembled(settings: Settings, meter: PrometheusMeter, clock: Clock) -> AsyncIterator[EdgeParts]:
    """The parts, connected; on leaving, what was submitted is settled and every connection is closed."""
    async with AsyncExitStack() as stack:
        jetstream, system, pools, admitting, background = await _linked(settings, meter, stack)
        durability = DurabilityWatch(jetstream, system, settings.streams, clock)
        isolation = IsolationWatch(pools.checks, unpublished)
        redis_watch = RedisWatch(background, settings.env)
        clocks = ClockWatch(clock, background, pools.checks)
        coordination = RedisCoordination(admitting, settings.edge)
        stack.push_async_callback(coordination.close)
        publisher = IngestPublisher(jetstream, durability, settings.streams, meter)
        stack.push_async_callback(publisher.close)
        limits = LimitsView(RuntimeLimits(pools.limits), settings.rates, settings.edge.key_stale_ms_max, clock)
        depths = DepthView(background, settings.queues, LaneDepths(jetstream, settings.streams), clock, meter)
        throttle = AdaptiveThrottle(settings.rates, depths.skewed, meter)
        glass = ArmedDocument(settings.break_glass_file, settings.break_glass_public_key_file, settings.env, clock)
        circuits = Breakers(background, settings.breaker, clock, meter, glass.armed)
        stack.push_async_callback(circuits.close)
        worm = LateWorm(settings.evidence)
        files = ServedFiles(settings.evidence.keyring_file, settings.evidence.checkpoint_secret_file)
        watch = _Watch(jetstream, pools, durability, isolation, redis_watch, clocks, depths, circuits, glass)
        ports = EdgePorts(
            publisher=publisher,
            stored_keys=EventKeys(pools.lookups),
            coordination=coordination,
            limits=limits,
            depths=depths,
            throttle=throttle,
            circuits=circuits,
            break_glass=glass,
            signatures=AgentKeys(pools.credentials),
            decisions=Decisions(pools.reads),
            credentials=ApiKeys(pools.credentials),
            lives=Lives(pools.reads),
            evidence=EvidenceReader(pools.reads, worm, files),
            exports=ExportDesk(pools.reads, worm),
            clock_skewed=clocks.skewed,
            redis_proven=redis_watch.proven,
            readiness=watch.readiness,
            rates=settings.rates,
            queues=settings.queues,
            tls=settings.tls,
            meter=meter,
            clock=clock,
            new_request_id=new_uuid7,
            new_span_id=new_span_id,
        )
        runs = (durability.run, isolation.run, redis_watch.run, clocks.run, limits.run, depths.run, throttle.run)
        yield EdgeParts(ports=ports, durability=durability, readiness=watch.readiness, watches=runs)


class _Watch(NamedTuple):
    """Everything that has a say in whether this edge should get traffic."""

    jetstream: JetStream
    pools: EdgePools
    durability: DurabilityWatch
    isolation: IsolationWatch
    redis: RedisWatch
    clocks: ClockWatch
    depths: DepthView
    circuits: Breakers
    break_glass: ArmedDocument

    def readiness(self) -> Readiness:
        reasons = [
            *self.isolation.findings,
            *self.pools.findings,
            *self.clocks.findings,
            *self._stream(),
            *self.depths.findings,
        ]
        degraded = [f"circuit {name}: {state}" for name, state in self.circuits.states().items()]
        # Under the emergency override this edge serves without Redis, and says so.
        (reasons if self.break_glass.armed() is None else degraded).extend(self.redis.findings)
        if not self.isolation.store_answers:
            # Keys verified lately and young events still pass.
            degraded.append("the database does not answer")
        return Readiness(tuple(reasons), tuple(degraded))

    def _stream(self) -> list[str]:
        if not self.jetstream.connected:
            return ["no connection to the broker"]
        return [] if self.durability.proven() else self.durability.findings or ["durability is not proven"]
