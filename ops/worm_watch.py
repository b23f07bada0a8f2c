"""Whether the store of evidence can be trusted with more of it: a bucket has to be seen to lock what it takes."""

import asyncio
import logging

from sinks.worm import Worm
from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 60.0
RETRY_S = 5.0


class WormWatch:
    """Asks the store at start-up and every 60 s, and every 5 s while anything stands against it."""

    def __init__(self, worm: Worm) -> None:
        self._worm = worm
        self.findings: list[str] = ["the store of evidence was not checked yet"]

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            await set_within(stopping, RETRY_S if self.findings else INTERVAL_S)

    async def check(self) -> None:
        """Ask now."""
        found = await self._worm.faults()
        if found and found != self.findings:
            log.error("the store of evidence: %s", "; ".join(found))
        self.findings = found
