"""When a policy server that does not answer is left alone: a small circuit breaker, pure, told the time.

A deny without asking costs nothing; a deny after 250 ms of silence, for every event, would fill the
stage with waiting.
"""

from collections import deque
from enum import Enum, auto

FAILURES_IN_A_ROW = 5
WINDOW = 20
OPEN_MS = 5_000


class State(Enum):
    CLOSED = auto()
    OPEN = auto()
    HALF_OPEN = auto()


class Breaker:
    """Opens after 5 failures in a row, or 10 among the last 20 questions, for 5 s; then one question decides.

    Every question let in must be told of once, by `answered` or `failed`. The answer to one that was
    asked before the breaker opened changes nothing, and is in long before the breaker lets the next one through:
    a question waits 250 ms at most.
    """

    def __init__(self) -> None:
        self.state = State.CLOSED
        self._last: deque[bool] = deque(maxlen=WINDOW)
        self._in_a_row = 0
        self._opened_ms = 0

    def lets_in(self, now_ms: int) -> bool:
        """Whether the server may be asked now."""
        if self.state is State.OPEN and now_ms - self._opened_ms >= OPEN_MS:
            self.state = State.HALF_OPEN
            return True
        return self.state is State.CLOSED

    def answered(self) -> None:
        if self.state is State.HALF_OPEN:
            self._reset()
        if self.state is State.CLOSED:
            self._in_a_row = 0
            self._last.append(True)

    def failed(self, now_ms: int) -> None:
        if self.state is State.CLOSED:
            self._in_a_row += 1
            self._last.append(False)
        if self.state is State.HALF_OPEN or (self.state is State.CLOSED and self._is_too_bad()):
            self.state = State.OPEN
            self._opened_ms = now_ms

    def _is_too_bad(self) -> bool:
        return self._in_a_row >= FAILURES_IN_A_ROW or self._last.count(False) * 2 >= WINDOW

    def _reset(self) -> None:
        self.state = State.CLOSED
        self._in_a_row = 0
        self._last.clear()
