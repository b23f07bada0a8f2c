"""Refused events are paid for: by their tenant alone, and in turns that leave others theirs."""

import asyncio

import pytest

from edge import refused_events
from edge.endpoints import TURN_LINES
from edge.refused_events import REFUSED_MAX, REFUSED_PER_S, RefusedEvents
from schemas.principal import Principal, Scope
from schemas.units import UnixMs
from tests.unit.edge.calling import Client
from tests.unit.edge.conftest import StandingClock, World, body_of

LINES = 1_000
WRONG = b"{}\n" * LINES


async def test_a_tenant_that_has_too_much_refused_waits_until_it_is_forgotten(client: Client, world: World) -> None:
    for _ in range(2):
        assert (await client("POST", "/ingest/batch", WRONG)).status == 200
    for path, body in (("/ingest/batch", WRONG), ("/ingest/batch", body_of()), ("/ingest", body_of())):
        answer = await client("POST", path, body)
        assert (answer.status, answer.document["error_code"]) == (429, "RATE_LIMITED")
        assert answer.document["retry_after_ms"] == 1
        assert answer.headers["retry-after"] == "1"
    assert world.broker.submitted == []
    world.clock.advance(1)
    assert (await client("POST", "/ingest", body_of())).status == 202


async def test_another_tenant_does_not_pay_for_it(client: Client, world: World) -> None:
    world.ring.principals["other"] = Principal("k2", "other", None, frozenset({Scope.INGEST}), "free")
    for _ in range(3):
        last = await client("POST", "/ingest/batch", WRONG)
    assert last.status == 429
    sound = body_of(tenant_id="other")
    assert (await client("POST", "/ingest", sound, authorization="Bearer other")).status == 202


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"{}", {}),
        (body_of(tenant_id="other"), {}),
        (body_of(), {"x_event_id": "another"}),
    ],
)
async def test_a_single_event_that_is_refused_for_what_it_says_counts(
    client: Client, monkeypatch: pytest.MonkeyPatch, body: bytes, fields: dict[str, str]
) -> None:
    monkeypatch.setattr(refused_events, "REFUSED_MAX", 2)
    statuses = [(await client("POST", "/ingest", body, **fields)).status for _ in range(3)]
    assert statuses[0] == statuses[1] != statuses[2] == 429


async def test_a_bad_signature_counts(client: Client) -> None:
    """Else an agent could make the edge verify without end."""
    fields = {"signature_input": "sig=()", "signature": "sig=:AA==:"}
    for _ in range(REFUSED_MAX):
        assert (await client("POST", "/ingest", body_of(), **fields)).status == 401
    assert (await client("POST", "/ingest", body_of(), **fields)).document["error_code"] == "RATE_LIMITED"


async def test_batches_that_come_at_once_are_refused_as_if_they_came_one_by_one(client: Client) -> None:
    answers = await asyncio.gather(*(client("POST", "/ingest/batch", WRONG) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429]


async def test_events_refused_for_their_rate_are_not_counted_here(client: Client, world: World) -> None:
    world.memory.room = 0
    lines = b"\n".join(body_of(event_id=f"evt-{number}") for number in range(LINES))
    for _ in range(3):
        answer = await client("POST", "/ingest/batch", lines)
        assert (answer.status, answer.lines[0]["status"]) == (200, 429)


async def test_a_batch_of_short_lines_leaves_others_their_turns(client: Client) -> None:
    turns = 0
    batch = asyncio.create_task(client("POST", "/ingest/batch", WRONG))
    while not batch.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 2 * (LINES // TURN_LINES), "while the lines are checked, and while they are answered"


async def test_a_refused_line_says_each_thing_once(client: Client) -> None:
    line = (await client("POST", "/ingest/batch", b"{}")).lines[0]
    assert len(line["errors"]) > 1
    assert line["detail"] == "the envelope names no tenant. The same bytes will be refused again."


def test_the_level_sinks_with_time_and_never_below_nothing() -> None:
    clock = StandingClock()
    refused = RefusedEvents(clock)
    assert refused.wait_ms("acme") == 0
    refused.add("acme", REFUSED_MAX - 1)
    assert refused.wait_ms("acme") == 0
    refused.add("acme", 1 + REFUSED_PER_S)
    assert refused.wait_ms("acme") == 1_001
    clock.advance(1_000)
    assert refused.wait_ms("acme") == 1
    clock.advance(1_000_000)
    refused.add("acme", REFUSED_MAX)
    assert refused.wait_ms("acme") == 1


def test_a_clock_that_is_set_back_adds_nothing() -> None:
    clock = StandingClock()
    refused = RefusedEvents(clock)
    refused.add("acme", REFUSED_MAX)
    clock.at_ms = UnixMs(clock.at_ms - 3_600_000)
    assert refused.wait_ms("acme") == 1
    refused.add("acme", 0)
    clock.advance(1)
    assert refused.wait_ms("acme") == 0


def test_any_number_of_tenants_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused_events, "TENANTS_MAX", 2)
    refused = RefusedEvents(StandingClock())
    for tenant_id in ("a", "b", "a", "c"):
        refused.add(tenant_id, REFUSED_MAX)
    assert [refused.wait_ms(tenant_id) > 0 for tenant_id in "abc"] == [True, False, True]
