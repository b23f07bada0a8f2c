"""The gates between a known event and the stream, whatever the ports say."""

from collections.abc import Callable

import pytest

from edge.admit import Admitted, Contract
from edge.ingest import Accepted, Ingest, Origin, Settled, Verdict
from edge.ports import Component, Depth, Nonce, TenantLimits
from edge.problem import Finding
from edge.settings import EdgeSettings
from edge.standing import standing_headers
from schemas.codes import Code
from schemas.principal import Principal
from tests.unit.edge.conftest import DAY_MS, NOW_MS, World, body_of

ORIGIN = Origin("request-0", "00000000000000aa", "01")
SENDER = Principal("k1", "acme", None, frozenset({"ingest"}), "free")
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)


def event(event_id: str = "evt-1") -> Admitted:
    admitted = Contract(SETTINGS).admit(body_of(event_id=event_id), NOW_MS)
    assert isinstance(admitted, Admitted)
    return admitted


async def settled(world: World, *event_ids: str, nonce: Nonce | None = None) -> Settled:
    events = [event(one) for one in event_ids or ("evt-1",)]
    answer = await Ingest(world.ports, SETTINGS).settle(events, SENDER, ORIGIN, nonce)
    assert isinstance(answer, Settled)
    return answer


def first(verdict: Verdict) -> Finding:
    assert not isinstance(verdict, Accepted)
    return verdict[0]


def _skewed(world: World) -> None:
    world.gates.skewed = True


def _deep(world: World) -> None:
    world.gates.depth = Depth(8_000, 0.0)


def _full(world: World) -> None:
    world.gates.depth = Depth(12_000, 0.0)


def _spent(world: World) -> None:
    world.gates.limits = TenantLimits(20, 120, "tier", 1_000, 1_000)


def _open(world: World) -> None:
    world.gates.opened[Component.STREAM, None] = 7_000


def _open_for_the_tenant(world: World) -> None:
    world.gates.opened[Component.STREAM, "acme"] = 7_000


def _unproven(world: World) -> None:
    world.broker.proven = False


GATES = [
    (_skewed, Code.CLOCK_SKEW),
    (_deep, Code.INGEST_BACKPRESSURE_SHED),
    (_full, Code.INGEST_BACKPRESSURE_HARDSTOP),
    (_spent, Code.QUOTA_EXCEEDED),
    (_open, Code.CIRCUIT_OPEN),
    (_open_for_the_tenant, Code.CIRCUIT_OPEN),
    (_unproven, Code.DURABILITY_UNPROVEN),
]


@pytest.mark.parametrize(("turn", "code"), GATES)
async def test_a_closed_gate_refuses_new_events_alone_and_nothing_is_published(
    world: World, turn: Callable[[World], None], code: Code
) -> None:
    known = (await settled(world)).verdicts[0]
    assert isinstance(known, Accepted)
    turn(world)
    answer = await settled(world, "evt-1", "evt-2")
    assert answer.verdicts[0] == Accepted(known.key, replayed=True), "a replay is answered whatever the gates say"
    assert first(answer.verdicts[1]).error_code is code
    assert world.broker.submitted == ["acme/evt-1"]
    assert world.memory.noted == ["evt-2"], "its next try is known as one"


async def test_an_unknown_depth_refuses(world: World) -> None:
    world.gates.depth = None
    assert not isinstance((await settled(world)).verdicts[0], Accepted)
    assert world.broker.submitted == []


async def test_events_beyond_the_budget_are_refused_line_by_line_with_the_time_of_the_next_one(world: World) -> None:
    world.memory.room = 2
    answer = await settled(world, "evt-1", "evt-2", "evt-3")
    assert [isinstance(one, Accepted) for one in answer.verdicts] == [True, True, False]
    assert first(answer.verdicts[2]) == Finding(Code.RATE_LIMITED, None, 2_500)
    assert len(world.table.queries) == 1, "what may not go on is not looked up"
    assert world.table.queries[0] == (("acme", "evt-1"), ("acme", "evt-2"))


async def test_a_throttled_tenant_has_that_part_of_its_rate(world: World) -> None:
    world.gates.share = 0.25
    answer = await settled(world)
    assert world.memory.asked[0].budget == (250.0, 1_000)
    assert dict(standing_headers(answer.standing))[b"ratelimit-policy"] == b'"tenant";q=1000;w=4'


@pytest.mark.parametrize("code", [Code.REPLAY_DETECTED, Code.REPLAY_WINDOW_CLOSED])
async def test_a_nonce_that_is_not_new_refuses_the_whole_request(world: World, code: Code) -> None:
    await settled(world)
    world.memory.refused = code
    nonce = Nonce("k", "n", 0)
    answer = await Ingest(world.ports, SETTINGS).settle([event()], SENDER, ORIGIN, nonce)
    assert not isinstance(answer, Settled)
    assert answer[0].error_code is code
    assert world.memory.asked[-1].nonce is nonce


async def test_redis_that_is_not_proven_is_not_asked(world: World) -> None:
    world.gates.redis_proven = False
    answer = await Ingest(world.ports, SETTINGS).settle([event()], SENDER, ORIGIN, None)
    assert not isinstance(answer, Settled)
    assert answer[0].error_code is Code.RATE_LIMIT_BACKEND_UNAVAILABLE
    assert world.memory.asked == []


async def test_the_emergency_override_waives_rate_and_nonce_and_marks_the_event(world: World) -> None:
    world.memory.answers = False
    world.gates.document = "bg-1"
    answer = await settled(world, nonce=Nonce("k", "n", 0))
    assert isinstance(answer.verdicts[0], Accepted)
    assert answer.standing.break_glass == "bg-1"
    assert b'"break_glass":"bg-1"' in world.broker.messages[1]
    assert standing_headers(answer.standing) == []


@pytest.mark.parametrize(("turn", "code"), GATES)
async def test_the_emergency_override_opens_no_other_gate(
    world: World, turn: Callable[[World], None], code: Code
) -> None:
    world.memory.answers = False
    world.gates.document = "bg-1"
    turn(world)
    assert first((await settled(world)).verdicts[0]).error_code is code


async def test_what_became_of_a_publication_is_told_to_both_circuits_of_the_stream(world: World) -> None:
    await settled(world)
    world.broker.refuses = Code.OUTCOME_UNKNOWN
    await settled(world, "evt-2")
    world.broker.refuses = Code.INGEST_BACKPRESSURE_HARDSTOP
    await settled(world, "evt-3")
    told = [(tenant, failed) for component, tenant, failed in world.gates.recorded if component is Component.STREAM]
    assert told == [("acme", False), ("acme", True), ("acme", False)]
