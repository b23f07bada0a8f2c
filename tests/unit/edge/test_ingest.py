"""From admitted envelopes to verdicts, whatever the ports say."""

from collections.abc import Sequence
from typing import Any

import pytest

from edge.admit import Admitted, Contract
from edge.ingest import Accepted, Ingest, Origin, Settled, Verdict
from edge.ports import Nonce
from edge.settings import EdgeSettings
from schemas.codes import Code
from schemas.envelope import EventKey, receipt
from schemas.principal import Principal
from schemas.subjects import lane
from schemas.units import UnixMs, format_rfc3339
from tests.unit.edge.conftest import DAY_MS, NOW_MS, STREAM, World, body_of

ORIGIN = Origin("request-0", "00000000000000aa", "01")
SENDER = Principal("k1", "acme", None, frozenset({"ingest"}), "free")
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)


def event(**changes: Any) -> Admitted:
    admitted = Contract(SETTINGS).admit(body_of(**changes), NOW_MS)
    assert isinstance(admitted, Admitted)
    return admitted


class Flow:
    """The flow for one sender: verdicts alone, those of a refused request for each of its events."""

    def __init__(self, world: World) -> None:
        self._ingest = Ingest(world.ports, SETTINGS)

    async def settle(self, events: Sequence[Admitted], origin: Origin, nonce: Nonce | None = None) -> list[Verdict]:
        settled = await self._ingest.settle(events, SENDER, origin, nonce)
        return settled.verdicts if isinstance(settled, Settled) else [settled] * len(events)


@pytest.fixture
def ingest(world: World) -> Flow:
    return Flow(world)


def key_of(verdict: Verdict) -> EventKey:
    assert isinstance(verdict, Accepted)
    return verdict.key


def code_of(verdict: Verdict) -> Code:
    assert not isinstance(verdict, Accepted)
    return verdict[0].error_code


def created(before_now_ms: int) -> str:
    return format_rfc3339(UnixMs(NOW_MS - before_now_ms))


async def test_a_new_event_is_published_and_hinted(world: World, ingest: Flow) -> None:
    (verdict,) = await ingest.settle([event()], ORIGIN)
    key = key_of(verdict)
    assert verdict == Accepted(key, replayed=False)
    assert (key.stream, key.seq, key.request_id, key.ingest_ts) == (STREAM, 1, "request-0", format_rfc3339(NOW_MS))
    assert world.memory.keys == {("acme", "evt-1"): key}


@pytest.mark.parametrize("source", ["hint", "postgres", "stream", "postgres after the stream"])
async def test_a_duplicate_gets_the_first_receipt_from_whoever_knows_it(
    world: World, ingest: Flow, source: str
) -> None:
    (first,) = await ingest.settle([event()], ORIGIN)
    if source != "hint":
        world.memory.keys.clear()
    if source in {"postgres", "postgres after the stream"}:
        world.table.keys = world.broker.settle()
    if source == "postgres after the stream":
        known, world.table.keys = world.table.keys, {}
        stored = world.table.stored

        async def late(identities: Any) -> Any:
            answer = await stored(identities)
            world.table.keys = known  # dedupe commits just after the first look-up
            return answer

        world.table.stored = late  # type: ignore[method-assign]  # the race needs a hand in the middle
    world.clock.advance(60_000)
    (again,) = await ingest.settle([event()], Origin("request-9", "00000000000000bb", "01"))
    assert again == Accepted(key_of(first), replayed=True)
    assert receipt(key_of(again)) == receipt(key_of(first))
    (other,) = await ingest.settle([event(source="another body")], ORIGIN)
    assert code_of(other) is Code.EVENT_ID_PAYLOAD_MISMATCH
    assert len(world.broker.by_id) == 1
    assert ("acme", "evt-1") in world.memory.keys, "whoever answered, the next duplicate finds a hint"


async def test_a_duplicate_nobody_can_show_is_in_flight(world: World, ingest: Flow) -> None:
    await ingest.settle([event()], ORIGIN)
    world.memory.keys.clear()
    world.broker.settle()  # taken from the stream, not yet seen in the table
    (verdict,) = await ingest.settle([event()], ORIGIN)
    assert code_of(verdict) is Code.EVENT_IN_FLIGHT


@pytest.mark.parametrize("data", [b"not json", b"{}", b"\xff"])
async def test_a_first_message_that_cannot_be_read_is_no_receipt(world: World, ingest: Flow, data: bytes) -> None:
    await ingest.settle([event()], ORIGIN)
    world.memory.keys.clear()
    world.broker.messages[1] = data
    (verdict,) = await ingest.settle([event()], ORIGIN)
    assert code_of(verdict) is Code.EVENT_IN_FLIGHT


async def test_a_stream_that_cannot_be_read_refuses_the_duplicate(world: World, ingest: Flow) -> None:
    await ingest.settle([event()], ORIGIN)
    world.memory.keys.clear()
    world.broker.reads = False
    (verdict,) = await ingest.settle([event()], ORIGIN)
    assert code_of(verdict) is Code.STREAM_UNAVAILABLE


@pytest.mark.parametrize(
    "code",
    [Code.INGEST_BACKPRESSURE_HARDSTOP, Code.STREAM_UNAVAILABLE, Code.OUTCOME_UNKNOWN, Code.EVENT_IN_FLIGHT],
)
async def test_what_the_stream_refuses_is_refused_with_its_code_and_not_hinted(
    world: World, ingest: Flow, code: Code
) -> None:
    world.broker.refuses = code
    (verdict,) = await ingest.settle([event()], ORIGIN)
    assert code_of(verdict) is code
    assert world.memory.keys == {}


async def test_without_redis_nothing_goes_on(world: World, ingest: Flow) -> None:
    world.memory.answers = False
    verdicts = await ingest.settle([event(), event(event_id="evt-2")], ORIGIN)
    assert [code_of(one) for one in verdicts] == [Code.RATE_LIMIT_BACKEND_UNAVAILABLE] * 2
    assert world.broker.by_id == {}


async def test_without_proof_of_durability_only_duplicates_are_answered(world: World, ingest: Flow) -> None:
    (first,) = await ingest.settle([event()], ORIGIN)
    world.broker.proven = False
    duplicate, new = await ingest.settle([event(), event(event_id="evt-2")], ORIGIN)
    assert duplicate == Accepted(key_of(first), replayed=True)
    assert code_of(new) is Code.DURABILITY_UNPROVEN
    assert len(world.broker.by_id) == 1


async def test_with_postgres_away_only_events_the_broker_must_remember_go_on(world: World, ingest: Flow) -> None:
    world.table.answers = False
    old, young = await ingest.settle(
        [
            event(event_id="old", created_at=created(120_000 - 15_000)),
            event(event_id="young", created_at=created(120_000 - 15_001)),
        ],
        ORIGIN,
    )
    assert code_of(old) is Code.STORE_UNAVAILABLE
    assert isinstance(young, Accepted)
    assert list(world.broker.by_id) == ["acme/young"]


async def test_with_postgres_away_a_duplicate_is_still_told_by_hint_or_broker(world: World, ingest: Flow) -> None:
    (first,) = await ingest.settle([event(created_at=created(60_000))], ORIGIN)
    world.table.answers = False
    for _ in ("hint", "broker"):
        (again,) = await ingest.settle([event(created_at=created(60_000))], ORIGIN)
        assert again == Accepted(key_of(first), replayed=True)
        world.memory.keys.clear()
    world.broker.settle()
    (again,) = await ingest.settle([event(created_at=created(60_000))], ORIGIN)
    assert code_of(again) is Code.STORE_UNAVAILABLE


async def test_what_may_be_unsettled_and_forgotten_is_not_stored_again(world: World, ingest: Flow) -> None:
    """Settling lags behind the broker's window: the event may be in the queue though nobody knows of it."""
    world.broker.forgotten_ms = UnixMs(NOW_MS - 120_000)
    world.broker.oldest_ms = UnixMs(NOW_MS - 130_000)
    old, older, young = await ingest.settle(
        [
            event(created_at=created(110_000)),
            event(event_id="older", created_at=created(8 * DAY_MS)),
            event(event_id="young", created_at=created(100_000)),
        ],
        ORIGIN,
    )
    assert code_of(old) is code_of(older) is Code.EVENT_IN_FLIGHT
    assert isinstance(young, Accepted)
    assert world.broker.asked_oldest == [lane("acme").ingest], "once for the whole request"
    world.broker.forgotten_ms = UnixMs(0)
    (now_sure,) = await ingest.settle([event(created_at=created(110_000))], ORIGIN)
    assert isinstance(now_sure, Accepted)


@pytest.mark.parametrize("oldest_ms", [None, UnixMs(NOW_MS - 104_999)])
async def test_the_lag_of_one_tenant_bars_no_other(world: World, ingest: Flow, oldest_ms: UnixMs | None) -> None:
    world.broker.forgotten_ms = UnixMs(NOW_MS - 120_000)
    world.broker.oldest_ms = oldest_ms
    old, aged = await ingest.settle(
        [event(created_at=created(110_000)), event(event_id="aged", created_at=created(8 * DAY_MS))], ORIGIN
    )
    assert isinstance(old, Accepted)
    assert code_of(aged) is Code.CREATED_AT_INVALID


async def test_young_and_known_events_cost_no_question_about_the_lag(world: World, ingest: Flow) -> None:
    await ingest.settle([event(created_at=created(110_000))], ORIGIN)
    world.table.keys = world.broker.settle()
    world.memory.keys.clear()
    world.broker.forgotten_ms = UnixMs(NOW_MS - 120_000)
    known, young = await ingest.settle([event(created_at=created(110_000)), event(event_id="young")], ORIGIN)
    assert isinstance(known, Accepted)
    assert isinstance(young, Accepted)
    assert world.broker.asked_oldest == []


async def test_a_message_settled_between_the_questions_is_found_where_it_went(world: World, ingest: Flow) -> None:
    """Postgres did not know it yet, the queue does not hold it any more, and the broker has forgotten its id."""
    (first,) = await ingest.settle([event(created_at=created(110_000))], ORIGIN)
    world.memory.keys.clear()
    world.broker.forgotten_ms = UnixMs(NOW_MS - 120_000)

    def settle() -> None:
        world.table.keys = world.broker.settle()
        world.broker.by_id.clear()

    world.broker.settles = settle
    (again,) = await ingest.settle([event(created_at=created(110_000))], ORIGIN)
    assert again == Accepted(key_of(first), replayed=True)
    assert world.broker.by_id == {}


async def test_without_an_answer_about_the_lag_nothing_old_is_stored(world: World, ingest: Flow) -> None:
    world.broker.forgotten_ms = UnixMs(NOW_MS - 120_000)
    world.broker.reads = False
    old, young = await ingest.settle([event(created_at=created(110_000)), event(event_id="young")], ORIGIN)
    assert code_of(old) is Code.STREAM_UNAVAILABLE
    assert isinstance(young, Accepted)


async def test_an_aged_event_is_replayed_and_never_stored(world: World, ingest: Flow) -> None:
    aged = event(created_at=created(8 * DAY_MS))
    (refused,) = await ingest.settle([aged], ORIGIN)
    assert code_of(refused) is Code.CREATED_AT_INVALID
    assert world.broker.by_id == {}
    key = EventKey("acme", "evt-1", aged.trace_id, "r", created(8 * DAY_MS), STREAM, 5, aged.body_sha256)
    world.table.keys["evt-1"] = key
    (replayed,) = await ingest.settle([aged], ORIGIN)
    assert replayed == Accepted(key, replayed=True)


async def test_the_same_event_twice_in_a_batch_is_stored_once(world: World, ingest: Flow) -> None:
    verdicts = await ingest.settle(
        [event(), event(event_id="evt-2"), event(), event(source="another body")],
        ORIGIN,
    )
    first = key_of(verdicts[0])
    assert verdicts[0] == Accepted(first, replayed=False)
    assert verdicts[1] == Accepted(key_of(verdicts[1]), replayed=False)
    assert verdicts[2] == Accepted(first, replayed=True)
    assert code_of(verdicts[3]) is Code.EVENT_ID_PAYLOAD_MISMATCH
    assert world.broker.submitted == ["acme/evt-1", "acme/evt-2"]


async def test_a_line_that_may_not_be_published_does_not_bar_its_namesake(ingest: Flow) -> None:
    aged, sound = await ingest.settle([event(created_at=created(8 * DAY_MS)), event()], ORIGIN)
    assert code_of(aged) is Code.CREATED_AT_INVALID
    assert isinstance(sound, Accepted)


async def test_a_batch_is_one_look_up(world: World, ingest: Flow) -> None:
    await ingest.settle([event(event_id=f"evt-{number}") for number in range(50)], ORIGIN)
    assert len(world.table.queries) == 1
    assert len(world.table.queries[0]) == 50


async def test_many_duplicates_of_one_batch_get_each_their_own_receipt(world: World, ingest: Flow) -> None:
    events = [event(event_id=f"evt-{number}") for number in range(20)]
    first = await ingest.settle(events, ORIGIN)
    world.memory.keys.clear()
    again = await ingest.settle(events, ORIGIN)
    assert again == [Accepted(key_of(one), replayed=True) for one in first]
    assert len(world.broker.by_id) == 20
