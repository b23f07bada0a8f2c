"""A component that keeps failing is spared: the exact codes, no effect, a few probes, and recovery by itself."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.break_glass import PAYLOAD_TYPE, ArmedDocument
from edge.circuit import SAMPLES_MIN
from edge.settings import BreakerSettings
from ops.clock import SystemClock
from schemas.canonical import canonical_plain
from schemas.units import UnixMs, format_rfc3339
from sinks.signing import Signer
from tests.contract.conftest import RunEdge, Sender
from tests.contract.proxy import Proxy
from tests.contract.wire import Answer

Proxied = tuple[Proxy, str]
PROBES = 4
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
    async with run_edge(**reached, more={"breaker": settings(open_seconds=1)}) as edge:
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
    async with run_edge(postgres_dsn=dsn, more={"breaker": settings(open_seconds=600)}) as edge:
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
    async with run_edge(redis_url=url, more={"breaker": settings(open_seconds=1)}) as edge:
        here = sender.at(edge)
        assert (await offered(here)).status == 202
        proxy.cut()
        await opened(here, "RATE_LIMIT_BACKEND_UNAVAILABLE")

        async def probed() -> bool:
            return (await offered(here)).code == "RATE_LIMIT_BACKEND_UNAVAILABLE"

        await until(probed)
        answer = await offered(here)
        assert (answer.status, answer.code) == (503, "CIRCUIT_OPEN")


def armed(directory: Path) -> dict[str, Any]:
    """The settings of an edge for which an emergency override is in force."""
    key = Ed25519PrivateKey.generate()
    file, public_key_file = directory / "break-glass.json", directory / "key.pub"
    public_key_file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    now_ms = SystemClock().now_ms()
    fields = {
        "id": "override-1",
        "environment": "dev",
        "not_before": format_rfc3339(now_ms),
        "not_after": format_rfc3339(UnixMs(now_ms + 1_800_000)),
        "reason": "Redis is down",
        "operator": "jo",
    }
    document = Signer(key).sign(PAYLOAD_TYPE, canonical_plain(fields))
    ArmedDocument(file, str(public_key_file), "dev", SystemClock()).arm(document)
    return {"break_glass_file": file, "break_glass_public_key_file": str(public_key_file)}


async def test_under_the_emergency_override_a_circuit_closes_again_without_redis(
    sender: Sender, run_edge: RunEdge, postgres_proxy: Proxied, redis_proxy: Proxied, tmp_path: Path
) -> None:
    (postgres, dsn), (redis, url) = postgres_proxy, redis_proxy
    more = {"breaker": settings(open_seconds=1), **armed(tmp_path)}
    async with run_edge(postgres_dsn=dsn, redis_url=url, more=more) as edge:
        here = sender.at(edge)
        redis.cut()

        async def accepted() -> bool:
            return (await offered(here)).status == 202

        await until(accepted)
        postgres.cut()
        await opened(here, "STORE_UNAVAILABLE")
        postgres.restore()
        await until(accepted)
        for _ in range(2 * PROBES):
            await until(accepted)
        assert "circuit postgres" not in str((await here.client.ask("GET", "/readyz")).document)
        redis.restore()


async def test_refusals_of_the_senders_own_making_open_no_circuit(sender: Sender, run_edge: RunEdge) -> None:
    async with run_edge(more={"breaker": settings(open_seconds=600)}) as edge:
        here = sender.at(edge)
        for _ in range(2 * SAMPLES_MIN):
            assert (await here.client.ingest(here.body(source=...))).status == 400
        body = here.body()
        assert (await here.client.ingest(body)).status == 202
        for number in range(2 * SAMPLES_MIN):
            assert (await here.client.ingest(here.body(payload={"other": number}))).status == 422
        assert (await offered(here)).status == 202
        assert "circuit" not in str((await here.client.ask("GET", "/readyz")).document)
