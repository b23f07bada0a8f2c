"""So many at a time: who waits for a turn waits here, and not for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.answers import NoAnswer
from schemas.codes import Code

WAIT_S_MAX = 0.5


class Turns:
    """Turns in the order of asking. Not thread-safe: one event loop."""

    def __init__(self, at_once: int, too_long: Code) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._too_long = too_long

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """The block is the turn. Raises NoAnswer with `too_long` when it does not come within `WAIT_S_MAX`."""
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await self._free.acquire()
        except TimeoutError:
            raise NoAnswer(self._too_long) from None
        try:
            yield
        finally:
            self._free.release()
