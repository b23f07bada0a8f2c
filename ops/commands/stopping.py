"""Ending a long run on a signal without leaving its summary wrong."""

import asyncio
import signal
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_signal(main: Coroutine[Any, Any, T]) -> T:
    """Run it as asyncio.run does; on SIGINT or SIGTERM it is cancelled, cleans up, and KeyboardInterrupt is raised.

    The event loop itself takes the signal, between two steps: an exception that a handler throws into the midst
    of one can leave what cleans up waiting for ever (seen while a connection was being made).
    """

    async def interruptible() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end() -> None:
            loop.set_exception_handler(lambda _loop, _context: None)  # what a cut connection leaves behind is no news
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


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
