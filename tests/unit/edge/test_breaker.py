"""Circuits: when they open, whom they let through then, and when they close."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge import breaker
from edge.breaker import QUIET_MS, TENANTS_MAX, Breakers
from edge.circuit import SAMPLES_MIN, TRANSITIONS, Event, State
from edge.ports import CircuitOpen, Component
from edge.probes import PROBE_MS_MAX
from edge.settings import BreakerSettings
from schemas.metrics import Metric
from tests.unit.edge.conftest import StandingClock
from tests.unit.edge.counting_store import CountingStore

SETTINGS = BreakerSettings(error_rate_threshold=0.08, latency_p95_ms=350, open_seconds=30, half_open_probes=3)
OPEN_MS = 30_000
STREAM, REDIS, POSTGRES = Component.STREAM, Component.REDIS, Component.POSTGRES


class Shown:
    """A meter that keeps the last value of each series."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        del metric
        self.values[labels] = value


class Edge:
    """One edge process."""

    def __init__(self, store: CountingStore, clock: StandingClock) -> None:
        self.meter = Shown()
        self.breakers = Breakers(cast("Any", store), SETTINGS, clock, self.meter)

    async def passes(self, component: Component = STREAM, tenant_id: str | None = None) -> bool:
        try:
            await self.breakers.enter(component, tenant_id)
        except CircuitOpen:
            return False
        return True

    async def retry_after_ms(self, component: Component = STREAM) -> int:
        with pytest.raises(CircuitOpen) as refused:
            await self.breakers.enter(component)
        return refused.value.retry_after_ms

    def calls(
        self,
        count: int,
        *,
        failed: bool = False,
        elapsed_ms: float = 1.0,
        component: Component = STREAM,
        tenant_id: str | None = None,
    ) -> None:
        for _ in range(count):
            self.breakers.record(component, tenant_id, failed=failed, elapsed_ms=elapsed_ms)

    def trip(self, component: Component = STREAM) -> None:
        self.calls(SAMPLES_MIN, failed=True, component=component)

    async def probed(self, *, failed: bool = False, component: Component = STREAM) -> None:
        """A probe comes back, and everybody may know."""
        self.calls(1, failed=failed, component=component)
        await self.breakers.close()


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
    edge.calls(1, elapsed_ms=350.0)
    await edge.breakers.close()
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
    for _ in range(3):
        await edge.probed()
    assert edge.breakers.states() == {"stream": "half_open"}


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


async def test_a_tenants_circuit_opens_for_that_tenant_alone(edge: Edge) -> None:
    edge.calls(1_000)
    edge.calls(SAMPLES_MIN, failed=True, tenant_id="acme")
    assert not await edge.passes(STREAM, "acme")
    assert await edge.passes(STREAM, "other")
    assert await edge.passes(STREAM)
    assert edge.meter.values["stream", "acme"] == State.OPEN
    assert edge.breakers.states() == {"stream of some tenants": "1 not closed"}


async def test_what_the_component_did_is_not_held_against_its_tenants(edge: Edge, clock: StandingClock) -> None:
    for _ in range(SAMPLES_MIN):
        edge.calls(1, failed=True)
        edge.calls(1, failed=True, tenant_id="acme")
    clock.advance(OPEN_MS)
    assert await edge.passes()
    assert await edge.passes(STREAM, "acme")
    assert edge.breakers.states() == {"stream": "half_open"}


async def test_any_number_of_tenants_takes_bounded_memory(edge: Edge) -> None:
    edge.calls(SAMPLES_MIN, failed=True, tenant_id="bad")
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
    states = [record.__dict__["cb_state"] for record in caplog.records]
    assert states == ["open", "half_open", "closed"]


class Cluster(RuleBasedStateMachine):
    """Edges that share one store, at whatever pace: a model keeps count of what they let through."""

    @initialize(edges=st.integers(1, 4))
    def begin(self, edges: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = StandingClock()
        self.store = CountingStore(SETTINGS, self.clock)
        self.edges = [Edge(self.store, self.clock) for _ in range(edges)]
        self.probes = [0] * edges
        """Under way, by edge."""
        self.given = 0
        """Since the last round ended."""
        self.given_at_ms = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def _state(self, edge: Edge) -> State:
        return edge.breakers._components[STREAM].state

    @rule(one=st.integers(0, 3), count=st.integers(1, 5))
    def enter(self, one: int, count: int) -> None:
        at = one % len(self.edges)
        edge = self.edges[at]
        for _ in range(count):
            circuit = edge.breakers._components[STREAM]
            waiting = circuit.rest_ms(self.clock.now_ms()) > 0
            passed = self.loop.run_until_complete(edge.passes())
            assert not (passed and waiting), "an open circuit let a call through"
            assert self._state(edge) is not State.OPEN or not passed
            if self._state(edge) is State.HALF_OPEN and passed:
                assert self.store.answers, "nobody counted this probe"
                self._give(at)

    def _give(self, at: int) -> None:
        if self.clock.at_ms - self.given_at_ms >= PROBE_MS_MAX:
            self.given = 0
        self.given += 1
        self.given_at_ms = self.clock.at_ms
        self.probes[at] += 1
        assert self.given <= SETTINGS.half_open_probes

    @rule(one=st.integers(0, 3), failed=st.booleans())
    def come_back(self, one: int, failed: bool) -> None:
        at = one % len(self.edges)
        edge = self.edges[at]
        if self._state(edge) is not State.HALF_OPEN or not self.probes[at]:
            return
        self.probes[at] -= 1
        self.loop.run_until_complete(self._record(edge, failed))
        if self.store.answers and (failed or self._state(edge) is State.CLOSED):
            self.given = 0  # the round is over
        if failed:
            assert self._state(edge) is State.OPEN

    async def _record(self, edge: Edge, failed: bool) -> None:
        edge.calls(1, failed=failed)
        await edge.breakers.close()

    @rule(one=st.integers(0, 3), failed=st.integers(0, 60))
    def calls(self, one: int, failed: int) -> None:
        """Calls of a closed circuit."""
        edge = self.edges[one % len(self.edges)]
        if self._state(edge) is State.CLOSED:
            before = edge.breakers._components[STREAM].window.calls
            edge.calls(failed, failed=True)
            assert before + failed >= SAMPLES_MIN or self._state(edge) is State.CLOSED

    @rule(answers=st.booleans())
    def turn_the_store(self, answers: bool) -> None:
        self.store.answers = answers

    @rule(by_ms=st.sampled_from([1, QUIET_MS, 1_000, PROBE_MS_MAX, OPEN_MS - 1, OPEN_MS]))
    def wait(self, by_ms: int) -> None:
        self.clock.advance(by_ms)

    @invariant()
    def nobody_but_a_probing_edge_has_probes(self) -> None:
        for at, edge in enumerate(getattr(self, "edges", ())):
            if self._state(edge) is not State.HALF_OPEN:
                self.probes[at] = 0


TestCluster = Cluster.TestCase
TestCluster.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
