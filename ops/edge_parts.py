"""What an edge is made of, wired once: adapters for its ports, and the standing checks behind them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

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
from ops.redis_watch import RedisWatch
from ops.settings import Settings
from ops.telemetry import PrometheusMeter
from ops.watch import IsolationWatch
from schemas.readiness import Readiness
from schemas.units import Clock
from sinks.agent_keys import AgentKeys
from sinks.api_keys import ApiKeys
from sinks.decisions import Decisions
from sinks.event_keys import EventKeys
from sinks.life import Lives
from sinks.limits import RuntimeLimits
from sinks.pg import Pool
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


@asynccontextmanager
async def assembled(settings: Settings, meter: PrometheusMeter, clock: Clock) -> AsyncIterator[EdgeParts]:
    """The parts, connected; on leaving, what was submitted is settled and every connection is closed."""
    async with AsyncExitStack() as stack:
        jetstream = await connected(settings.streams.url, "edge")
        stack.push_async_callback(jetstream.close)
        system = await connected(settings.streams.system_url, "system")
        stack.push_async_callback(system.close)
        pool = await Pool.open(settings.postgres)
        stack.push_async_callback(pool.close)
        client = redis_client(settings.redis_url)
        stack.push_async_callback(client.aclose)
        background = redis_client(settings.redis_url)
        stack.push_async_callback(background.aclose)
        durability = DurabilityWatch(jetstream, system, settings.streams, clock)
        isolation = IsolationWatch(pool)
        redis_watch = RedisWatch(background, settings.env)
        clocks = ClockWatch(clock, background, pool)
        coordination = RedisCoordination(client, settings.edge, clock)
        stack.push_async_callback(coordination.close)
        publisher = IngestPublisher(jetstream, durability, settings.streams, meter)
        stack.push_async_callback(publisher.close)
        limits = LimitsView(RuntimeLimits(pool), settings.rates, clock)
        depths = DepthView(background, settings.queues, LaneDepths(jetstream, settings.streams), clock, meter)
        throttle = AdaptiveThrottle(settings.rates, depths.skewed, meter)
        circuits = Breakers(background, settings.breaker, clock, meter)
        stack.push_async_callback(circuits.close)
        break_glass = ArmedDocument(
            settings.break_glass_file, settings.break_glass_public_key_file, settings.env, clock
        )

        def readiness() -> Readiness:
            reasons = _stream(jetstream, durability)
            degraded = [f"circuit {name}: {state}" for name, state in circuits.states().items()]
            # Under the emergency override this edge serves without Redis, and says so.
            (reasons if break_glass.armed() is None else degraded).extend(redis_watch.findings)
            if not isolation.store_answers:
                # Keys verified lately and young events still pass.
                degraded.append("the database does not answer")
            return Readiness((*isolation.findings, *clocks.findings, *reasons), tuple(degraded))

        ports = EdgePorts(
            publisher=publisher,
            stored_keys=EventKeys(pool),
            coordination=coordination,
            limits=limits,
            depths=depths,
            throttle=throttle,
            circuits=circuits,
            break_glass=break_glass,
            signatures=AgentKeys(pool),
            decisions=Decisions(pool),
            credentials=ApiKeys(pool),
            lives=Lives(pool),
            clock_skewed=clocks.skewed,
            redis_proven=redis_watch.proven,
            readiness=readiness,
            rates=settings.rates,
            queues=settings.queues,
            tls=settings.tls,
            meter=meter,
            clock=clock,
            new_request_id=new_uuid7,
            new_span_id=new_span_id,
        )
        watches = (durability.run, isolation.run, redis_watch.run, clocks.run, limits.run, depths.run, throttle.run)
        yield EdgeParts(ports=ports, durability=durability, readiness=readiness, watches=watches)


def _stream(jetstream: JetStream, durability: DurabilityWatch) -> list[str]:
    if not jetstream.connected:
        return ["no connection to the broker"]
    return [] if durability.proven() else durability.findings or ["durability is not proven"]
