"""Edges that share one store of probes, at whatever pace."""

import asyncio

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge.breaker import QUIET_MS
from edge.circuit import SAMPLES_MIN, State
from edge.probes import PROBE_MS_MAX
from tests.unit.edge.breaking import OPEN_MS, SETTINGS, STREAM, Edge
from tests.unit.edge.conftest import StandingClock
from tests.unit.edge.counting_store import CountingStore


class Cluster(RuleBasedStateMachine):
    """Edges that share one store, at whatever pace: a model keeps count of what they let through."""

    @initialize(edges=st.integers(1, 4))
    def begin(self, edges: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = StandingClock()
        self.store = CountingStore(SETTINGS, self.clock)
        self.edges = [Edge(self.store, self.clock) for _ in range(edges)]
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
        edge = self.edges[at]
        edge.tickets = [ticket for ticket in edge.tickets if ticket == edge.tickets[-1]]
        assert self.given <= SETTINGS.half_open_probes

    @rule(one=st.integers(0, 3), failed=st.booleans())
    def come_back(self, one: int, failed: bool) -> None:
        at = one % len(self.edges)
        edge = self.edges[at]
        if self._state(edge) is not State.HALF_OPEN or not edge.tickets:
            return
        self.loop.run_until_complete(edge.probed(failed=failed))
        if self.store.answers and (failed or self._state(edge) is State.CLOSED):
            self.given = 0  # the round is over
        if failed:
            assert self._state(edge) is State.OPEN

    @rule(one=st.integers(0, 3), failed=st.booleans())
    def come_late(self, one: int, failed: bool) -> None:
        """A call from before the circuit opened."""
        edge = self.edges[one % len(self.edges)]
        state = self._state(edge)
        if state is not State.CLOSED:
            edge.calls(1, failed=failed)
            assert self._state(edge) is state

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
        for edge in getattr(self, "edges", ()):
            if self._state(edge) is not State.HALF_OPEN:
                edge.tickets.clear()


TestCluster = Cluster.TestCase
TestCluster.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
