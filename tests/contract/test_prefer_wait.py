"""`Prefer: wait=N`: the decision when it comes in time, else the receipt; no worker runs here but the test."""

import asyncio
from typing import Any

import msgspec

from ops.clock import SystemClock
from schemas.envelope import Receipt
from schemas.units import format_rfc3339
from sinks.dead_letters import DeadLetters
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.contract.conftest import RunEdge, Sender, until_hinted
from tests.contract.proxy import Proxy
from tests.contract.wire import Answer
from tests.integration.sinks import make

MADE = format_rfc3339(SystemClock().now_ms())


def body_of(sender: Sender, event_id: str = "evt-1") -> bytes:
    """The same bytes every time."""
    return sender.body(event_id=event_id, created_at=MADE)


async def decide(worker: Pool, sender: Sender, event_id: str) -> None:
    await DecisionLedger(worker).record([make.record(sender.tenant_id, event_id)])


async def accepted(sender: Sender, event_id: str) -> Answer:
    answer = await sender.client.ingest(body_of(sender, event_id))
    assert answer.status == 202
    return answer


async def test_who_prefers_to_wait_gets_the_decision_once_it_is_made(sender: Sender, worker_pool: Pool) -> None:
    waiting = asyncio.create_task(sender.client.ingest(body_of(sender), "Prefer: respond-async, wait=10"))
    async with asyncio.timeout(20):
        while (await sender.client.ingest(body_of(sender))).headers.get("idempotency-replayed") != "true":
            continue
    await decide(worker_pool, sender, "evt-1")
    answer = await waiting
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["preference-applied"] == "wait=10"
    document = answer.document
    assert (document["status"], document["event_id"], document["verdict"]) == ("decided", "evt-1", "deny")
    assert document["chain_seq"] == 1


async def test_a_decision_that_is_not_made_in_time_leaves_the_receipt(sender: Sender) -> None:
    answer = await sender.client.ingest(body_of(sender), "Prefer: wait=1")
    assert answer.status == 202
    assert "preference-applied" not in answer.headers
    assert msgspec.json.decode(answer.body, type=Receipt).event_id == "evt-1"
    assert (await sender.client.ingest(body_of(sender))).body == answer.body


async def test_a_duplicate_that_waits_gets_the_decision_and_one_that_does_not_the_first_receipt(
    sender: Sender, worker_pool: Pool
) -> None:
    first = await accepted(sender, "evt-1")
    await decide(worker_pool, sender, "evt-1")
    waited = await sender.client.ingest(body_of(sender), "Prefer: wait=10")
    assert (waited.status, waited.document["status"]) == (200, "decided")
    assert waited.headers["idempotency-replayed"] == "true"
    again = await sender.client.ingest(body_of(sender))
    assert (again.status, again.body) == (202, first.body)


async def test_a_dead_event_is_an_answer_too(sender: Sender, worker_pool: Pool) -> None:
    await accepted(sender, "evt-1")
    await DeadLetters(worker_pool, make.SHA_A).bury([make.letter(sender.tenant_id, "evt-1")])
    answer = await sender.client.ingest(body_of(sender), "Prefer: wait=10")
    assert (answer.status, answer.document["status"], answer.document["reason_code"]) == (200, "dead", "poison")


async def test_a_malformed_preference_is_no_preference(sender: Sender, worker_pool: Pool) -> None:
    first = await accepted(sender, "evt-1")
    await decide(worker_pool, sender, "evt-1")
    for field in ("wait", "wait=x", "wait=-1", 'wait="', "respond-async", "wait=0"):
        answer = await sender.client.ingest(body_of(sender), f"Prefer: {field}")
        assert (answer.status, answer.body) == (202, first.body), field


async def test_a_refusal_does_not_wait(sender: Sender) -> None:
    answer = await sender.client.ingest(sender.body(source=...), "Prefer: wait=10")
    assert (answer.status, answer.code) == (400, "SOURCE_REQUIRED")


async def test_with_postgres_away_who_waits_gets_the_receipt(
    sender: Sender, run_edge: RunEdge, postgres_proxy: tuple[Proxy, str], redis: str
) -> None:
    proxy, dsn = postgres_proxy
    async with run_edge(postgres_dsn=dsn) as edge:
        here = sender.at(edge)
        first = await accepted(here, "evt-1")
        await until_hinted(redis, here)
        proxy.cut()
        answer = await here.client.ingest(body_of(here), "Prefer: wait=10")
        assert (answer.status, answer.body) == (202, first.body)


async def test_who_waits_when_the_edge_stops_gets_the_receipt(sender: Sender, run_edge: RunEdge) -> None:
    async with run_edge() as edge:
        here = sender.at(edge)
        waiting = asyncio.create_task(here.client.ingest(body_of(here), "Prefer: wait=10"))
        async with asyncio.timeout(20):
            while (await here.client.ingest(body_of(here))).headers.get("idempotency-replayed") != "true":
                continue
    answer = await waiting
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    assert msgspec.json.decode(answer.body, type=Receipt).event_id == "evt-1"


async def test_many_who_wait_each_get_their_own_decision(sender: Sender, worker_pool: Pool) -> None:
    names = [f"evt-{number}" for number in range(20)]
    for name in names:
        await accepted(sender, name)
    asked: list[Any] = [sender.client.ingest(body_of(sender, name), "Prefer: wait=10") for name in names]
    waiting = asyncio.gather(*asked)
    for name in names:
        await decide(worker_pool, sender, name)
    assert [answer.document["event_id"] for answer in await waiting] == names
