"""So many at a time: who waits for a turn waits here, and not for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

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


class TenantTurns:
    """Turns of each tenant's own: whoever reads much waits for its own reads, and nobody else does."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._turns: WeakValueDictionary[str, Turns] = WeakValueDictionary()
        """Of the tenants that are reading now: a tenant's turns are kept by its requests."""

    def of(self, tenant_id: str) -> Turns:
        turns = self._turns.get(tenant_id)
        if turns is None:
            turns = self._turns[tenant_id] = Turns(self._at_once, Code.RATE_LIMITED)
        return turns
