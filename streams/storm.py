"""The dead-letter storm of a stage: when too many events end dead, the stage is more likely wrong than they are.

Then it takes nothing new and buries no more of what it has in hand, instead of emptying its stream
into the dead-letter queue. Every minute one delivery is let through as a probe: the stage goes on
once that very one is done, or when there is nothing left to probe with.
"""

from collections import deque
from collections.abc import Callable, Sequence

from schemas.codes import DeadReason
from schemas.fate import Dead, Fate, Later

ENDS_MAX = 200
ENDS_MIN = 50
PROBE_S = 60.0
UNTAKEN_S = 10.0
"""A probe that no runner of the stage had a delivery for in this time has none to wait for."""


def unreported(storm: bool) -> None:
    """For guards whose storms somebody else looks at."""
    del storm


class StormGuard:
    """Counts the ends of one stage's deliveries, whichever of its runners they came through."""

    def __init__(self, ratio: float, now_s: Callable[[], float], changed: Callable[[bool], None] = unreported) -> None:
        """A storm is `ratio` of the last ENDS_MAX ends dead, of at least ENDS_MIN. `now_s` never goes back.

        `changed` is told when a storm begins (True) and when it ends.
        """
        self._ratio = ratio
        self._now_s = now_s
        self._changed = changed
        self._dead: deque[bool] = deque(maxlen=ENDS_MAX)
        self._next_probe_s = 0.0
        self._probe: str | None = None
        """The reply subject of the latest probe, until it has ended."""
        self.storm = False

    def room(self, wanted: int) -> int:
        """How many deliveries may be taken now, of so many: all of them, in a storm none or one as a probe."""
        if not self.storm:
            return wanted
        return min(1, wanted) if self._now_s() >= self._next_probe_s else 0

    def taken(self, replies: Sequence[str]) -> None:
        """The deliveries with these reply subjects were taken. Empty: there was none to take."""
        if not self.storm:
            return
        if replies:
            self._probe = replies[0]  # there is room for one
            self._next_probe_s = self._now_s() + PROBE_S
        elif self._now_s() >= self._next_probe_s + UNTAKEN_S:
            self._turn(storm=False)

    def ended(self, reply: str, fate: Fate) -> None:
        """The delivery ended so. In a storm only the probe's end says anything: others were in hand before it."""
        if isinstance(fate, Later):
            return
        dead = _counts_as_dead(fate)
        if not self.storm:
            self._dead.append(dead)
            if len(self._dead) >= ENDS_MIN and sum(self._dead) >= self._ratio * len(self._dead):
                self._dead.clear()
                self._next_probe_s = self._now_s() + PROBE_S
                self._turn(storm=True)
        elif reply == self._probe:
            self._probe = None
            if not dead:
                self._turn(storm=False)

    def holds(self, reply: str, fate: Fate) -> bool:
        """Whether a delivery that is to end so is not buried, but waits for the storm's end.

        The probe does not, nor what has had all its attempts: it must not run again.
        """
        exhausted = isinstance(fate, Dead) and fate.reason is DeadReason.RETRY_BUDGET_EXHAUSTED
        return self.storm and reply != self._probe and _counts_as_dead(fate) and not exhausted

    def _turn(self, *, storm: bool) -> None:
        self.storm = storm
        self._probe = None
        self._changed(storm)


def _counts_as_dead(fate: Fate) -> bool:
    """A sender makes conflicts: they say nothing about the stage."""
    return isinstance(fate, Dead) and fate.reason is not DeadReason.EVENT_ID_CONFLICT
