"""Attempts: counted before they are made, within a window, apart for each stage."""

import asyncio

import pytest

from schemas.units import UnixMs
from sinks.attempts import Attempts
from sinks.pg import Pool
from sinks.tenants import Tenants

WINDOW_S = 900


class _Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def now_ms(self) -> UnixMs:
        return UnixMs(self.now)


@pytest.fixture
def clock() -> _Hands:
    return _Hands()


@pytest.fixture
def attempts(worker: Pool, clock: _Hands) -> Attempts:
    return Attempts(worker, WINDOW_S, clock)


async def test_each_attempt_of_an_event_in_a_stage_has_the_next_number(attempts: Attempts, tenant: str) -> None:
    assert await attempts.made("decision", [(tenant, "a"), (tenant, "b")]) == [0, 0]
    assert await attempts.begin("decision", [(tenant, "b"), (tenant, "a"), (tenant, "b")]) == [1, 1, 1]
    assert await attempts.begin("decision", [(tenant, "a")]) == [2]
    assert await attempts.begin("evidence", [(tenant, "a")]) == [1]
    assert await attempts.made("decision", [(tenant, "a"), (tenant, "b"), (tenant, "c")]) == [2, 1, 0]


async def test_the_window_begins_with_the_first_attempt_and_then_counting_starts_anew(
    attempts: Attempts, clock: _Hands, tenant: str
) -> None:
    await attempts.begin("decision", [(tenant, "a")])
    clock.now += WINDOW_S * 1_000 - 1
    assert await attempts.begin("decision", [(tenant, "a")]) == [2]
    clock.now += 1
    assert await attempts.made("decision", [(tenant, "a")]) == [0]
    assert await attempts.begin("decision", [(tenant, "a")]) == [1]


async def test_what_is_forgotten_starts_anew_and_the_rest_stays(attempts: Attempts, tenant: str) -> None:
    await attempts.begin("decision", [(tenant, "a"), (tenant, "b")])
    await attempts.forget("decision", [(tenant, "a")])
    assert await attempts.made("decision", [(tenant, "a"), (tenant, "b")]) == [0, 1]


async def test_an_attempt_given_back_leaves_those_before_it(attempts: Attempts, tenant: str) -> None:
    events = [(tenant, name) for name in ("thrice", "once", "never")]
    for counted in (events[:1], events[:1], events[:2]):
        await attempts.begin("decision", counted)
    await attempts.begin("evidence", events[:1])
    await attempts.give_back("decision", [*events, events[0]], [3, 1, 1, 3])
    assert await attempts.made("decision", events) == [2, 0, 0]
    assert await attempts.made("evidence", events) == [1, 0, 0]
    assert await attempts.begin("decision", events) == [3, 1, 1]


async def test_an_attempt_given_back_again_takes_off_none_of_those_before_it(attempts: Attempts, tenant: str) -> None:
    events = [(tenant, "twice"), (tenant, "once")]
    await attempts.begin("decision", events[:1])
    counted = await attempts.begin("decision", events)
    for _ in range(2):
        await attempts.give_back("decision", events, counted)
        assert await attempts.made("decision", events) == [1, 0]


async def test_no_attempt_is_lost_to_one_that_is_given_back_meanwhile(attempts: Attempts, tenant: str) -> None:
    event = [(tenant, "a")]
    counted = await attempts.begin("decision", event)
    for _ in range(10):
        begun, _nothing = await asyncio.gather(
            attempts.begin("decision", event), attempts.give_back("decision", event, counted)
        )
        assert await attempts.made("decision", event) == begun
        counted = begun


async def test_an_id_read_out_of_a_broken_message_is_counted_like_any_other(attempts: Attempts, tenant: str) -> None:
    broken = [(tenant, "e\x00vil"), (tenant, "x" * 10_000), (tenant, "")]
    assert await attempts.begin("dedupe", broken) == [1, 1, 1]
    assert await attempts.begin("dedupe", broken) == [2, 2, 2]


async def test_events_of_several_tenants_are_counted_in_one_statement(attempts: Attempts, tenant: str) -> None:
    other = f"{tenant}-2"
    assert await attempts.begin("dedupe", [(tenant, "a"), (other, "a")]) == [1, 1]
    assert await attempts.made("dedupe", [(other, "a")]) == [1]


async def test_counts_of_a_window_that_is_over_are_dropped_whoever_they_belong_to(
    attempts: Attempts, clock: _Hands, worker: Pool, operator: Pool, tenant: str
) -> None:
    await Tenants(operator).add(tenant)
    await attempts.begin("decision", [(tenant, "old")])
    clock.now += WINDOW_S * 1_000 - 1
    await attempts.begin("decision", [(tenant, "new")])
    clock.now += 1
    await attempts.drop_old()
    async with worker.tenant_transaction([tenant]) as connection:
        assert [row[0] for row in await connection.fetch("SELECT event_id FROM attempts")] == ["new"]
