"""An event's own failures: who is tried in whose company, whose failure it is, and how long it waits.

A suspect was in the hands of a worker that ended, and may be what ended it. Its attempt is counted
before it runs, and it runs in ever smaller company, so that what kills a worker is soon alone with
its count while its neighbours are through (docs/adr/0011).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from streams.budgets import BACKOFF_MS
from streams.delivery import Delivery

log = logging.getLogger("streams")

COMPANY_MAX = (64, 8)
"""How many suspects run together, by the attempts each has had; after that each runs alone."""
JITTER = 0.2
SILENT_MAX = 4_096
"""So many deliveries that got no answer are remembered; one that is forgotten is judged anew."""

OVERDUE_S = 2 * BACKOFF_MS[-1] / 1000
"""What has not come again by twice its longest wait has gone to another worker, or through."""

Position = tuple[str, int]
"""Stream and sequence: the same for a delivery and for its retries."""


def companies(made: Sequence[int], attempts_max: int) -> Iterator[list[int]]:
    """The positions of suspects with so many attempts `made`, in groups to run one after the other.

    The fewest attempts come first. Whoever would run for the last time runs alone, so nobody's budget
    is spent by a neighbour.
    """
    waiting = sorted(range(len(made)), key=lambda position: made[position])
    while waiting:
        attempts = made[waiting[0]]
        count = COMPANY_MAX[attempts] if attempts < min(len(COMPANY_MAX), attempts_max - 1) else 1
        company = [position for position in waiting[:count] if made[position] == attempts]
        yield company
        waiting = waiting[len(company) :]


def delay_ms(attempt: int, ladder_ms: Sequence[int], chance: float) -> int:
    """How long to wait after the `attempt`-th failure (first is 1); `chance` in [0, 1) spreads it by a fifth."""
    step_ms = ladder_ms[min(attempt, len(ladder_ms)) - 1]
    return int(step_ms * (1 + JITTER * (2 * chance - 1)))


class Turns:
    """Who runs beside whom in one process, whatever the stage and the lane.

    One company of suspects at a time, so that what ends the process is charged to one company. A last
    attempt begins only while nothing else runs: what is not counted could be what kills.
    """

    def __init__(self) -> None:
        self.suspects = asyncio.Lock()
        self._running = 0
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._idle.set()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether what is not counted may run."""
        return self._open.is_set()

    async def opened(self) -> None:
        await self._open.wait()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Around each run of a batch that is not counted, begun while they are open."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def close(self) -> None:
        """None of them begins until `reopen`. For the holder of `suspects`."""
        self._open.clear()

    async def idle(self) -> None:
        """Return when none of them runs."""
        await self._idle.wait()

    def reopen(self) -> None:
        self._open.set()


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


class Blame:
    """Whose failure it is when one delivery of a stage gets no answer although its dependencies answer.

    The delivery's own, once others of the stage got through after it got no answer for the first
    time; until then the dependency may answer and still not do its work.
    """

    def __init__(self, now_s: Callable[[], float] = _loop_s) -> None:
        self._now_s = now_s
        self._silent: dict[Position, int] = {}
        self.got_through = 0
        """How many deliveries did."""
        self._overdue: dict[Position, float] = {}

    @property
    def overdue(self) -> frozenset[Position]:
        """What does not get through and must not end dead, as far as this process has seen of late.

        Whoever else shares the consumer may have got it through: nobody tells, so what did not come here for long is
        no longer named.
        """
        since_s = self._now_s() - OVERDUE_S
        self._overdue = {position: seen_s for position, seen_s in self._overdue.items() if seen_s > since_s}
        return frozenset(self._overdue)

    def ended(self, delivery: Delivery, *, through: bool) -> None:
        """The delivery was done, or is dead."""
        self.got_through += through
        self._silent.pop(_position(delivery), None)
        self._overdue.pop(_position(delivery), None)

    def note_overdue(self, stage: str, delivery: Delivery) -> None:
        log.error("stage %s cannot get message %d of %s through", stage, delivery.seq, delivery.stream)
        self._overdue[_position(delivery)] = self._now_s()

    def still_waits(self, delivery: Delivery) -> None:
        """The delivery, should it be overdue, has come here and did not get through this time either."""
        if _position(delivery) in self._overdue:
            self._overdue[_position(delivery)] = self._now_s()

    def is_its_own(self, delivery: Delivery, got_through_then: int) -> bool:
        """Whether others got through since the delivery's first failure, at which so many were through.

        When they did, its next failure is judged from now on.
        """
        position = _position(delivery)
        since = self._silent.pop(position, got_through_then)
        own = self.got_through > since
        self._silent[position] = self.got_through if own else since
        while len(self._silent) > SILENT_MAX:
            del self._silent[next(iter(self._silent))]
        return own

    def outlived(self, delivery: Delivery) -> bool:
        """Whether this very process ran it before, and lives: then it is no suspect."""
        return _position(delivery) in self._silent


def _position(delivery: Delivery) -> Position:
    return delivery.stream, delivery.seq
