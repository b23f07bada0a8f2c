"""One circuit: its states as a table, and the rolling window that trips it. No I/O."""

import asyncio
from enum import IntEnum, StrEnum

from schemas.units import UnixMs

BUCKETS = 10
BUCKET_MS = 1_000
SAMPLES_MIN = 50
SLOW_SHARE = 20
"""One in so many: the 95th percentile is at the limit or over it when more than this share of the calls is."""


class State(IntEnum):
    """The numbers are the metric's."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Event(StrEnum):
    TRIPPED = "tripped"
    WAITED = "waited"
    PROBE_FAILED = "probe_failed"
    PROBES_PASSED = "probes_passed"


TRANSITIONS = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.WAITED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.PROBE_FAILED): State.OPEN,
    (State.HALF_OPEN, Event.PROBES_PASSED): State.CLOSED,
}
"""Nothing else changes a state: an event that is not here comes too late to mean anything."""


class Window:
    """Calls of the last 10 seconds, by the second: how many, how many failed, how many were slow."""

    __slots__ = ("_buckets", "_second", "calls", "failed", "slow")

    def __init__(self) -> None:
        self._buckets = [(0, 0, 0)] * BUCKETS
        self._second = 0
        self.calls = self.failed = self.slow = 0

    def add(self, now_ms: UnixMs, *, failed: bool, slow: bool) -> None:
        second = now_ms // BUCKET_MS
        if second > self._second:
            self._forget(second)
        at = self._second % BUCKETS
        calls, failures, slows = self._buckets[at]
        self._buckets[at] = (calls + 1, failures + failed, slows + slow)
        self.calls += 1
        self.failed += failed
        self.slow += slow

    def too_bad(self, error_rate: float) -> bool:
        """Whether the calls are enough to judge, and failed or dawdled too often."""
        if self.calls < SAMPLES_MIN:
            return False
        return self.failed / self.calls >= error_rate or SLOW_SHARE * self.slow > self.calls

    def _forget(self, second: int) -> None:
        for gone in range(max(self._second + 1, second - BUCKETS + 1), second + 1):
            calls, failed, slow = self._buckets[gone % BUCKETS]
            self._buckets[gone % BUCKETS] = (0, 0, 0)
            self.calls -= calls
            self.failed -= failed
            self.slow -= slow
        self._second = second


class Circuit:
    """The state of one circuit in this process. `tenant_id` empty: the circuit of everybody."""

    __slots__ = (
        *("component", "tenant_id", "state", "window", "asking"),
        *("opened_ms", "open_ms", "round", "quiet_until_ms"),
    )

    def __init__(self, component: str, tenant_id: str) -> None:
        self.component = component
        self.tenant_id = tenant_id
        self.state = State.CLOSED
        self.window = Window()
        self.opened_ms = UnixMs(0)
        self.open_ms = 0
        self.round = ""
        """The round of probes that this process takes part in."""
        self.quiet_until_ms = UnixMs(0)
        """Until then nobody asks for a probe, since there was none a moment ago."""
        self.asking = asyncio.Lock()

    @property
    def name(self) -> str:
        """All keys of a circuit are one, so the braces only keep it apart from a tenant's other keys."""
        return f"fg:cb:{{{self.component}}}:{self.tenant_id or '*'}"

    def happened(self, event: Event) -> bool:
        """Change the state as the table says; False when the event means nothing in this state."""
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            return False
        self.state = state
        self.window = Window()
        self.round = ""
        self.quiet_until_ms = UnixMs(0)
        return True

    def opened(self, event: Event, now_ms: UnixMs, open_ms: int) -> bool:
        """As `happened`, for the events that open the circuit, for `open_ms` from now."""
        changed = self.happened(event)
        if changed:
            self.opened_ms, self.open_ms = now_ms, open_ms
        return changed

    def rest_ms(self, now_ms: UnixMs) -> int:
        """How long nothing may pass; 0 when the call may pass or ask for a probe."""
        if self.state is State.HALF_OPEN:
            return max(0, self.quiet_until_ms - now_ms)
        if self.state is State.OPEN and now_ms >= self.opened_ms:  # a clock set back must not keep it open
            return max(0, self.opened_ms + self.open_ms - now_ms)
        return 0
