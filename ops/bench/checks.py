"""What single checks cost the edge: a process of its own, one job in on stdin, one result out on stdout, both JSON.

The very code of the edge, called as a request calls it, and the CPU time of this process taken: in
a whole edge one check cannot be told from another, and none of them can be left out there.

    python -m ops.bench.checks < job.json
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import uvloop

from edge.admit import Admitted, Contract
from edge.backpressure import refusal
from edge.breaker import Breakers
from edge.coordination import RedisCoordination
from edge.limits import LimitsView
from edge.ports import Ask, Budget, Component, Depth
from edge.redis_store import redis_client
from edge.signature import SignatureCheck, Signed
from edge.throttle import AdaptiveThrottle
from edge.transport import Message, Request
from ops.bench.requests import AGENT_ID, RequestMaker, Sender
from ops.clock import SystemClock, new_uuid7
from ops.commands.agent_key import AgentKey, new_agent_key
from ops.settings import load
from ops.telemetry import PrometheusMeter
from schemas.principal import Principal, Scope, SigningKey
from schemas.units import UnixMs
from sinks.limits import RuntimeLimits
from sinks.pg import Pool
from sinks.settings import PostgresSettings

AT_ONCE = 64
AUTHORITY = "bench"
PATH = "/ingest"
REPEATS_PER_LOOK = 20


class Job(msgspec.Struct, frozen=True):
    """Measure each check for so long, on a real Valkey and Postgres, in the name of these tenants."""

    redis_url: str
    postgres_dsn: str
    tenant_ids: list[str]
    seconds: float


class Costs(msgspec.Struct, frozen=True):
    """CPU per event, microseconds."""

    contract_us: float
    limits_us: float
    signature_us: float


class _Limits:
    """Everything that limits a tenant, in the order of an accepted event; each one is admitted."""

    def __init__(self, job: Job, coordination: RedisCoordination, circuits: Breakers, view: LimitsView) -> None:
        settings = load({})
        self._queues = settings.queues
        self._coordination = coordination
        self._circuits = circuits
        self._view = view
        self._throttle = AdaptiveThrottle(settings.rates, frozenset, PrometheusMeter("edge"))
        self._tenant_ids = itertools.cycle(job.tenant_ids)

    async def pass_once(self) -> None:
        tenant_id = next(self._tenant_ids)
        limits = await self._view.of(tenant_id, "enterprise")
        budget = Budget(limits.rps * self._throttle.factor(tenant_id), limits.burst)
        ticket = await self._circuits.enter(Component.REDIS)
        admission = await self._coordination.admit(Ask(tenant_id, [new_uuid7()], budget))
        self._circuits.record(Component.REDIS, None, ticket, failed=False, elapsed_ms=0.0)
        assert admission.admitted[0]
        assert refusal(Depth(0, 0.0), self._queues) is None
        ticket = await self._circuits.enter(Component.STREAM, tenant_id)
        self._circuits.record(Component.STREAM, tenant_id, ticket, failed=False, elapsed_ms=1.0)
        self._throttle.took(tenant_id, 1, 1.0)


class _OneKey:
    """Implements `edge.ports.Signatures`: an edge under load remembers the keys in use, and asks nobody."""

    def __init__(self, key: AgentKey) -> None:
        self._key = SigningKey(key.key_id, key.tenant_id, key.agent_id, key.public_key, UnixMs(0), None, None)

    async def public_key(self, key_id: str) -> SigningKey | None:
        del key_id
        return self._key


async def _measure(job: Job) -> Costs:
    return Costs(
        contract_us=await _contract_us(job),
        limits_us=await _limits_us(job),
        signature_us=await _signature_us(job),
    )


async def _contract_us(job: Job) -> float:
    clock = SystemClock()
    contract = Contract(load({}).edge)
    body = _body(job.tenant_ids[0], clock)

    async def once() -> None:
        assert isinstance(contract.admit(body, clock.now_ms()), Admitted)

    return await _cpu_us(once, 1, job.seconds)


async def _limits_us(job: Job) -> float:
    settings, clock = load({}), SystemClock()
    client = redis_client(job.redis_url)
    pool = await Pool.open(PostgresSettings(dsn=job.postgres_dsn, pool_size=1, statement_cache_size=0))
    coordination = RedisCoordination(client, settings.edge)
    circuits = Breakers(client, settings.breaker, clock, PrometheusMeter("edge"), lambda: None)
    view = LimitsView(RuntimeLimits(pool), settings.rates, settings.edge.key_stale_ms_max, clock)
    stopping = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(view.run(stopping))
            us = await _cpu_us(_Limits(job, coordination, circuits, view).pass_once, AT_ONCE, job.seconds)
            stopping.set()
        return us
    finally:
        await circuits.close()
        await coordination.close()
        await pool.close()


async def _signature_us(job: Job) -> float:
    clock = SystemClock()
    tenant_id = job.tenant_ids[0]
    key = new_agent_key(tenant_id, AGENT_ID)
    check = SignatureCheck(_OneKey(key), clock, load({}).edge)
    sender = Principal("bench", tenant_id, None, frozenset({Scope.INGEST}), "enterprise")
    body = _body(tenant_id, clock)
    request = _signed(key, body, clock)

    async def once() -> None:
        assert isinstance(await check.verify(request, body, sender, method="POST", batch=False), Signed)

    return await _cpu_us(once, 1, job.seconds)


def _body(tenant_id: str, clock: SystemClock) -> bytes:
    request = RequestMaker(Sender(tenant_id, "none"), 0, "checks", clock).request(0)
    return request.partition(b"\r\n\r\n")[2]


def _signed(key: AgentKey, body: bytes, clock: SystemClock) -> Request:
    envelope = msgspec.json.decode(body)
    fields = {
        "content-type": "application/json",
        "x-request-id": new_uuid7(),
        "x-event-id": envelope["event_id"],
        "x-trace-id": envelope["trace_id"],
    }
    signed = key.sign(AUTHORITY, PATH, body, fields, clock) | {"host": AUTHORITY}
    encoded = {name.encode(): value.encode() for name, value in signed.items()}
    return Request(PATH, PATH.encode(), b"", new_uuid7(), encoded, _nothing_to_receive, 0.0)


async def _nothing_to_receive() -> Message:
    raise AssertionError("the body was read before")


async def _cpu_us(once: Callable[[], Coroutine[Any, Any, None]], at_once: int, seconds: float) -> float:
    """CPU time of this process per call, by so many callers at once. The first calls are not counted."""
    await asyncio.gather(*(once() for _ in range(max(at_once, REPEATS_PER_LOOK))))
    calls = 0
    ends_s = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal calls
        while time.perf_counter() < ends_s:
            for _ in range(REPEATS_PER_LOOK):
                await once()
            calls += REPEATS_PER_LOOK

    began_s = time.process_time()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return (time.process_time() - began_s) / calls * 1e6


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        costs = runner.run(_measure(job))
    sys.stdout.buffer.write(msgspec.json.encode(costs))


if __name__ == "__main__":
    main()
