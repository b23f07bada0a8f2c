"""The loop of a stage: take what its inboxes hold, hand it to the stage's work, take the next."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from streams.budgets import StageBudget
from streams.delivery import Delivery
from streams.inbox import Inbox
from streams.storm import StormGuard
from streams.work import Settled, Stage

__all__ = ["Runner", "Settled", "Stage", "Work", "keep_settled"]

IDLE_S = 1.0


class Work(Protocol):
    """What is done with a batch: a stage's work, or the retry lane's."""

    @property
    def name(self) -> str: ...

    @property
    def paused(self) -> bool: ...

    async def work(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        """Return when every delivery is settled, or, some unsettled, when `stopping` is set."""


def keep_settled(deliveries: Iterable[Delivery]) -> None:
    """For stages that read a history: what they settled stays in it."""
    del deliveries


class Runner:
    """Drives one stage over some partitions, in order within each partition."""

    def __init__(self, work: Work, budget: StageBudget, guard: StormGuard) -> None:
        self._work = work
        self._budget = budget
        self._guard = guard
        self._inboxes: list[Inbox] = []
        self.arrived = asyncio.Event()

    @property
    def stage_name(self) -> str:
        return self._work.name

    @property
    def paused(self) -> bool:
        return self._work.paused

    @property
    def storm(self) -> bool:
        """Whether nothing is taken because too many of the stage's events ended dead."""
        return self._guard.storm

    def add(self, inbox: Inbox) -> None:
        self._inboxes.append(inbox)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; the batch in hand is finished first."""
        for inbox in self._inboxes:
            await inbox.open()
        while not stopping.is_set():
            if not self._guard.room(1):
                await asyncio.sleep(IDLE_S)
                continue
            batch = await self._next_batch()
            if batch:
                await self._work.work(batch, stopping)

    async def _next_batch(self) -> list[Delivery]:
        for inbox in self._inboxes:
            await inbox.pull()
        if not any(len(inbox) for inbox in self._inboxes):
            self.arrived.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self.arrived.wait()
            except TimeoutError:
                self._guard.taken([])
                return []
        waiting = sum(len(inbox) for inbox in self._inboxes)
        if waiting < self._budget.batch_messages_max and not any(inbox.more for inbox in self._inboxes):
            await asyncio.sleep(self._budget.linger_ms / 1000)
        return self._take()

    def _take(self) -> list[Delivery]:
        """A fair share of each inbox, as much as the guard leaves room for."""
        messages_max = self._guard.room(self._budget.batch_messages_max)
        share = max(1, messages_max // max(1, sum(1 for inbox in self._inboxes if len(inbox))))
        batch: list[Delivery] = []
        for inbox in self._inboxes:
            batch += inbox.take(min(share, messages_max - len(batch)))
        self._guard.taken([delivery.reply for delivery in batch])
        return batch
