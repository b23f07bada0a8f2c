"""One stage at work on one batch: run it, settle every delivery by its fate, once its effect is committed.

Three kinds of failure are told apart (docs/adr/0011). A dependency that is away pauses the stage: it
keeps its batch alive at the broker and asks the dependency itself; no message is spent on finding
out. A batch that is refused, or gets no answer although its dependencies answer, is halved until
the guilty delivery stands alone; that one is buried, or goes to the retry lane as long as its
budget lasts. Anything else a stage raises is a bug: it ends the process with every delivery
unacknowledged, and what was in hand then comes back as suspect.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, assert_never

from schemas.answers import NoAnswer, Refusal
from schemas.codes import Code, DeadReason
from schemas.fate import Dead, Done, Fate, Later
from schemas.meter import Meter
from schemas.metrics import RETRIES, STAGE_EVENTS, STAGE_PAUSED, STAGE_STORM
from streams.attempting import companies, delay_ms
from streams.budgets import LETTER_PARKED_MS, StageBudget
from streams.delivery import ACK, IN_PROGRESS, Delivery, delayed
from streams.graveyard import identity_of
from streams.ports import Attempts, Burial, Death, RetryLane, Settler
from streams.storm import StormGuard

log = logging.getLogger("streams")

T = TypeVar("T")
Settled = Callable[[Iterable[Delivery]], None]
Counted = Mapping[str, int]
"""By reply subject, the number of the attempt a delivery is having."""

PAUSE_MS_BASE = 250
PAUSE_MS_MAX = 2_000
TRIES_IN_HAND = 2
"""How often a whole batch is tried again at once before it is taken apart: most silence is short."""
TRY_AGAIN_MS = 100
NOTHING_COUNTED: Counted = {}


class Stage(Protocol):
    """One step of the pipeline. Running the same delivery twice has the effect of once."""

    name: str

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        """The fate of each delivery, in order, its effect committed.

        Raises NoAnswer when a dependency does not answer (run again later) and Refusal when the store
        will never take something in this batch.
        """

    async def ready(self) -> bool:
        """Whether the dependencies answer, asked without any message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every stage's work needs beside the stage. `chance` gives numbers in [0, 1)."""

    broker: Settler
    graveyard: Burial
    attempts: Attempts
    retry: RetryLane
    meter: Meter
    chance: Callable[[], float]


class _Stopping(Exception):
    """The worker stops: what is in hand stays unsettled and is delivered again."""


class StageWork:
    """Works one batch after the other; several may share a stage and its guard."""

    def __init__(self, stage: Stage, budget: StageBudget, guard: StormGuard, tools: Tools, settled: Settled) -> None:
        """`settled` is told the deliveries that were acknowledged, so that a queue can be swept behind them."""
        self._stage = stage
        self._budget = budget
        self._tools = tools
        self._settled = settled
        self._stopping = asyncio.Event()
        self._in_hand: dict[str, Delivery] = {}
        self.guard = guard
        self.paused = False

    @property
    def name(self) -> str:
        return self._stage.name

    async def work(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        """Return when every delivery is settled, or, what is in hand unsettled, when `stopping` is set in a pause."""
        self._stopping = stopping
        self._in_hand = {delivery.reply: delivery for delivery in batch}
        # Without attempts of its own a stage has nothing to count, and no event to count it for.
        suspects = [delivery for delivery in batch if delivery.suspect and self._budget.attempts_max]
        others = [delivery for delivery in batch if not (delivery.suspect and self._budget.attempts_max)]
        try:
            if suspects:
                await self._work_suspects(suspects)
            if others:
                await self._work(others, NOTHING_COUNTED)
        except _Stopping:
            log.info("stage %s stops with %d deliveries in hand", self.name, len(self._in_hand))

    async def _work_suspects(self, suspects: Sequence[Delivery]) -> None:
        events = [identity_of(delivery) for delivery in suspects]
        made = await self._insist(lambda: self._tools.attempts.made(self.name, events))
        for company in companies(made, self._budget.attempts_max):
            await self._insist(self._hold)
            await self._work_counted([suspects[position] for position in company])

    async def _work_counted(self, deliveries: Sequence[Delivery]) -> None:
        """Count the attempt, then run: should this run end the process too, it has been counted."""
        events = [identity_of(delivery) for delivery in deliveries]
        attempts = await self._insist(lambda: self._tools.attempts.begin(self.name, events))
        counted = {delivery.reply: attempt for delivery, attempt in zip(deliveries, attempts, strict=True)}
        spent = [delivery for delivery in deliveries if counted[delivery.reply] > self._budget.attempts_max]
        left = [delivery for delivery in deliveries if counted[delivery.reply] <= self._budget.attempts_max]
        if spent:
            await self._finish(spent, [Dead(DeadReason.RETRY_BUDGET_EXHAUSTED)] * len(spent), counted)
        if left:
            await self._work(left, counted)

    async def _work(self, batch: Sequence[Delivery], counted: Counted) -> None:
        portions = deque([batch])
        while portions:
            portion = portions.popleft()
            if portion is not batch:
                await self._insist(self._hold)
            answer = await self._run(portion, TRIES_IN_HAND if portion is batch else 0)
            if isinstance(answer, list):
                await self._finish(portion, answer, counted)
            elif len(portion) > 1:
                middle = len(portion) // 2
                portions.extendleft((portion[middle:], portion[:middle]))
            elif isinstance(answer, Refusal):
                await self._finish(portion, [Dead(answer.reason)], counted)
            else:
                await self._own_failure(portion[0], answer.code, counted)

    async def _run(self, portion: Sequence[Delivery], tries_left: int) -> list[Fate] | Refusal | NoAnswer:
        """The fates, or why there are none; NoAnswer only when the dependencies answer all the same."""
        pause_ms = PAUSE_MS_BASE
        while True:
            try:
                fates = await self._stage.run(portion)
            except Refusal as refusal:
                return refusal
            except NoAnswer as failure:
                if not await self._answers():
                    self._report_pause(failure)
                    pause_ms = await self._pause(pause_ms)
                elif tries_left == 0:
                    return failure
                else:
                    tries_left -= 1
                    await self._wait(int(TRY_AGAIN_MS * (0.5 + self._tools.chance())))
            else:
                self._report_resumed()
                return fates

    async def _own_failure(self, delivery: Delivery, code: Code, counted: Counted) -> None:
        """Count the attempt unless it was counted before the run, then send the delivery to wait, or bury it."""
        if not self._budget.backoff_ms:
            await self._finish([delivery], [Later(code, LETTER_PARKED_MS)], counted)
            return
        if delivery.reply not in counted:
            event = identity_of(delivery)
            (attempt,) = await self._insist(lambda: self._tools.attempts.begin(self.name, [event]))
            counted = {delivery.reply: attempt}
        attempt = counted[delivery.reply]
        if attempt >= self._budget.attempts_max:
            await self._finish([delivery], [Dead(DeadReason.RETRY_BUDGET_EXHAUSTED)], counted)
            return
        wait_ms = delay_ms(attempt, self._budget.backoff_ms, self._tools.chance())
        stored = await self._insist(lambda: self._tools.retry.schedule(self.name, delivery, attempt, wait_ms))
        verb = ACK if stored else delayed(wait_ms)  # too large for the retry lane: it waits where it is
        await self._settle([(delivery, verb)])
        self._tools.meter.add(RETRIES, 1, self.name, code.value)
        self._tools.meter.add(STAGE_EVENTS, 1, self.name, "later")

    async def _finish(self, batch: Sequence[Delivery], fates: Sequence[Fate], counted: Counted) -> None:
        """Settle every delivery by its fate. The dead are in FG_DLQ before anything is acknowledged."""
        attempts_max = self._budget.attempts_max
        dead = [
            Death(delivery, fate.reason, min(counted.get(delivery.reply, 0), attempts_max))
            for delivery, fate in zip(batch, fates, strict=True)
            if isinstance(fate, Dead)
        ]
        if dead:
            await self._insist(lambda: self._tools.graveyard.bury(self.name, dead))
        await self._settle([(delivery, _verb(fate)) for delivery, fate in zip(batch, fates, strict=True)])
        for fate in fates:
            self._tools.meter.add(STAGE_EVENTS, 1, self.name, type(fate).__name__.lower())
        self._watch_storm(fates)
        await self._forget([delivery for delivery in batch if delivery.reply in counted])

    async def _settle(self, verbs: Sequence[tuple[Delivery, bytes]]) -> None:
        await self._insist(lambda: self._tools.broker.settle([(delivery.reply, verb) for delivery, verb in verbs]))
        self._settled(delivery for delivery, verb in verbs if verb == ACK)
        for delivery, _ in verbs:
            del self._in_hand[delivery.reply]

    async def _forget(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self._tools.attempts.forget(self.name, [identity_of(delivery) for delivery in deliveries])
        except NoAnswer:  # they are settled: a count that stays is read by nobody, and its window ends
            log.info("stage %s could not forget %d attempts", self.name, len(deliveries))

    async def _insist(self, verb: Callable[[], Awaitable[T]]) -> T:
        """The verb's answer, however long it takes. Raises _Stopping."""
        pause_ms = PAUSE_MS_BASE
        while True:
            try:
                answer = await verb()
            except NoAnswer as failure:
                self._report_pause(failure)
                pause_ms = await self._pause(pause_ms)
            else:
                self._report_resumed()
                return answer

    async def _pause(self, pause_ms: int) -> int:
        """Wait until the dependencies answer, the batch still in hand; returns how long to wait the next time.

        Raises _Stopping.
        """
        while True:
            await self._wait(pause_ms)
            pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)
            if await self._answers():
                return pause_ms

    async def _wait(self, wait_ms: int) -> None:
        """Tell the broker that the batch is still in hand and wait. Raises _Stopping."""
        if self._tools.broker.connected:
            await self._hold()
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise _Stopping

    async def _hold(self) -> None:
        await self._tools.broker.settle([(reply, IN_PROGRESS) for reply in self._in_hand])

    async def _answers(self) -> bool:
        return self._tools.broker.connected and await self._stage.ready()

    def _watch_storm(self, fates: Sequence[Fate]) -> None:
        before = self.guard.storm
        self.guard.ended(fates)
        if self.guard.storm and not before:
            log.error("stage %s takes no more: too many of its events end dead", self.name)
        elif before and not self.guard.storm:
            log.warning("stage %s goes on: its probe was done", self.name)
        if self.guard.storm is not before:
            self._tools.meter.add(STAGE_STORM, int(self.guard.storm), self.name)

    def _report_pause(self, failure: NoAnswer) -> None:
        if not self.paused:
            log.warning("stage %s pauses", self.name, extra={"error_code": failure.code.value})
        self.paused = True
        self._tools.meter.add(STAGE_PAUSED, 1, self.name)

    def _report_resumed(self) -> None:
        if self.paused:
            log.warning("stage %s resumes", self.name)
            self.paused = False
            self._tools.meter.add(STAGE_PAUSED, 0, self.name)


def _verb(fate: Fate) -> bytes:
    match fate:
        case Done() | Dead():  # the dead are buried by now; TERM would bury them twice, through its advisory
            return ACK
        case Later(delay_ms=wait_ms):
            return delayed(wait_ms)
        case _:
            assert_never(fate)
