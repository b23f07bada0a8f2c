"""A component that keeps failing is spared: the exact codes, no effect, a few probes, and recovery by itself."""

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable

import pytest

from edge.circuit import SAMPLES_MIN
from edge.settings import BreakerSettings
from ops.clock import SystemClock
from schemas.units import UnixMs, format_rfc3339
from tests.contract.conftest import RunEdge, Sender
from tests.contract.proxy import Proxy
from tests.contract.running import SETTINGS
from tests.contract.wire import Answer

Proxied = tuple[Proxy, str]
PROBES = 4
PATIENT = dataclasses.replace(SETTINGS, redis_timeout_ms=2_000)
"""A busy machine may keep a sound Redis waiting, which is not what these tests are about."""
LONG_AGO = format_rfc3339(UnixMs(SystemClock().now_ms() - 3_600_000))
"""Made so long ago that only Postgres can tell whether it is new."""
_numbers = itertools.count(1)


def settings(open_seconds: int) -> BreakerSettings:
    return BreakerSettings(
        error_rate_threshold=0.08, latency_p95_ms=60_000, open_seconds=open_seconds, half_open_probes=PROBES
    )


async def offered(sender: Sender) -> Answer:
    """The answer to an event that is new, and old enough that every component is needed for it."""
    return await sender.client.ingest(sender.body(event_id=f"new-{next(_numbers)}", created_at=LONG_AGO))


async def opened(sender: Sender, code: str) -> Answer:
    """Offer events until the circuit is open; every answer before had the code of the failure itself.

    One event was accepted before.
    """
    calls = 1
    async with asyncio.timeout(60):
        while True:
            answer = await offered(sender)
            assert answer.status == 503
            if answer.code == "CIRCUIT_OPEN":
                assert calls >= SAMPLES_MIN
                return answer
            assert answer.code == code
            calls += 1


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            continue


@pytest.fixture(params=["nats", "postgres", "redis"])
def component(
    request: pytest.FixtureRequest, nats_proxy: Proxied, postgres_proxy: Proxied, redis_proxy: Proxied
) -> tuple[Proxy, dict[str, str], str, str]:
    """Its proxy, how an edge reaches it, the code of its failure, the name of its circuit."""
    match request.param:
        case "nats":
            return nats_proxy[0], {"nats_url": nats_proxy[1]}, "STREAM_UNAVAILABLE", "stream"
        case "postgres":
            return postgres_proxy[0], {"postgres_dsn": postgres_proxy[1]}, "STORE_UNAVAILABLE", "postgres"
        case _:
            return redis_proxy[0], {"redis_url": redis_proxy[1]}, "RATE_LIMIT_BACKEND_UNAVAILABLE", "redis"


# The NATS client leaves a connection that is cut during its handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_component_that_fails_opens_its_circuit_and_closes_it_after_probes(
    sender: Sender, run_edge: RunEdge, component: tuple[Proxy, dict[str, str], str, str]
) -> None:
    proxy, reached, code, name = component
    async with run_edge(**reached, settings=PATIENT, more={"breaker": settings(open_seconds=1)}) as edge:
        here = sender.at(edge)
        assert (await offered(here)).status == 202
        proxy.cut()
        refused = await opened(here, code)
        assert refused.headers["retry-after"] == "1"
        assert 0 < refused.document["retry_after_ms"] <= 1_000
        assert f"circuit {name}" in str((await here.client.ask("GET", "/readyz")).document)
        assert (await here.client.ask("GET", "/livez")).status == 200
        proxy.restore()

        async def accepted() -> bool:
            return (await offered(here)).status == 202

        await until(accepted)
        for _ in range(2 * PROBES):
            await until(accepted)
        assert "circuit" not in str((await here.client.ask("GET", "/readyz")).document)


async def test_an_open_circuit_stays_open_for_its_time_and_says_how_long(
    sender: Sender, run_edge: RunEdge, postgres_proxy: Proxied
) -> None:
    proxy, dsn = postgres_proxy
    async with run_edge(postgres_dsn=dsn, settings=PATIENT, more={"breaker": settings(open_seconds=600)}) as edge:
        here = sender.at(edge)
        assert (await offered(here)).status == 202
        proxy.cut()
        refused = await opened(here, "STORE_UNAVAILABLE")
        assert 590 <= int(refused.headers["retry-after"]) <= 600
        proxy.restore()
        again = await offered(here)
        assert (again.status, again.code) == (503, "CIRCUIT_OPEN")


async def test_a_probe_that_fails_opens_the_circuit_again(
    sender: Sender, run_edge: RunEdge, redis_proxy: Proxied
) -> None:
    proxy, url = redis_proxy
    async with run_edge(redis_url=url, settings=PATIENT, more={"breaker": settings(open_seconds=1)}) as edge:
        here = sender.at(edge)
        assert (await offered(here)).status == 202
        proxy.cut()
        await opened(here, "RATE_LIMIT_BACKEND_UNAVAILABLE")

        async def probed() -> bool:
            return (await offered(here)).code == "RATE_LIMIT_BACKEND_UNAVAILABLE"

        await until(probed)
        answer = await offered(here)
        assert (answer.status, answer.code) == (503, "CIRCUIT_OPEN")


async def test_refusals_of_the_senders_own_making_open_no_circuit(sender: Sender, run_edge: RunEdge) -> None:
    async with run_edge(settings=PATIENT, more={"breaker": settings(open_seconds=600)}) as edge:
        here = sender.at(edge)
        for _ in range(2 * SAMPLES_MIN):
            assert (await here.client.ingest(here.body(source=...))).status == 400
        body = here.body()
        assert (await here.client.ingest(body)).status == 202
        for number in range(2 * SAMPLES_MIN):
            assert (await here.client.ingest(here.body(payload={"other": number}))).status == 422
        assert (await offered(here)).status == 202
        assert "circuit" not in str((await here.client.ask("GET", "/readyz")).document)
