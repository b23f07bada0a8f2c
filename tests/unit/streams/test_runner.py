"""When a runner takes a batch: what trickles in is gathered, a backlog is not waited for."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from streams.delivery import Delivery
from streams.inbox import Inbox
from streams.runner import Runner
from streams.storm import StormGuard
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.stage_bench import budget_named, delivery_of

LINGER_MS = 200
BATCH_MAX = 10


class _Inbox:
    """Holds `held` deliveries from the start, and gets one more every 50 ms."""

    def __init__(self, held: int, *, more: bool) -> None:
        self.more = more
        self._held = [delivery_of(seq) for seq in range(held)]
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        return len(self._held)

    async def open(self) -> None:
        self._tasks.append(asyncio.create_task(self._trickle()))

    async def _trickle(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self._held.append(delivery_of(len(self._held)))

    async def pull(self) -> None:
        """Something is always there."""

    def take(self, count: int) -> list[Delivery]:
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


class _Work:
    """Notes the first batch, and when it came."""

    name = "dedupe"
    paused = False
    took_s = 0.0
    size = 0

    async def work(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        self.size, self.took_s = len(batch), asyncio.get_running_loop().time()
        stopping.set()


def _first_batch(*inboxes: _Inbox) -> _Work:
    work = _Work()

    async def main() -> None:
        budget = replace(budget_named("dedupe"), linger_ms=LINGER_MS, batch_messages_max=BATCH_MAX)
        runner = Runner(work, budget, StormGuard(0.5, asyncio.get_running_loop().time))
        for inbox in inboxes:
            runner.add(cast(Inbox, inbox))
        await runner.run(asyncio.Event())
        for inbox in inboxes:
            inbox.end()

    run_seeded(main(), random.Random(1))
    return work


def test_what_trickles_in_is_gathered() -> None:
    work = _first_batch(_Inbox(1, more=False))
    assert work.took_s == pytest.approx(LINGER_MS / 1000)
    assert work.size >= LINGER_MS // 50


@pytest.mark.parametrize(
    "inboxes",
    [
        [_Inbox(BATCH_MAX, more=False)],
        [_Inbox(BATCH_MAX // 2, more=False), _Inbox(BATCH_MAX // 2, more=False)],
        [_Inbox(1, more=False), _Inbox(BATCH_MAX // 2, more=True)],
    ],
    ids=["a full batch", "two halves", "a backlog at the broker"],
)
def test_nobody_waits_while_there_is_enough(inboxes: list[_Inbox]) -> None:
    assert _first_batch(*inboxes).took_s == 0
