"""Every code of the contract is met by somebody who speaks plain HTTP to a real edge: one way to each, in one table."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from edge.ports import Depth
from edge.protocol import EdgeProtocol
from edge.redis_store import redis_client
from ops.clock import SystemClock
from ops.commands.agent_key import AgentKey, new_agent_key
from schemas.answers import Duplicate, NoAnswer, PublishOutcome, Refused
from schemas.codes import TABLE, Code, Retry
from schemas.principal import Scope
from schemas.units import Clock, UnixMs
from sinks.agent_keys import AgentKeys
from sinks.api_keys import ApiKeys
from sinks.pg import Pool
from tests.contract.conftest import RunEdge, Sender
from tests.contract.proxy import Proxy
from tests.contract.running import GENEROUS, SETTINGS, ShiftedClock
from tests.contract.wire import Answer, Client, Connection, head

Proxied = tuple[Proxy, str]
STRICT = dataclasses.replace(SETTINGS, integrity_required=True)


class Scene(NamedTuple):
    """What a way may use: a tenant, edges, and the servers behind them."""

    sender: Sender
    run_edge: RunEdge
    pool: Pool
    redis_admin_url: str
    redis: Proxied
    postgres: Proxied


Way = Callable[[Scene], Awaitable[Answer]]


@pytest.fixture
def scene(
    sender: Sender, run_edge: RunEdge, operator_pool: Pool, redis: str, redis_proxy: Proxied, postgres_proxy: Proxied
) -> Scene:
    return Scene(sender, run_edge, operator_pool, redis, redis_proxy, postgres_proxy)


def body(**changes: Any) -> Way:
    """A sound envelope but for these fields."""
    return lambda scene: scene.sender.client.ingest(scene.sender.body(**changes))


def raw(data: bytes) -> Way:
    return lambda scene: scene.sender.client.ingest(data)


def fields(*named: str) -> Way:
    """A sound envelope under these header fields."""
    return lambda scene: scene.sender.client.ingest(scene.sender.body(), *named)


def asked(method: str, path: str) -> Way:
    return lambda scene: scene.sender.client.ask(method, path)


def elsewhere(way: Way, **wiring: Any) -> Way:
    """The way, at an edge that is wired otherwise."""

    async def at_that_edge(scene: Scene) -> Answer:
        async with scene.run_edge(**wiring) as edge:
            return await way(scene._replace(sender=scene.sender.at(edge)))

    return at_that_edge


class Deep:
    """A depth view that shows every tenant the same."""

    def __init__(self, messages: int) -> None:
        self._messages = messages

    def of(self, _tenant_id: str) -> Depth | None:
        return Depth(self._messages, 0.0)


class Broker:
    """A broker with one answer to everything, and no message."""

    def __init__(self, outcome: PublishOutcome) -> None:
        self._outcome = outcome

    def submit(self, *_message: object) -> "asyncio.Future[PublishOutcome]":
        answer: asyncio.Future[PublishOutcome] = asyncio.get_running_loop().create_future()
        answer.set_result(self._outcome)
        return answer

    async def stored_message(self, _stream: str, _seq: int) -> bytes | None:
        return None

    async def oldest_stored_ms(self, _subject: str) -> UnixMs | None:
        return None

    def answer_ms(self) -> float:
        return 0.0

    def durability_proven(self) -> bool:
        return True

    def remembers_since_ms(self) -> UnixMs:
        return UnixMs(0)

    def forgotten_before_ms(self) -> UnixMs:
        return UnixMs(0)


class Altered:
    """Evidence that is not what was signed."""

    async def evidence_of(self, _tenant_id: str, _event_id: str, _agent_id: str | None) -> bytes | None:
        raise NoAnswer(Code.EVIDENCE_UNVERIFIED)


def broker(outcome: PublishOutcome) -> dict[str, Any]:
    return {"ports": {"publisher": Broker(outcome)}}


async def taken_by_another_body(scene: Scene) -> Answer:
    await body()(scene)
    return await body(payload={"other": True})(scene)


async def without_the_scope(scene: Scene) -> Answer:
    reader = await ApiKeys(scene.pool).issue(scene.sender.tenant_id, None, [Scope.EVENTS_READ])
    return await Client(scene.sender.client.port, reader.secret).ingest(scene.sender.body())


async def without_a_length(scene: Scene) -> Answer:
    client = scene.sender.client
    return await answered(scene.sender, head("POST", "/ingest", client.credential, "Content-Type: application/json"))


async def too_slow(scene: Scene) -> Answer:
    """A head that does not end."""
    usual = EdgeProtocol.limits
    EdgeProtocol.limits = dataclasses.replace(usual, head_ms_max=50)
    try:
        async with await Connection.open(scene.sender.client.port) as connection:
            connection.send(head("POST", "/ingest")[:-2])
            return await connection.answer()
    finally:
        EdgeProtocol.limits = usual


def signed(key: AgentKey, sender: Sender, clock: Clock) -> bytes:
    """A signed request of the sender's envelope."""
    data = sender.body()
    named = {
        "content-type": "application/json",
        "x-request-id": "signed-1",
        "x-event-id": "evt-1",
        "x-trace-id": sender.envelope()["trace_id"],
    }
    sent = key.sign("edge", "/ingest", data, named, clock)
    return sender.client.request("POST", "/ingest", data, *(f"{name}: {value}" for name, value in sent.items()))


async def answered(sender: Sender, request: bytes) -> Answer:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(request)
        return await connection.answer()


async def by_a_key_nobody_issued(scene: Scene) -> Answer:
    key = new_agent_key(scene.sender.tenant_id, "agent-7")
    return await answered(scene.sender, signed(key, scene.sender, SystemClock()))


async def by_an_agent(scene: Scene, clock: Clock) -> bytes:
    """A request signed by a key that has been there for long."""
    key = new_agent_key(scene.sender.tenant_id, "agent-7")
    await AgentKeys(scene.pool).issue(scene.sender.tenant_id, "agent-7", key.public_key, not_before_ms=UnixMs(1))
    client = redis_client(scene.redis_admin_url)
    await client.set(f"fg:{{{scene.sender.tenant_id}}}:ep", "1")
    await client.aclose()
    return signed(key, scene.sender, clock)


async def signed_long_ago(scene: Scene) -> Answer:
    return await answered(scene.sender, await by_an_agent(scene, ShiftedClock(-200_000)))


async def the_same_signature_twice(scene: Scene) -> Answer:
    request = await by_an_agent(scene, SystemClock())
    first = await answered(scene.sender, request)
    assert first.status == 202, first.body
    return await answered(scene.sender, request)


async def over_the_rate(scene: Scene) -> Answer:
    async with scene.run_edge(rates=dataclasses.replace(GENEROUS, rps_base=1, rps_burst=1)) as edge:
        here = scene.sender.at(edge)
        number = 0
        while (answer := await here.client.ingest(here.body(event_id=f"evt-{number}"))).status == 202:
            number += 1
        return answer


async def with_redis_cut(scene: Scene) -> Answer:
    proxy, url = scene.redis
    async with scene.run_edge(redis_url=url) as edge:
        proxy.cut()
        return await body()(scene._replace(sender=scene.sender.at(edge)))


async def with_redis_cut_for_long(scene: Scene) -> Answer:
    proxy, url = scene.redis
    async with scene.run_edge(redis_url=url) as edge, asyncio.timeout(60):
        here = scene._replace(sender=scene.sender.at(edge))
        proxy.cut()
        while (answer := await body()(here)).code == Code.RATE_LIMIT_BACKEND_UNAVAILABLE:
            continue
        return answer


async def with_postgres_cut(scene: Scene) -> Answer:
    proxy, dsn = scene.postgres
    async with scene.run_edge(postgres_dsn=dsn) as edge:
        proxy.cut()
        return await body()(scene._replace(sender=scene.sender.at(edge)))


REQUIRED = (*("tenant_id", "event_id", "trace_id", "agent_id", "schema_version", "created_at", "source", "payload"),)
WAYS: dict[Code, Way] = {
    **{Code[f"{name.upper()}_REQUIRED"]: body(**{name: ...}) for name in REQUIRED},
    **{Code[f"{name.upper()}_INVALID"]: body(**{name: 7}) for name in (*REQUIRED, "integrity_hash")},
    Code.INTEGRITY_HASH_REQUIRED: elsewhere(body(), settings=STRICT),
    Code.INTEGRITY_HASH_MISMATCH: body(integrity_hash="sha256:" + "0" * 64),
    Code.REQUEST_ID_INVALID: fields("X-Request-Id: two words"),
    Code.SCHEMA_VERSION_UNSUPPORTED: body(schema_version="2.0"),
    Code.MALFORMED_JSON: raw(b"{"),
    Code.DUPLICATE_KEY: raw(b'{"a":1,"\\u0061":2}'),
    Code.JSON_TOO_DEEP: raw(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}"),
    Code.TRACE_ID_CONFLICT: fields("X-Trace-Id: 018f7e20-6d6f-7e20-a3f1-9eb6b7a1f113"),
    Code.EVENT_ID_CONFLICT: fields("X-Event-Id: evt-2"),
    Code.IDEMPOTENCY_KEY_CONFLICT: fields("Idempotency-Key: evt-2"),
    Code.MALFORMED_REQUEST: fields("X_Tenant_Id: acme"),
    Code.AUTHENTICATION_REQUIRED: fields("Authorization: Bearer wrong"),
    Code.SIGNATURE_INVALID: by_a_key_nobody_issued,
    Code.SIGNATURE_COMPONENTS_INVALID: fields("Signature: sig1=:AAAA:"),
    Code.REPLAY_DETECTED: the_same_signature_twice,
    Code.REPLAY_WINDOW_CLOSED: signed_long_ago,
    Code.TENANT_MISMATCH: body(tenant_id="someone-else"),
    Code.SCOPE_DENIED: without_the_scope,
    Code.NOT_FOUND: asked("GET", "/v1/events/never-seen"),
    Code.METHOD_NOT_ALLOWED: asked("GET", "/ingest"),
    Code.REQUEST_TIMEOUT: too_slow,
    Code.EVENT_IN_FLIGHT: elsewhere(body(), **broker(Duplicate("FG_INGEST_0", 2**40))),
    Code.EVENT_ID_PAYLOAD_MISMATCH: taken_by_another_body,
    Code.LENGTH_REQUIRED: without_a_length,
    Code.PAYLOAD_TOO_LARGE: raw(b" " * (SETTINGS.body_bytes_max + 1)),
    Code.UNSUPPORTED_MEDIA_TYPE: fields("Content-Type: text/plain"),
    Code.HEADERS_TOO_LARGE: fields("X-Long: " + "a" * SETTINGS.header_bytes_max),
    Code.RATE_LIMITED: over_the_rate,
    Code.QUOTA_EXCEEDED: elsewhere(body(), rates=dataclasses.replace(GENEROUS, events_per_month_by_tier=(("pro", 0),))),
    Code.INGEST_BACKPRESSURE_SHED: elsewhere(body(), ports={"depths": Deep(8_000)}),
    Code.INGEST_BACKPRESSURE_HARDSTOP: elsewhere(body(), ports={"depths": Deep(12_000)}),
    Code.CIRCUIT_OPEN: with_redis_cut_for_long,
    Code.RATE_LIMIT_BACKEND_UNAVAILABLE: with_redis_cut,
    Code.STREAM_UNAVAILABLE: elsewhere(body(), **broker(Refused(Code.STREAM_UNAVAILABLE))),
    Code.STORE_UNAVAILABLE: with_postgres_cut,
    Code.OUTCOME_UNKNOWN: elsewhere(body(), **broker(Refused(Code.OUTCOME_UNKNOWN))),
    Code.DURABILITY_UNPROVEN: elsewhere(body(), proves_durability=False),
    Code.EVIDENCE_UNVERIFIED: elsewhere(asked("GET", "/v1/evidence/evt-1"), ports={"evidence": Altered()}),
    Code.CLOCK_SKEW: elsewhere(body(), ports={"clock_skewed": lambda: True}),
}
"""A new code without a way to it fails below."""


def test_there_is_a_way_to_every_code_and_to_nothing_else() -> None:
    assert set(WAYS) == set(Code)


@pytest.mark.parametrize("code", Code)
async def test_every_code_comes_over_the_wire_with_its_status_and_its_advice(scene: Scene, code: Code) -> None:
    answer = await WAYS[code](scene)
    assert (answer.code, answer.status) == (code, TABLE[code].status)
    again = TABLE[code].retry is not Retry.NEVER
    assert again == ("retry-after" in answer.headers) == (answer.document["retry_after_ms"] is not None)
    if again:
        assert int(answer.headers["retry-after"]) >= 1
    assert answer.document["instance"] == f"urn:frostgate:request:{answer.headers['x-request-id']}"
