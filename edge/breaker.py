"""The circuit breakers: one for each component, and one for each tenant's share of the stream.

A closed circuit costs a dictionary look-up and a few additions. An open one refuses at once. When
its time is over it lets probes through, counted over all edge processes (`edge/probes.py`); only
the circuit of Redis counts its own here, because Redis is what is broken then.
"""

import asyncio
import logging
from collections.abc import Mapping

from redis.asyncio import Redis

from edge.circuit import Circuit, Event, State
from edge.ports import CircuitOpen, Component
from edge.probes import Answer, LocalProbes, Probes, SharedProbes, Word
from edge.settings import BreakerSettings
from schemas.answers import NoAnswer
from schemas.meter import Meter
from schemas.metrics import ALL_TENANTS, CIRCUIT_STATE
from schemas.units import Clock, UnixMs

log = logging.getLogger("edge")

TENANTS_MAX = 2_000
"""Tenants with a circuit of their own; beyond them the oldest makes room, if it is closed."""
RETRY_MS = 1_000
"""What a caller is told while others probe: nobody knows when they will be done."""
QUIET_MS = 100
"""After no probe was to be had, nobody asks for so long: short-circuited calls must cost Redis nothing."""


class Breakers:
    """Implements `edge.ports.Circuits`. Not thread-safe: one event loop."""

    def __init__(self, client: "Redis", settings: BreakerSettings, clock: Clock, meter: Meter) -> None:
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._open_ms = settings.open_seconds * 1000
        self._shared: Probes = SharedProbes(client, settings)
        self._local: Probes = LocalProbes(settings, clock)
        self._components = {component: Circuit(component, "") for component in Component}
        self._tenants: dict[str, Circuit] = {}
        self._reports: set[asyncio.Task[None]] = set()
        for circuit in self._components.values():
            self._show(circuit)

    async def enter(self, component: Component, tenant_id: str | None = None) -> None:
        """Return when the call may be made; what became of it is then due to `record`.

        Raises CircuitOpen: nothing may be sent, try after its time. A tenant's circuit stands beside
        that of everybody: a caller enters both. Only the stream has circuits of tenants.
        """
        circuit = self._components[component] if tenant_id is None else self._tenants.get(tenant_id)
        if circuit is not None and circuit.state is not State.CLOSED:
            await self._probe(circuit)

    def record(self, component: Component, tenant_id: str | None, *, failed: bool, elapsed_ms: float) -> None:
        """Count a call that was let in, for the circuit of everybody or, with `tenant_id`, for the tenant's own.

        While the component itself fails, nothing is held against its tenants.
        """
        everybody = self._components[component]
        circuit = everybody if tenant_id is None else self._tenants.get(tenant_id) or self._new(tenant_id)
        slow = elapsed_ms >= self._settings.latency_p95_ms
        if circuit.state is not State.CLOSED:
            self._came_back(circuit, failed=failed or slow)
        elif everybody.state is State.CLOSED:
            now_ms = self._clock.now_ms()
            circuit.window.add(now_ms, failed=failed, slow=slow)
            if circuit.window.too_bad(self._settings.error_rate_threshold):
                self._open(circuit, Event.TRIPPED, self._open_ms)
                if tenant_id is None and component is Component.STREAM:
                    self._forgive_tenants()

    def states(self) -> Mapping[str, str]:
        """The circuits that are not closed, by name; of tenants only how many there are."""
        found = {name.value: circuit.state.name.lower() for name, circuit in self._components.items() if circuit.state}
        tenants = sum(circuit.state is not State.CLOSED for circuit in self._tenants.values())
        if tenants:
            found["stream of some tenants"] = f"{tenants} not closed"
        return found

    async def close(self) -> None:
        """Return when what became of every probe has been told to the other edges, or cannot be."""
        if self._reports:
            await asyncio.wait(self._reports)

    async def _probe(self, circuit: Circuit) -> None:
        """Return when this call is one of the probes, or the circuit turns out to be closed. Raises CircuitOpen.

        One asks at a time: once there is no probe left, those behind it are refused without asking.
        """
        async with circuit.asking:
            now_ms = self._clock.now_ms()
            rest_ms = circuit.rest_ms(now_ms)
            if rest_ms > 0:
                raise CircuitOpen(rest_ms if circuit.state is State.OPEN else RETRY_MS)
            if circuit.state is State.OPEN:
                self._change(circuit, Event.WAITED)
            if circuit.state is State.HALF_OPEN:
                answer = await self._asked(circuit, now_ms - circuit.opened_ms)
                self._take(circuit, answer)

    async def _asked(self, circuit: Circuit, opened_ms_ago: int) -> Answer:
        try:
            return await self._probes_of(circuit).ask(circuit.name, opened_ms_ago)
        except NoAnswer:
            return Answer(Word.NONE)  # who cannot be counted does not pass

    def _take(self, circuit: Circuit, answer: Answer) -> None:
        """Return when the answer lets this call pass. Raises CircuitOpen."""
        match answer.word:
            case Word.PROBE if circuit.state is State.HALF_OPEN:
                if answer.round != circuit.round:
                    circuit.round, circuit.under_way = answer.round, 0
                circuit.under_way += 1
                return
            case Word.CLOSED:
                self._change(circuit, Event.PROBES_PASSED)
            case Word.OPEN:
                self._open(circuit, Event.PROBE_FAILED, answer.ms)
            case _:
                circuit.quiet_until_ms = UnixMs(self._clock.now_ms() + QUIET_MS)
        # A probe may have come back while this one was asked for.
        if circuit.state is not State.CLOSED:
            raise CircuitOpen(circuit.rest_ms(self._clock.now_ms()) if circuit.state is State.OPEN else RETRY_MS)

    def _came_back(self, circuit: Circuit, *, failed: bool) -> None:
        """A call that was let in before the circuit opened is no probe, and too late to matter."""
        if circuit.under_way == 0:
            return
        circuit.under_way -= 1
        report = asyncio.get_running_loop().create_task(self._report(circuit, circuit.round, failed=failed))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)
        if failed:
            self._open(circuit, Event.PROBE_FAILED, self._open_ms)

    async def _report(self, circuit: Circuit, round_: str, *, failed: bool) -> None:
        try:
            answer = await self._probes_of(circuit).report(circuit.name, round_, failed=failed)
        except NoAnswer:
            return  # the round ends without this probe: it is forgotten, and another one begins
        if circuit.round != round_:
            return
        if answer.word is Word.CLOSED:
            self._change(circuit, Event.PROBES_PASSED)

    def _probes_of(self, circuit: Circuit) -> Probes:
        return self._local if circuit.component == Component.REDIS else self._shared

    def _open(self, circuit: Circuit, event: Event, open_ms: int) -> None:
        if circuit.opened(event, self._clock.now_ms(), open_ms):
            self._show(circuit)
            self._tell(circuit)

    def _change(self, circuit: Circuit, event: Event) -> None:
        if circuit.happened(event):
            self._show(circuit)
            self._tell(circuit)

    def _show(self, circuit: Circuit) -> None:
        self._meter.add(CIRCUIT_STATE, circuit.state, circuit.component, circuit.tenant_id or ALL_TENANTS)

    def _tell(self, circuit: Circuit) -> None:
        state = circuit.state.name.lower()
        log.warning(
            "circuit %s is %s",
            circuit.component,
            state,
            extra={"cb_state": state, "tenant_id": circuit.tenant_id or None},
        )

    def _new(self, tenant_id: str) -> Circuit:
        if len(self._tenants) >= TENANTS_MAX:
            oldest = next(iter(self._tenants.values()))
            if oldest.state is State.CLOSED:
                del self._tenants[oldest.tenant_id]
            else:  # it keeps its place, behind the others
                self._tenants[oldest.tenant_id] = self._tenants.pop(oldest.tenant_id)
                return Circuit(Component.STREAM, tenant_id)
        circuit = self._tenants[tenant_id] = Circuit(Component.STREAM, tenant_id)
        return circuit

    def _forgive_tenants(self) -> None:
        """What the component did is not its tenants' doing: those whose circuits are closed start afresh."""
        self._tenants = {name: one for name, one in self._tenants.items() if one.state is not State.CLOSED}
