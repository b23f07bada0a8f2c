"""The first answer, again: to the byte, whatever was restarted, flushed or asked instead in between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.redis_store import redis_client
from ops.embedded import EmbeddedServers
from schemas.answers import PublishOutcome, Refused
from schemas.codes import Code
from schemas.subjects import ingest_stream, lane
from sinks.pg import Pool
from streams.jetstream import JetStream
from tests.contract.conftest import RunEdge, Sender, forget_hints, until_hinted
from tests.contract.running import Edge
from tests.contract.test_codes_from_the_wire import Broker, Deep
from tests.contract.test_idempotency import claim
from tests.contract.wire import Answer

REPLAYED = "idempotency-replayed"
OF_THE_ANSWER = ("content-type", "content-length", "x-tenant-id", "x-event-id", "x-trace-id")


def is_first_answer_again(again: Answer, first: Answer) -> bool:
    """Status, body and the fields that speak of the event, to the byte; the mark of a replay on the later one alone."""
    same = (again.status, again.body) == (first.status, first.body)
    named = all(again.headers[name] == first.headers[name] for name in OF_THE_ANSWER)
    return same and named and again.headers[REPLAYED] == "true" and REPLAYED not in first.headers


@pytest.fixture
async def broker(servers: EmbeddedServers) -> AsyncIterator[JetStream]:
    jetstream = await JetStream.connect(servers.nats_url("admin"), "admin")
    yield jetstream
    await jetstream.close()


async def stored_messages(broker: JetStream, sender: Sender) -> int:
    """How many messages of the tenant the ingest stream holds. Nobody takes them away in these tests."""
    subject = lane(sender.tenant_id).ingest
    info = await broker.api(f"STREAM.INFO.{ingest_stream(0)}", {"subjects_filter": subject}, dict[str, Any])
    return int(info["state"].get("subjects", {}).get(subject, 0))


async def restart_broker(servers: EmbeddedServers, edge: Edge) -> None:
    """On return the broker runs again, and the edge of all other tests has found it sound."""
    await servers.restart("nats")
    async with asyncio.timeout(30):
        while await edge.watch.check():  # noqa: ASYNC110  (another process does the work)
            await asyncio.sleep(0.05)


async def settled_answer(sender: Sender, body: bytes) -> Answer:
    """The answer once there is one: an edge that does not know the queues' depth yet says 503, which is no effect."""
    async with asyncio.timeout(30):
        while (answer := await sender.client.ingest(body)).status == 503:  # noqa: ASYNC110  (its depth view has its own pace)
            await asyncio.sleep(0.05)
        return answer


async def flush(url: str, sender: Sender) -> None:
    """Everything the coordination store knows of the tenant is gone, as after FLUSHALL."""
    await until_hinted(url, sender)
    client = redis_client(url)
    names = [name async for name in client.scan_iter(f"fg:{{{sender.tenant_id}}}:*", count=10_000)]
    await client.delete(*names)
    await client.aclose()


async def test_an_edge_started_later_answers_as_the_one_that_is_gone(
    sender: Sender, run_edge: RunEdge, redis: str
) -> None:
    body = sender.body()
    async with run_edge() as gone:
        first = await sender.at(gone).client.ingest(body)
    async with run_edge() as one, run_edge() as other:
        for here in (sender.at(one), sender.at(other)):
            assert is_first_answer_again(await here.client.ingest(body), first)
        await forget_hints(redis, sender)
        for here in (sender.at(other), sender.at(one)):
            assert is_first_answer_again(await here.client.ingest(body), first)


@pytest.mark.parametrize("settled", [False, True], ids=["in the stream", "in Postgres"])
async def test_a_restarted_broker_and_a_flushed_store_change_no_answer(
    sender: Sender,
    servers: EmbeddedServers,
    redis: str,
    worker_pool: Pool,
    broker: JetStream,
    edge: Edge,
    *,
    settled: bool,
) -> None:
    body = sender.body()
    first = await sender.client.ingest(body)
    assert first.status == 202
    if settled:
        await claim(worker_pool, sender, first.body)
        await broker.api(f"STREAM.MSG.DELETE.{ingest_stream(0)}", {"seq": first.document["seq"]}, dict[str, Any])
    await flush(redis, sender)
    await restart_broker(servers, edge)
    before = await stored_messages(broker, sender)
    assert is_first_answer_again(await settled_answer(sender, body), first)
    other_body = await settled_answer(sender, sender.body(payload={"other": True}))
    assert (other_body.status, other_body.code) == (422, "EVENT_ID_PAYLOAD_MISMATCH")
    assert await stored_messages(broker, sender) == before


async def test_fifty_simultaneous_first_requests_at_two_edges_have_one_effect(
    sender: Sender, run_edge: RunEdge, broker: JetStream
) -> None:
    body = sender.body()
    async with run_edge() as one, run_edge() as other:
        senders = [sender.at(one), sender.at(other)] * 25
        answers = await asyncio.gather(*(here.client.ingest(body) for here in senders))
    accepted = [answer for answer in answers if answer.status == 202]
    assert len({answer.body for answer in accepted}) == 1
    assert sum(REPLAYED not in answer.headers for answer in accepted) == 1
    assert {answer.code for answer in answers if answer.status != 202} <= {"EVENT_IN_FLIGHT"}
    assert await stored_messages(broker, sender) == 1


def depth(messages: int) -> dict[str, Any]:
    return {"ports": {"depths": Deep(messages)}}


def stream(outcome: PublishOutcome) -> dict[str, Any]:
    return {"ports": {"publisher": Broker(outcome)}}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (depth(9_000), Code.INGEST_BACKPRESSURE_SHED),
        (depth(12_000), Code.INGEST_BACKPRESSURE_HARDSTOP),
        (stream(Refused(Code.STREAM_UNAVAILABLE)), Code.STREAM_UNAVAILABLE),
        (stream(Refused(Code.OUTCOME_UNKNOWN)), Code.OUTCOME_UNKNOWN),
        ({"ports": {"clock_skewed": lambda: True}}, Code.CLOCK_SKEW),
    ],
)
async def test_a_refusal_is_never_replayed_and_takes_no_id(
    sender: Sender, run_edge: RunEdge, broker: JetStream, changes: dict[str, Any], code: Code
) -> None:
    body = sender.body()
    async with run_edge(**changes) as refusing:
        for _ in range(2):
            refused = await sender.at(refusing).client.ingest(body)
            assert refused.code == code
            assert REPLAYED not in refused.headers
    assert await stored_messages(broker, sender) == 0
    first = await sender.client.ingest(sender.body(payload={"another": "body is as welcome"}))
    assert first.status == 202
    assert REPLAYED not in first.headers


async def test_a_malformed_first_attempt_leaves_the_id_to_the_right_one(sender: Sender) -> None:
    assert (await sender.client.ingest(sender.body(payload=7))).status == 400
    first = await sender.client.ingest(sender.body())
    assert first.status == 202
    assert REPLAYED not in first.headers
