"""One event, one effect, one receipt: byte for byte, whoever remembers it."""

import asyncio
import json

import msgspec
import pytest

from schemas.envelope import EventKey
from schemas.rows import Claim, ClaimOutcome
from schemas.units import format_rfc3339
from sinks.event_keys import EventKeys
from sinks.pg import Pool
from tests.contract.conftest import RunEdge, Sender, forget_hints, until_hinted
from tests.contract.running import DAY_MS, Edge, ShiftedClock
from tests.contract.wire import Answer, Client

REPLAYED = "idempotency-replayed"


def is_replay_of(answer: Answer, first: Answer) -> bool:
    same = (answer.status, answer.body) == (first.status, first.body)
    return same and answer.headers.get(REPLAYED) == "true" and REPLAYED not in first.headers


async def claim(pool: Pool, sender: Sender, receipt: bytes) -> None:
    """Commit the key of a receipt, as the dedupe stage does."""
    fields = msgspec.json.decode(receipt)
    key = EventKey(**{name: fields[name] for name in EventKey._fields})
    outcome = await EventKeys(pool).claim([Claim(key, "agent-7", "sensor/edge", sender.body())])
    assert outcome == [ClaimOutcome.CLAIMED]


async def test_a_retry_gets_the_first_receipt_byte_for_byte(sender: Sender, redis: str) -> None:
    body = sender.body()
    first = await sender.client.ingest(body)
    await until_hinted(redis, sender)
    for _ in range(3):
        again = await sender.client.ingest(body, "X-Request-Id: another-request")
        assert is_replay_of(again, first)
        assert again.headers["x-request-id"] == "another-request"


async def test_the_same_json_in_other_bytes_is_the_same_event(sender: Sender) -> None:
    envelope = sender.envelope(payload={"b": 1.0, "a": "\u00e9"})
    first = await sender.client.ingest(msgspec.json.encode(envelope))
    other_bytes = json.dumps(dict(reversed(envelope.items())), indent=3).encode()
    assert is_replay_of(await sender.client.ingest(other_bytes), first)


async def test_without_a_hint_the_stream_itself_tells_the_first_receipt(sender: Sender, redis: str) -> None:
    body = sender.body()
    first = await sender.client.ingest(body)
    await forget_hints(redis, sender)
    assert is_replay_of(await sender.client.ingest(body), first)


async def test_without_a_hint_postgres_tells_the_first_receipt_at_any_age(
    sender: Sender, redis: str, worker_pool: Pool, run_edge: RunEdge
) -> None:
    body = sender.body()
    first = await sender.client.ingest(body)
    await claim(worker_pool, sender, first.body)
    await forget_hints(redis, sender)
    async with run_edge(clock=ShiftedClock(30 * DAY_MS)) as much_later:
        late = sender.at(much_later)
        assert is_replay_of(await late.client.ingest(body), first)
        unknown = await late.client.ingest(sender.body(event_id="never-seen"))
        assert unknown.code == "CREATED_AT_INVALID"


async def test_while_settling_lags_behind_the_brokers_memory_no_event_gets_a_second_receipt(
    sender: Sender, other_sender: Sender, redis: str, run_edge: RunEdge
) -> None:
    """Ten minutes later the broker has forgotten the id, and Postgres has not heard of it: the message is unsettled."""
    body = sender.body()
    assert (await sender.client.ingest(body)).status == 202
    await forget_hints(redis, sender)
    clock = ShiftedClock(600_000)
    async with run_edge(clock=clock, settles=False) as later:
        late = sender.at(later)
        assert (await late.client.ingest(sender.body(event_id="never-seen"))).code == "EVENT_IN_FLIGHT"
        young = sender.body(event_id="young", created_at=format_rfc3339(clock.now_ms()))
        assert (await late.client.ingest(young)).status == 202
        there = other_sender.at(later)
        assert (await there.client.ingest(there.body())).status == 202, "nothing of theirs is unsettled"


@pytest.mark.parametrize("known_by", ["hint", "stream", "postgres"])
async def test_the_same_id_with_another_body_is_refused(
    sender: Sender, redis: str, worker_pool: Pool, known_by: str
) -> None:
    first = await sender.client.ingest(sender.body())
    if known_by == "postgres":
        await claim(worker_pool, sender, first.body)
    await (until_hinted if known_by == "hint" else forget_hints)(redis, sender)
    answer = await sender.client.ingest(sender.body(payload={"other": True}))
    assert (answer.status, answer.code) == (422, "EVENT_ID_PAYLOAD_MISMATCH")


async def test_the_same_id_of_another_tenant_is_another_event(sender: Sender, other_sender: Sender) -> None:
    first = await sender.client.ingest(sender.body())
    other = await other_sender.client.ingest(other_sender.body())
    assert first.status == other.status == 202
    assert REPLAYED not in other.headers
    assert first.document["seq"] != other.document["seq"]


async def test_fifty_simultaneous_first_requests_have_one_effect(sender: Sender) -> None:
    body = sender.body()
    answers = await asyncio.gather(*(sender.client.ingest(body) for _ in range(50)))
    accepted = [answer for answer in answers if answer.status == 202]
    assert sum(REPLAYED not in answer.headers for answer in accepted) == 1
    assert len({answer.body for answer in accepted}) == 1
    for answer in answers:
        assert answer.status == 202 or answer.code == "EVENT_IN_FLIGHT"
    await until_replayed(sender.client, body, accepted[0])


async def until_replayed(client: Client, body: bytes, first: Answer) -> None:
    while (answer := await client.ingest(body)).status == 409:
        assert answer.headers["retry-after"] == "1"
    assert is_replay_of(answer, Answer(first.status, {}, first.body))


async def test_fifty_simultaneous_requests_with_two_bodies_accept_only_one_of_them(sender: Sender) -> None:
    bodies = [sender.body(payload={"body": number % 2}) for number in range(50)]
    answers = await asyncio.gather(*(sender.client.ingest(body) for body in bodies))
    winners = {number % 2 for number, answer in enumerate(answers) if answer.status == 202}
    assert len(winners) == 1
    assert {answer.code for answer in answers if answer.status != 202} <= {
        "EVENT_ID_PAYLOAD_MISMATCH",
        "EVENT_IN_FLIGHT",
    }


async def test_a_batch_answers_each_line_with_its_own_receipt(sender: Sender) -> None:
    bodies = [sender.body(event_id=f"evt-{number}") for number in range(300)]
    first = await sender.client.batch(*bodies)
    assert (first.status, first.headers["content-type"]) == (200, "application/x-ndjson")
    assert [line["event_id"] for line in first.lines] == [f"evt-{number}" for number in range(300)]
    assert {line["replayed"] for line in first.lines} == {False}
    assert len({line["seq"] for line in first.lines}) == 300
    again = await sender.client.batch(*reversed(bodies))
    for line, earlier in zip(again.lines, reversed(first.lines), strict=True):
        assert line == earlier | {"line": line["line"], "replayed": True}
    single = await sender.client.ingest(bodies[7])
    fields = single.body.removeprefix(b'{"status":"accepted",').removesuffix(b"}")
    assert b'{"line":8,"status":202,' + fields + b',"replayed":false}' == first.body.splitlines()[7]


async def test_within_a_batch_the_first_of_an_id_wins_and_bad_lines_harm_nobody(sender: Sender) -> None:
    body, other = sender.body(), sender.body(payload={"other": True})
    answer = await sender.client.batch(b"{", body, body, other, b"", sender.body(event_id="evt-2"), b"")
    assert [(line["status"], line.get("error_code"), line.get("replayed")) for line in answer.lines] == [
        (400, "MALFORMED_JSON", None),
        (202, None, False),
        (202, None, True),
        (422, "EVENT_ID_PAYLOAD_MISMATCH", None),
        (400, "MALFORMED_JSON", None),
        (202, None, False),
    ]
    assert is_replay_of(await sender.client.ingest(body), Answer(202, {}, (await sender.client.ingest(body)).body))


async def test_a_batch_replays_from_the_stream_too(sender: Sender, redis: str) -> None:
    bodies = [sender.body(event_id=f"evt-{number}") for number in range(50)]
    first = await sender.client.batch(*bodies)
    await forget_hints(redis, sender, count=50)
    again = await sender.client.batch(*bodies)
    assert [line["seq"] for line in again.lines] == [line["seq"] for line in first.lines]
    assert {line["replayed"] for line in again.lines} == {True}


async def test_a_life_is_shown_to_its_tenant_alone_and_foreign_looks_like_unknown(
    sender: Sender, other_sender: Sender, worker_pool: Pool, edge: Edge
) -> None:
    first = await sender.client.ingest(sender.body())
    await claim(worker_pool, sender, first.body)
    own = await sender.client.ask("GET", "/v1/events/evt-1")
    assert (own.status, own.document["event_id"]) == (200, "evt-1")
    asked = ["evt-1", "never-seen", "%00", "a/b", ""]
    answers = [
        await other_sender.client.ask("GET", f"/v1/events/{event_id}", b"", "X-Request-Id: same") for event_id in asked
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "NOT_FOUND")}
    assert len({answer.body for answer in answers}) == 1
    assert len({tuple(set(answer.headers) - {"date"}) for answer in answers}) == 1
    assert other_sender.client.port == edge.port
