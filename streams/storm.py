"""The dead-letter storm of a stage: when too many events end dead, the stage is more likely wrong than they are.

Then it takes nothing new, instead of emptying its stream into the dead-letter queue. Every minute
one delivery is let through as a probe: the stage goes on once such a one is done.
"""

from collections import deque
from collections.abc import Callable, Sequence

from schemas.codes import DeadReason
from schemas.fate import Dead, Fate, Later

ENDS_MAX = 200
ENDS_MIN = 50
PROBE_S = 60.0


class StormGuard:
    """Counts the ends of one stage's deliveries, whichever of its runners they came through."""

    def __init__(self, ratio: float, now_s: Callable[[], float]) -> None:
        """A storm is `ratio` of the last ENDS_MAX ends dead, of at least ENDS_MIN. `now_s` never goes back."""
        self._ratio = ratio
        self._now_s = now_s
        self._dead: deque[bool] = deque(maxlen=ENDS_MAX)
        self._next_probe_s = 0.0
        self._probing = False
        self.storm = False

    def room(self, wanted: int) -> int:
        """How many deliveries may be taken now, of so many: all of them, in a storm none or one as a probe."""
        if not self.storm:
            return wanted
        return min(1, wanted) if self._now_s() >= self._next_probe_s else 0

    def taken(self, count: int) -> None:
        """So many deliveries were taken."""
        if self.storm and count:
            self._probing = True
            self._next_probe_s = self._now_s() + PROBE_S

    def ended(self, fates: Sequence[Fate]) -> None:
        """Deliveries ended so. In a storm only the probe's end says anything: others were in hand before it."""
        dead = [_counts_as_dead(fate) for fate in fates if not isinstance(fate, Later)]
        if not dead:
            return
        if not self.storm:
            self._dead.extend(dead)
            self.storm = len(self._dead) >= ENDS_MIN and sum(self._dead) >= self._ratio * len(self._dead)
            if self.storm:
                self._dead.clear()
                self._next_probe_s = self._now_s() + PROBE_S
        elif self._probing:
            self._probing = False
            self.storm = any(dead)


def _counts_as_dead(fate: Fate) -> bool:
    """A sender makes conflicts: they say nothing about the stage."""
    return isinstance(fate, Dead) and fate.reason is not DeadReason.EVENT_ID_CONFLICT
