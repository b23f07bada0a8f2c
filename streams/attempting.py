"""The arithmetic of an event's own failures: who is tried in whose company, and how long a failure waits.

A suspect was in the hands of a worker that ended, and may be what ended it. Its attempt is counted
before it runs, and it runs in ever smaller company, so that what kills a worker is soon alone with
its count while its neighbours are through (docs/adr/0011).
"""

from collections.abc import Iterator, Sequence

COMPANY_MAX = (64, 8)
"""How many suspects run together, by the attempts each has had; after that each runs alone."""
JITTER = 0.2


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
