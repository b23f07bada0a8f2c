"""The shell around a stage: take a batch, run it, settle every delivery by its fate.

A dependency that is down pauses the stage: it stops pulling, keeps its batch alive at the broker,
and probes the dependency itself; no message is spent on finding out (DESIGN decision 14). A batch
the store refuses is halved until the guilty delivery stands alone and is buried. Anything else a
stage raises is a bug: it ends the process with every delivery unacknowledged.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from schemas.answers import NoAnswer, Refusal
from schemas.fate import Dead, Done, Fate, Later
from schemas.meter import Meter
from schemas.metrics import STAGE_EVENTS, STAGE_PAUSED
from streams.delivery import ACK, IN_PROGRESS, Delivery, delayed
from streams.graveyard import Graveyard
from streams.inbox import Inbox
from streams.jetstream import JetStream

log = logging.getLogger("streams")

Settled = Callable[[Iterable[Delivery]], None]

PAUSE_MS_BASE = 250
PAUSE_MS_MAX = 2_000
IDLE_S = 1.0


class Stage(Protocol):
    """One step of the pipeline. Running the same delivery twice has the effect of once."""

    name: str

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        """The fate of each delivery, in order, its effect committed.

        Raises NoAnswer when a dependency is away (run again later) and Refusal when the store will
        never take something in this batch.
        """

    async def ready(self) -> bool:
        """Whether the dependencies answer, asked without any message."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How much one run takes, and how long it waits for more once something is there."""

    messages_max: int
    linger_ms: int


def keep_settled(deliveries: Iterable[Delivery]) -> None:
    """For stages that read a history: what they settled stays in it."""
    del deliveries


class Runner:
    """Drives one stage over some partitions, in order within each partition."""

    def __init__(
        self,
        *,
        stage: Stage,
        jetstream: JetStream,
        graveyard: Graveyard,
        batching: Batching,
        meter: Meter,
        settled: Settled,
    ) -> None:
        """`settled` is told the deliveries that were acknowledged, so that a queue can be swept behind them."""
        self._stage = stage
        self._jetstream = jetstream
        self._graveyard = graveyard
        self._batching = batching
        self._meter = meter
        self._settled = settled
        self._inboxes: list[Inbox] = []
        self.arrived = asyncio.Event()
        self.paused = False

    @property
    def stage_name(self) -> str:
        return self._stage.name

    def add(self, inbox: Inbox) -> None:
        self._inboxes.append(inbox)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; the batch in hand is finished first."""
        for inbox in self._inboxes:
            await inbox.open()
        while not stopping.is_set():
            batch = await self._next_batch()
            if batch:
                await self._work(batch, stopping)

    async def _next_batch(self) -> list[Delivery]:
        for inbox in self._inboxes:
            await inbox.pull()
        if not any(len(inbox) for inbox in self._inboxes):
            self.arrived.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self.arrived.wait()
            except TimeoutError:
                return []
        if sum(len(inbox) for inbox in self._inboxes) < self._batching.messages_max:
            await asyncio.sleep(self._batching.linger_ms / 1000)
        share = max(1, self._batching.messages_max // max(1, sum(1 for inbox in self._inboxes if len(inbox))))
        batch: list[Delivery] = []
        for inbox in self._inboxes:
            batch += inbox.take(share)
        return batch

    async def _work(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        pause_ms = PAUSE_MS_BASE
        while not stopping.is_set():
            try:
                await self._finish(batch, await self._stage.run(batch))
            except NoAnswer as failure:
                self._report_pause(failure)
                pause_ms = await self._pause(batch, pause_ms, stopping)
            except Refusal as refusal:
                await self._isolate(batch, refusal, stopping)
                return
            else:
                self._report_resumed()
                return

    async def _isolate(self, batch: Sequence[Delivery], refusal: Refusal, stopping: asyncio.Event) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._work(batch[:middle], stopping)
            await self._work(batch[middle:], stopping)
            return
        while not stopping.is_set():
            try:
                await self._finish(batch, [Dead(refusal.reason)])
            except NoAnswer as failure:
                self._report_pause(failure)
                await self._pause(batch, PAUSE_MS_MAX, stopping)
            else:
                self._report_resumed()
                return

    async def _finish(self, batch: Sequence[Delivery], fates: Sequence[Fate]) -> None:
        """Settle every delivery. The dead are in FG_DLQ before anything is acknowledged."""
        dead = [(delivery, fate.reason) for delivery, fate in zip(batch, fates, strict=True) if isinstance(fate, Dead)]
        if dead:
            await self._graveyard.bury(self._stage.name, dead)
        await self._jetstream.settle([(d.reply, _verb(fate)) for d, fate in zip(batch, fates, strict=True)])
        self._settled(d for d, fate in zip(batch, fates, strict=True) if not isinstance(fate, Later))
        for fate in fates:
            self._meter.add(STAGE_EVENTS, 1, self._stage.name, type(fate).__name__.lower())

    async def _pause(self, batch: Sequence[Delivery], pause_ms: int, stopping: asyncio.Event) -> int:
        """Wait until the dependencies answer, telling the broker that the batch is still in hand."""
        while not stopping.is_set():
            if self._jetstream.connected:
                await self._jetstream.settle([(delivery.reply, IN_PROGRESS) for delivery in batch])
            try:
                async with asyncio.timeout(pause_ms / 1000):
                    await stopping.wait()
            except TimeoutError:
                pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)
                if await self._stage.ready():
                    return pause_ms
        return pause_ms

    def _report_pause(self, failure: NoAnswer) -> None:
        if not self.paused:
            log.warning("stage %s pauses", self._stage.name, extra={"error_code": failure.code.value})
        self.paused = True
        self._meter.add(STAGE_PAUSED, 1, self._stage.name)

    def _report_resumed(self) -> None:
        if self.paused:
            log.warning("stage %s resumes", self._stage.name)
            self.paused = False
            self._meter.add(STAGE_PAUSED, 0, self._stage.name)


def _verb(fate: Fate) -> bytes:
    match fate:
        case Done() | Dead():  # the dead are buried by now; TERM would bury them twice, through its advisory
            return ACK
        case Later(delay_ms=delay_ms):
            return delayed(delay_ms)
        case _:
            assert_never(fate)
