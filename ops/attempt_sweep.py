"""Drops counted attempts that no window holds any more, so that the table holds what fails now and nothing else."""

import asyncio
import logging

from schemas.answers import NoAnswer
from sinks.attempts import Attempts
from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 300.0


class AttemptSweep:
    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep at the start and every five minutes. A database that does not answer is others' finding."""
        while not stopping.is_set():
            try:
                await self._attempts.drop_old()
            except NoAnswer:
                log.info("old attempts could not be dropped")
            await set_within(stopping, INTERVAL_S)
