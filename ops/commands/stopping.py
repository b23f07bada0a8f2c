"""Ending a long run on a signal without leaving its summary wrong."""

import signal
import time
from types import FrameType


class Stopping:
    """SIGINT and SIGTERM as KeyboardInterrupt, at a moment when no request is in hand.

    The first signal is heeded at the next `check` or `sleep`, a sleep under way included; a second
    one at once.
    """

    def __init__(self) -> None:
        self._told = False
        self._sleeping = False

    def install(self) -> None:
        """Take over both signals of this process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def check(self) -> None:
        if self._told:
            raise KeyboardInterrupt

    def sleep(self, seconds: float) -> None:
        self._sleeping = True
        try:
            self.check()
            time.sleep(seconds)
        finally:
            self._sleeping = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._told or self._sleeping:
            raise KeyboardInterrupt
        self._told = True
