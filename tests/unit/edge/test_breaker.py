"""Circuits: when they open, whom they let through then, and when they close."""

import asyncio

import pytest

from edge import breaker
from edge.breaker import QUIET_MS, TENANTS_MAX
from edge.circuit import SAMPLES_MIN, TRANSITIONS, Event, State
from edge.ports import Component
from edge.probes import PROBE_MS_MAX
from tests.unit.edge.breaking import OPEN_MS, POSTGRES, REDIS, SETTINGS, STREAM, Edge
from tests.unit.edge.conftest import StandingClock
from tests.unit.edge.counting_store import CountingStore


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def store(clock: StandingClock) -> CountingStore:
    return CountingStore(SETTINGS, clock)


@pytest.fixture
def edge(store: CountingStore, clock: StandingClock) -> Edge:
    return Edge(store, clock)


@pytest.fixture
def other(store: CountingStore, clock: StandingClock) -> Edge:
    return Edge(store, clock)


def test_every_state_is_left_and_reached_by_the_table_alone() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) == set(TRANSITIONS.values())
    assert {event for _, event in TRANSITIONS} == set(Event)


@pytest.mark.parametrize("component", list(Component))
async def test_fewer_than_fifty_calls_judge_nobody(edge: Edge, component: Component) -> None:
    edge.calls(SAMPLES_MIN - 1, failed=True, component=component)
    assert await edge.passes(component)
    edge.calls(1, failed=False, component=component)
    assert await edge.retry_after_ms(component) == OPEN_MS


async def test_a_circuit_opens_at_its_error_rate_and_not_below(edge: Edge) -> None:
    edge.calls(97)
    edge.calls(7, failed=True)
    assert await edge.passes()
    edge.calls(2, failed=True)
    assert not await edge.passes()


async def test_a_circuit_opens_when_the_95th_percentile_is_too_slow(edge: Edge) -> None:
    edge.calls(95)
    edge.calls(5, elapsed_ms=350.0)
    assert await edge.passes()
    edge.calls(1, elapsed_ms=350.0)
    assert not await edge.passes()


async def test_only_the_last_ten_seconds_count(edge: Edge, clock: StandingClock) -> None:
    edge.calls(SAMPLES_MIN - 1, failed=True)
    clock.advance(10_000)
    edge.calls(SAMPLES_MIN - 1, failed=False)
    edge.calls(3, failed=True)
    assert await edge.passes()
    clock.advance(9_000)
    edge.calls(SAMPLES_MIN, failed=True)
    assert not await edge.passes()


async def test_an_open_circuit_refuses_without_asking_and_says_for_how_long(
    edge: Edge, store: CountingStore, clock: StandingClock
) -> None:
    edge.trip()
    clock.advance(OPEN_MS - 1)
    assert await edge.retry_after_ms() == 1
    assert store.asked == 0


async def test_a_clock_that_is_set_back_does_not_keep_a_circuit_open(edge: Edge, clock: StandingClock) -> None:
    edge.trip()
    clock.advance(-1)
    assert await edge.passes()
    assert edge.breakers.states() == {"stream": "half_open"}


async def test_one_component_has_no_say_over_another(edge: Edge) -> None:
    edge.trip(POSTGRES)
    assert await edge.passes(STREAM)
    assert await edge.passes(REDIS)
    assert not await edge.passes(POSTGRES)


async def test_no_more_probes_pass_than_there_are_over_all_edges(
    edge: Edge, other: Edge, clock: StandingClock, store: CountingStore
) -> None:
    edge.trip()
    other.trip()
    clock.advance(OPEN_MS)
    passed = await asyncio.gather(*(one.passes() for one in (edge, other) for _ in range(50)))
    assert sum(passed) == SETTINGS.half_open_probes
    assert store.asked <= SETTINGS.half_open_probes + 2


async def test_while_there_is_no_probe_left_the_store_is_asked_now_and_then_only(
    edge: Edge, clock: StandingClock, store: CountingStore
) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    assert [await edge.passes() for _ in range(4)] == [True, True, True, False]
    asked = store.asked
    assert [await edge.passes() for _ in range(100)] == [False] * 100
    assert store.asked == asked
    clock.advance(QUIET_MS)
    assert not await edge.passes()
    assert store.asked == asked + 1


async def test_when_all_probes_pass_the_circuit_closes_also_for_the_edges_that_wait(
    edge: Edge, other: Edge, clock: StandingClock
) -> None:
    edge.trip()
    clock.advance(500)
    other.trip()
    clock.advance(OPEN_MS - 500)
    for _ in range(3):
        assert await edge.passes()
        await edge.probed()
    assert edge.breakers.states() == {}
    assert not await other.passes()
    clock.advance(500)
    assert await other.passes()
    assert other.breakers.states() == {}


async def test_one_failed_probe_opens_the_circuit_for_every_edge_that_asks(
    edge: Edge, other: Edge, clock: StandingClock
) -> None:
    edge.trip()
    other.trip()
    clock.advance(OPEN_MS)
    assert await edge.passes()
    await edge.probed(failed=True)
    assert await edge.retry_after_ms() == OPEN_MS
    assert await other.retry_after_ms() == OPEN_MS
    assert other.breakers.states() == {"stream": "open"}


async def test_a_slow_probe_is_a_failed_one(edge: Edge, clock: StandingClock) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    assert await edge.passes()
    await edge.probed(elapsed_ms=350.0)
    assert not await edge.passes()


async def test_an_edge_that_opens_after_the_others_closed_has_to_probe_itself(
    edge: Edge, other: Edge, clock: StandingClock
) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    for _ in range(3):
        assert await edge.passes()
        await edge.probed()
    other.trip()
    clock.advance(OPEN_MS)
    assert [await other.passes() for _ in range(4)] == [True, True, True, False]


async def test_a_call_from_before_the_circuit_opened_is_no_probe(edge: Edge, clock: StandingClock) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    edge.calls(3)
    assert edge.breakers.states() == {"stream": "open"}
    assert await edge.passes()
    edge.calls(3)
    edge.calls(3, failed=True)
    await edge.breakers.close()
    assert edge.breakers.states() == {"stream": "half_open"}, "only the probe has a say"
    await edge.probed()
    for _ in range(2):
        assert await edge.passes()
        await edge.probed()
    assert edge.breakers.states() == {}


async def test_a_probe_of_a_round_that_is_over_has_no_say_in_the_next(edge: Edge, clock: StandingClock) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    assert await edge.passes()
    clock.advance(PROBE_MS_MAX)
    assert await edge.passes()
    await edge.probed(failed=True)
    assert edge.breakers.states() == {"stream": "half_open"}
    await edge.probed(failed=True)
    assert edge.breakers.states() == {"stream": "open"}


async def test_probes_that_never_come_back_do_not_keep_the_circuit_open(edge: Edge, clock: StandingClock) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    assert [await edge.passes() for _ in range(4)] == [True, True, True, False]
    clock.advance(PROBE_MS_MAX)
    assert await edge.passes()


async def test_without_the_store_nobody_probes_but_the_store_itself(
    edge: Edge, store: CountingStore, clock: StandingClock
) -> None:
    edge.trip(STREAM)
    edge.trip(REDIS)
    store.answers = False
    clock.advance(OPEN_MS)
    assert not await edge.passes(STREAM)
    for _ in range(3):
        assert await edge.passes(REDIS)
        await edge.probed(component=REDIS)
    assert edge.breakers.states() == {"stream": "half_open"}
    store.answers = True
    clock.advance(QUIET_MS)
    assert await edge.passes(STREAM)


@pytest.mark.parametrize("component", [STREAM, POSTGRES])
async def test_under_the_emergency_override_every_edge_counts_its_own_probes_while_the_store_is_away(
    edge: Edge, other: Edge, store: CountingStore, clock: StandingClock, component: Component
) -> None:
    store.answers = False
    for one in (edge, other):
        one.trip(component)
    clock.advance(OPEN_MS)
    assert not await edge.passes(component)
    for one in (edge, other):
        one.document = "bg-1"
    clock.advance(QUIET_MS)
    for one in (edge, other):
        assert [await one.passes(component) for _ in range(4)] == [True, True, True, False]
    for _ in range(3):
        await edge.probed(component=component)
    assert edge.breakers.states() == {}
    await other.probed(component=component, failed=True)
    assert await other.retry_after_ms(component) == OPEN_MS


async def test_under_the_emergency_override_probes_are_shared_while_the_store_answers(
    edge: Edge, other: Edge, clock: StandingClock
) -> None:
    for one in (edge, other):
        one.document = "bg-1"
        one.trip()
    clock.advance(OPEN_MS)
    assert [await edge.passes() for _ in range(4)] == [True, True, True, False]
    assert not await other.passes()


async def test_probes_from_before_the_store_went_away_have_no_say_in_what_is_counted_here(
    edge: Edge, store: CountingStore, clock: StandingClock
) -> None:
    edge.trip()
    clock.advance(OPEN_MS)
    assert [await edge.passes() for _ in range(3)] == [True] * 3
    store.answers = False
    edge.document = "bg-1"
    assert [await edge.passes() for _ in range(4)] == [True, True, True, False]
    for _ in range(3):
        await edge.probed()
    assert edge.breakers.states() == {"stream": "half_open"}
    for _ in range(3):
        await edge.probed()
    assert edge.breakers.states() == {}


async def test_a_tenant_whose_own_circuit_is_open_takes_no_probe_of_everybody(
    edge: Edge, other: Edge, clock: StandingClock
) -> None:
    for one in (edge, other):
        one.trip_tenant("acme")
    edge.trip()
    clock.advance(OPEN_MS)
    assert await other.passes(STREAM, "acme")
    await other.probed(failed=True, tenant_id="acme")
    for _ in range(10):
        assert not await edge.passes(STREAM, "acme")
    assert [await edge.passes(STREAM, "calm") for _ in range(4)] == [True, True, True, False]


async def test_a_tenants_probe_that_everybodys_circuit_refuses_is_given_back(
    edge: Edge, store: CountingStore, clock: StandingClock
) -> None:
    edge.trip_tenant("acme")
    clock.advance(1_000)
    edge.trip()
    clock.advance(OPEN_MS - 1_000)
    assert not await edge.passes(STREAM, "acme")
    assert store.asked == 0, "a circuit that rests is not worth a probe of another"
    clock.advance(1_000)
    assert [await edge.passes(STREAM, "calm") for _ in range(3)] == [True, True, True]
    for _ in range(10):
        assert not await edge.passes(STREAM, "acme")
        await edge.breakers.close()
        clock.advance(QUIET_MS)
    for _ in range(3):
        await edge.probed(tenant_id="calm")
    assert edge.breakers.states() == {"stream of some tenants": "1 not closed"}
    assert [await edge.passes(STREAM, "acme") for _ in range(4)] == [True, True, True, False]


async def test_one_call_can_be_a_probe_of_both_circuits(edge: Edge, clock: StandingClock) -> None:
    edge.trip_tenant("acme")
    edge.trip()
    clock.advance(OPEN_MS)
    for _ in range(3):
        assert await edge.passes(STREAM, "acme")
        await edge.probed(tenant_id="acme")
    assert edge.breakers.states() == {}


async def test_a_tenants_circuit_opens_for_that_tenant_alone(edge: Edge) -> None:
    edge.trip_tenant("acme")
    assert not await edge.passes(STREAM, "acme")
    assert await edge.passes(STREAM, "other")
    assert await edge.passes(STREAM)
    assert edge.meter.values["stream", "acme"] == State.OPEN
    assert edge.breakers.states() == {"stream of some tenants": "1 not closed"}


async def test_what_the_component_did_is_not_held_against_its_tenants(edge: Edge, clock: StandingClock) -> None:
    edge.calls(SAMPLES_MIN, failed=True, tenant_id="acme")
    clock.advance(OPEN_MS)
    assert await edge.passes()
    assert await edge.passes(STREAM, "acme")
    assert edge.breakers.states() == {"stream": "half_open"}


async def test_any_number_of_tenants_takes_bounded_memory(edge: Edge) -> None:
    edge.trip_tenant("bad")
    for number in range(TENANTS_MAX + 100):
        edge.calls(1, tenant_id=f"t{number}")
    assert len(edge.breakers._tenants) == TENANTS_MAX
    assert not await edge.passes(STREAM, "bad")


async def test_every_change_is_shown_and_logged(
    edge: Edge, clock: StandingClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert edge.meter.values == {(name, "_all"): 0 for name in ("stream", "redis", "postgres")}
    caplog.set_level("WARNING", breaker.log.name)
    edge.trip()
    assert edge.meter.values["stream", "_all"] == 2
    clock.advance(OPEN_MS)
    assert await edge.passes()
    assert edge.meter.values["stream", "_all"] == 1
    await edge.probed()
    for _ in range(2):
        assert await edge.passes()
        await edge.probed()
    assert edge.meter.values["stream", "_all"] == 0
    states = [vars(record)["cb_state"] for record in caplog.records if hasattr(record, "cb_state")]
    assert states == ["open", "half_open", "closed"]
