"""One stage at work on one batch: run it, settle every delivery by its fate, once its effect is committed.

Three kinds of failure are told apart (docs/adr/0011). A dependency that is away, or says that it
cannot, pauses the stage: it keeps its batch alive at the broker and tries again; no message is spent
on finding out. A batch that is refused, or gets no answer although its dependencies answer, is
halved until the guilty delivery stands alone; that one is buried, or, once others got through, goes
to the retry lane as long as its budget lasts. Anything else a stage raises is a bug: it ends the
process with every delivery unacknowledged, and what was in hand then comes back as suspect.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from schemas.answers import NoAnswer, NotNow, Refusal
from schemas.codes import Code
from schemas.fate import Dead, Fate, Later
from streams.attempting import companies
from streams.budgets import LETTER_PARKED_MS, StageBudget
from streams.delivery import Delivery
from streams.ends import Counted, Ends, Settled, Tools
from streams.graveyard import identity_of
from streams.patience import PAUSE_MS_BASE, Patience, Stopping
from streams.storm import StormGuard

__all__ = ["Settled", "Stage", "StageWork", "Tools"]

log = logging.getLogger("streams")

TRIES_IN_HAND = 2
"""How often a whole batch is tried again at once before it is taken apart: most silence is short."""
TRY_AGAIN_MS = 100
NOTHING_COUNTED: Counted = {}


class Stage(Protocol):
    """One step of the pipeline. Running the same delivery twice has the effect of once."""

    name: str

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        """The fate of each delivery, in order, its effect committed.

        Raises NoAnswer when a dependency does not answer (run again later), NotNow when it says that no
        event is at fault, and Refusal when the store will never take something in this batch.
        """

    async def ready(self) -> bool:
        """Whether the dependencies answer, asked without any message."""


class StageWork:
    """Works one batch after the other; several may share a stage and its guard."""

    def __init__(self, stage: Stage, budget: StageBudget, guard: StormGuard, tools: Tools, settled: Settled) -> None:
        """`settled` is told the deliveries that were acknowledged, so that a queue can be swept behind them."""
        self._stage = stage
        self._budget = budget
        self._tools = tools
        self._patience = Patience(stage.name, tools.broker, tools.meter, stage.ready, self._let_others_run)
        self._ends = Ends(budget, guard, tools, self._patience, settled)
        self._blame = tools.blame[stage.name]
        self._alone = False
        """Whether nothing else of the process runs, for our sake."""
        self.guard = guard

    @property
    def name(self) -> str:
        return self._stage.name

    @property
    def paused(self) -> bool:
        return self._patience.paused

    async def work(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        """Return when every delivery is settled, or, what is in hand unsettled, when `stopping` is set in a pause."""
        self._patience.take(batch, stopping)
        suspects = [delivery for delivery in batch if self._is_suspect(delivery)]
        others = [delivery for delivery in batch if not self._is_suspect(delivery)]
        try:
            if suspects:
                await self._work_suspects(suspects)
            if others:
                await self._work(others, NOTHING_COUNTED)
        except Stopping:
            log.info("stage %s stops with %d deliveries in hand", self.name, len(self._patience.in_hand))

    def _is_suspect(self, delivery: Delivery) -> bool:
        """Without attempts of its own a stage has nothing to count, and no event to count it for."""
        return delivery.suspect and self._budget.attempts_max > 0 and not self._blame.outlived(delivery)

    async def _work_suspects(self, suspects: Sequence[Delivery]) -> None:
        events = [identity_of(delivery) for delivery in suspects]
        made = await self._patience.insist(lambda: self._tools.attempts.made(self.name, events))
        turns = self._tools.turns
        for company in companies(made, self._budget.attempts_max):
            await self._patience.insist(self._patience.hold)
            await self._patience.until_ready()  # else the turn would be held, and the attempt spent, on waiting
            await self._patience.turn(turns.suspects.acquire)
            try:
                last = made[company[0]] == self._budget.attempts_max - 1  # one that has had more runs no more
                await self._work_counted([suspects[position] for position in company], last=last)
            finally:
                self._let_others_run()
                turns.suspects.release()

    async def _work_counted(self, deliveries: Sequence[Delivery], *, last: bool) -> None:
        """Count the attempt, then run: should this run end the process too, it has been counted."""
        counted = await self._count(deliveries, last=last)
        spent = [delivery for delivery in deliveries if counted[delivery.reply] > self._budget.attempts_max]
        left = [delivery for delivery in deliveries if counted[delivery.reply] <= self._budget.attempts_max]
        for delivery in spent:
            await self._ends.exhausted(delivery, Code.OUTCOME_UNKNOWN, counted)
        try:
            if left:
                await self._work(left, counted)
        except Stopping:  # told to stop while it waited, the process was ended by none of these
            unsettled = [delivery for delivery in left if delivery.reply in self._patience.in_hand]
            await self._ends.give_back(unsettled, counted)
            raise

    async def _count(self, deliveries: Sequence[Delivery], *, last: bool) -> Counted:
        """The number of each one's attempt, committed. A last one is counted while nothing else runs."""
        events = [identity_of(delivery) for delivery in deliveries]

        async def begin() -> list[int]:
            if last:
                await self._stand_alone()
            return await self._tools.attempts.begin(self.name, events)

        attempts = await self._patience.insist(begin)
        return {delivery.reply: attempt for delivery, attempt in zip(deliveries, attempts, strict=True)}

    async def _stand_alone(self) -> None:
        """Return when nothing else runs; nothing else begins until others are let run."""
        self._alone = True
        self._tools.turns.close()
        await self._patience.turn(self._tools.turns.idle)

    def _let_others_run(self) -> None:
        if self._alone:
            self._alone = False
            self._tools.turns.reopen()

    async def _work(self, batch: Sequence[Delivery], counted: Counted) -> None:
        portions = deque([batch])
        silent: list[tuple[Delivery, NoAnswer]] = []
        got_through_then: int | None = None
        while portions:
            portion = portions.popleft()
            if portion is not batch:
                await self._patience.insist(self._patience.hold)
            answer = await self._run(portion, TRIES_IN_HAND if portion is batch else 0, counted)
            if isinstance(answer, list):
                await self._ends.finish(portion, answer, counted)
                continue
            if got_through_then is None:
                got_through_then = self._blame.got_through
            if len(portion) > 1:
                middle = len(portion) // 2
                portions.extendleft((portion[middle:], portion[:middle]))
            elif isinstance(answer, Refusal):
                await self._ends.finish(portion, [Dead(answer.reason)], counted)
            else:
                if self._blame.got_through == got_through_then:
                    await self._patience.pause(answer, PAUSE_MS_BASE)
                silent.append((portion[0], answer))
        for delivery, failure in silent:  # judged when all others of the batch had their chance
            await self._unanswered(delivery, failure, got_through_then or 0, counted)

    async def _run(
        self, portion: Sequence[Delivery], tries_left: int, counted: Counted
    ) -> list[Fate] | Refusal | NoAnswer:
        """The fates, or why there are none; NoAnswer only when the dependencies answer all the same."""
        pause_ms = PAUSE_MS_BASE
        while True:
            try:
                fates = await self._run_once(portion, counted)
            except Refusal as refusal:
                return refusal
            except NoAnswer as failure:
                alone_and_innocent = len(portion) == 1 and isinstance(failure, NotNow)
                if alone_and_innocent or not await self._patience.answers():
                    pause_ms = await self._patience.pause(failure, pause_ms)
                elif tries_left == 0:
                    return failure
                else:
                    tries_left -= 1
                    await self._patience.wait(int(TRY_AGAIN_MS * (0.5 + self._tools.chance())))
            else:
                self._patience.resume()
                return fates

    async def _run_once(self, portion: Sequence[Delivery], counted: Counted) -> list[Fate]:
        turns = self._tools.turns
        if counted:
            if any(counted[delivery.reply] >= self._budget.attempts_max for delivery in portion):
                await self._stand_alone()  # once more, where a pause let others run
            return await self._stage.run(portion)
        while not turns.is_open:
            await self._patience.turn(turns.opened)
        with turns.uncounted():
            return await self._stage.run(portion)

    async def _unanswered(self, delivery: Delivery, failure: NoAnswer, got_through_then: int, counted: Counted) -> None:
        """The delivery's own failure, if others got through since its first one; else it waits where it is, unspent."""
        if not self._budget.backoff_ms:
            await self._ends.finish([delivery], [Later(failure.code, LETTER_PARKED_MS)], counted)
        elif self._blame.is_its_own(delivery, got_through_then):
            await self._own_failure(delivery, failure.code, counted)
        else:
            await self._ends.park(delivery, counted)

    async def _own_failure(self, delivery: Delivery, code: Code, counted: Counted) -> None:
        """Count the attempt unless it was counted before the run, then send the delivery to wait, or bury it."""
        self._ends.keep_attempt(delivery)
        if delivery.reply not in counted:
            counted = await self._count([delivery], last=False)
        if counted[delivery.reply] >= self._budget.attempts_max:
            await self._ends.exhausted(delivery, code, counted)
        else:
            await self._ends.try_later(delivery, code, counted[delivery.reply])
