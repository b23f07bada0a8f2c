"""Whether dead letters pile up unseen: they are kept until an operator, or the retention run, takes them."""

import asyncio
import logging

from schemas.answers import NoAnswer
from schemas.meter import Meter
from schemas.metrics import DLQ_AGED, DLQ_WAITING
from sinks.waiting_letters import Waiting, WaitingLetters
from streams.settings import RetrySettings
from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 30.0


class DeadLetterWatch:
    """Counts the waiting letters at start-up and every 30 s. A database that does not answer is others' finding."""

    def __init__(self, letters: WaitingLetters, settings: RetrySettings, meter: Meter) -> None:
        self._letters = letters
        self._age_seconds_max = settings.dlq_age_seconds_max
        self._alert_depth = settings.dlq_alert_depth
        self._meter = meter
        self._waiting = Waiting(0, 0)

    @property
    def findings(self) -> list[str]:
        """Why an operator has to look at the dead letters now, nothing when that can wait."""
        letters, depth = self._waiting.letters, self._alert_depth
        told = f"{letters} dead letters wait for an operator (alert depth {depth}): frostgate dlq list"
        return [told] if letters >= depth else []

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            await set_within(stopping, INTERVAL_S)

    async def check(self) -> None:
        """Count now. Without an answer the last count stands."""
        try:
            found = await self._letters.count(self._age_seconds_max)
        except NoAnswer:
            return
        self._meter.add(DLQ_WAITING, found.letters)
        self._meter.add(DLQ_AGED, found.aged)
        if found.aged > self._waiting.aged:
            log.error("%d dead letters wait for more than %d s: frostgate dlq list", found.aged, self._age_seconds_max)
        self._waiting = found
