"""The circuit breakers: one for each component, and one for each tenant's share of the stream.

A closed circuit costs a dictionary look-up and a few additions. An open one refuses at once. When
its time is over it lets probes through, counted over all edge processes (`edge/probes.py`). The
circuit of Redis counts its own here, because Redis is what is broken then; the others do so under an
emergency override, which is armed for the same reason.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from redis.asyncio import Redis

from edge.circuit import Circuit, Event, State
from edge.ports import NO_PROBE, CircuitOpen, Component, Ticket
from edge.probes import Answer, Became, LocalProbes, OverriddenProbes, Probes, SharedProbes, Word
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
    """Implements `edge.ports.Circuits`. Not thread-safe: one event loop.

    `armed` names the emergency override in force, None while there is none.
    """

    def __init__(
        self, client: "Redis", settings: BreakerSettings, clock: Clock, meter: Meter, armed: Callable[[], str | None]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._open_ms = settings.open_seconds * 1000
        self._local: Probes = LocalProbes(settings, clock)
        self._shared: Probes = OverriddenProbes(SharedProbes(client, settings), self._local, armed)
        self._components = {component: Circuit(component, "") for component in Component}
        self._tenants: dict[str, Circuit] = {}
        self._reports: set[asyncio.Task[None]] = set()
        for circuit in self._components.values():
            self._show(circuit)

    async def enter(self, component: Component, tenant_id: str | None = None) -> Ticket:
        """Return when the call may be made; what became of it is then due to `record`, with the ticket.

        Raises CircuitOpen: nothing may be sent, try after its time. With `tenant_id` the tenant's own
        circuit has its say first, and no probe is taken unless both let the call in. Only the stream
        has circuits of tenants.
        """
        everybody = self._components[component]
        own = None if tenant_id is None else self._tenants.get(tenant_id)
        if own is None or own.state is State.CLOSED:
            return NO_PROBE if everybody.state is State.CLOSED else Ticket(await self._probe(everybody), "")
        self._rested(everybody)
        own_round = await self._probe(own)
        try:
            return Ticket(await self._probe(everybody), own_round)
        except CircuitOpen:
            if own_round:
                self._report(own, own_round, Became.UNUSED)
            raise

    def record(
        self, component: Component, tenant_id: str | None, ticket: Ticket, *, failed: bool, elapsed_ms: float
    ) -> None:
        """Count a call that was let in, for the circuit of everybody and, with `tenant_id`, for the tenant's own.

        A call that is no probe counts while the circuit is closed only: one from before it opened is
        too late to matter. While the component itself fails, nothing is held against its tenants.
        """
        slow = elapsed_ms >= self._settings.latency_p95_ms
        everybody = self._components[component]
        own = None if tenant_id is None else self._tenants.get(tenant_id) or self._new(tenant_id)
        if ticket is not NO_PROBE:
            self._came_back(everybody, ticket.everybody, failed=failed or slow)
            if own is not None:
                self._came_back(own, ticket.own, failed=failed or slow)
        now_ms = self._clock.now_ms()
        if everybody.state is State.CLOSED and self._trips(everybody, now_ms, failed=failed, slow=slow):
            if component is Component.STREAM:
                self._forgive_tenants()
        elif own is not None and everybody.state is own.state is State.CLOSED:
            self._trips(own, now_ms, failed=failed, slow=slow)

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

    def _trips(self, circuit: Circuit, now_ms: UnixMs, *, failed: bool, slow: bool) -> bool:
        """Count a call of a closed circuit; whether that opened it."""
        circuit.window.add(now_ms, failed=failed, slow=slow)
        if not circuit.window.too_bad(self._settings.error_rate_threshold):
            return False
        self._open(circuit, Event.TRIPPED, self._open_ms)
        return True

    async def _probe(self, circuit: Circuit) -> str:
        """The round that this call is a probe of, empty when the circuit turns out to be closed. Raises CircuitOpen.

        One asks at a time: once there is no probe left, those behind it are refused without asking.
        """
        async with circuit.asking:
            self._rested(circuit)
            if circuit.state is State.OPEN:
                self._change(circuit, Event.WAITED)
            if circuit.state is State.CLOSED:
                return ""
            answer = await self._asked(circuit, self._clock.now_ms() - circuit.opened_ms)
            return self._taken(circuit, answer)

    def _rested(self, circuit: Circuit) -> None:
        """Return when a call may pass or ask for a probe. Raises CircuitOpen."""
        rest_ms = circuit.rest_ms(self._clock.now_ms())
        if rest_ms > 0:
            raise CircuitOpen(rest_ms if circuit.state is State.OPEN else RETRY_MS)

    async def _asked(self, circuit: Circuit, opened_ms_ago: int) -> Answer:
        try:
            return await self._probes_of(circuit).ask(circuit.name, opened_ms_ago)
        except NoAnswer:
            return Answer(Word.NONE)  # who cannot be counted does not pass

    def _taken(self, circuit: Circuit, answer: Answer) -> str:
        """The round, as `_probe` returns it, when the answer lets this call pass. Raises CircuitOpen."""
        match answer.word:
            case Word.PROBE if circuit.state is State.HALF_OPEN:
                circuit.round = answer.round
                return answer.round
            case Word.CLOSED:
                self._change(circuit, Event.PROBES_PASSED)
            case Word.OPEN:
                self._open(circuit, Event.PROBE_FAILED, answer.ms)
            case _:
                circuit.quiet_until_ms = UnixMs(self._clock.now_ms() + QUIET_MS)
        # A probe may have come back while this one was asked for.
        if circuit.state is not State.CLOSED:
            raise CircuitOpen(circuit.rest_ms(self._clock.now_ms()) if circuit.state is State.OPEN else RETRY_MS)
        return ""

    def _came_back(self, circuit: Circuit, round_: str, *, failed: bool) -> None:
        """A probe of a round that is over for this process is too late to matter."""
        if not round_ or round_ != circuit.round:
            return
        self._report(circuit, round_, Became.FAILED if failed else Became.PASSED)
        if failed:
            self._open(circuit, Event.PROBE_FAILED, self._open_ms)

    def _report(self, circuit: Circuit, round_: str, became: Became) -> None:
        """Tell it behind everyone's back."""
        report = asyncio.get_running_loop().create_task(self._reported(circuit, round_, became))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)

    async def _reported(self, circuit: Circuit, round_: str, became: Became) -> None:
        try:
            answer = await self._probes_of(circuit).report(circuit.name, round_, became)
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
