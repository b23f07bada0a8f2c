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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from schemas.answers import NoAnswer, NotNow, Refusal
from schemas.codes import Code, DeadReason
from schemas.fate import Dead, Done, Fate, Later
from schemas.meter import Meter
from schemas.metrics import RETRIES, STAGE_EVENTS
from streams.attempting import Blame, Turns, companies, delay_ms
from streams.budgets import LETTER_PARKED_MS, StageBudget
from streams.delivery import ACK, Delivery, delayed
from streams.graveyard import identity_of
from streams.patience import PAUSE_MS_BASE, Patience, Stopping
from streams.ports import Attempts, Burial, Death, RetryLane, Settler
from streams.storm import StormGuard

log = logging.getLogger("streams")

Settled = Callable[[Iterable[Delivery]], None]
Counted = Mapping[str, int]
"""By reply subject, the number of the attempt a delivery is having."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every stage's work needs beside the stage, and what all of a process share of each other.

    `chance` gives numbers in [0, 1).
    """

    broker: Settler
    graveyard: Burial
    attempts: Attempts
    retry: RetryLane
    meter: Meter
    chance: Callable[[], float]
    turns: Turns = field(default_factory=Turns)
    blame: defaultdict[str, Blame] = field(default_factory=lambda: defaultdict(Blame))


class StageWork:
    """Works one batch after the other; several may share a stage and its guard."""

    def __init__(self, stage: Stage, budget: StageBudget, guard: StormGuard, tools: Tools, settled: Settled) -> None:
        """`settled` is told the deliveries that were acknowledged, so that a queue can be swept behind them."""
        self._stage = stage
        self._budget = budget
        self._tools = tools
        self._settled = settled
        self._patience = Patience(stage.name, tools.broker, tools.meter, stage.ready)
        self._blame = tools.blame[stage.name]
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
            await self._patience.turn(turns.suspects)
            try:
                if made[company[0]] >= self._budget.attempts_max - 1:
                    await turns.close()
                await self._work_counted([suspects[position] for position in company])
            finally:
                turns.reopen()
                turns.suspects.release()

    async def _work_counted(self, deliveries: Sequence[Delivery]) -> None:
        """Count the attempt, then run: should this run end the process too, it has been counted."""
        events = [identity_of(delivery) for delivery in deliveries]
        attempts = await self._patience.insist(lambda: self._tools.attempts.begin(self.name, events))
        counted = {delivery.reply: attempt for delivery, attempt in zip(deliveries, attempts, strict=True)}
        spent = [delivery for delivery in deliveries if counted[delivery.reply] > self._budget.attempts_max]
        left = [delivery for delivery in deliveries if counted[delivery.reply] <= self._budget.attempts_max]
        for delivery in spent:
            await self._exhausted(delivery, Code.OUTCOME_UNKNOWN, counted)
        try:
            if left:
                await self._work(left, counted)
        except Stopping:  # told to stop while it waited, the process was ended by none of these
            await self._forget([delivery for delivery in left if delivery.reply in self._patience.in_hand])
            raise

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
                await self._finish(portion, answer, counted)
                continue
            if got_through_then is None:
                got_through_then = self._blame.got_through
            if len(portion) > 1:
                middle = len(portion) // 2
                portions.extendleft((portion[middle:], portion[:middle]))
            elif isinstance(answer, Refusal):
                await self._finish(portion, [Dead(answer.reason)], counted)
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
            try:
                return await self._stage.run(portion)
            finally:
                turns.reopen()  # the process lives: others may run beside what is left to do
        async with turns.uncounted():
            return await self._stage.run(portion)

    async def _unanswered(self, delivery: Delivery, failure: NoAnswer, got_through_then: int, counted: Counted) -> None:
        """The delivery's own failure, if others got through since its first one; else it waits where it is, unspent."""
        if not self._budget.backoff_ms:
            await self._finish([delivery], [Later(failure.code, LETTER_PARKED_MS)], counted)
        elif self._blame.is_its_own(delivery, got_through_then):
            await self._own_failure(delivery, failure.code, counted)
        else:
            wait_ms = delay_ms(1, self._budget.backoff_ms, self._tools.chance())
            await self._settle([(delivery, delayed(wait_ms))])
            await self._forget([delivery] if delivery.reply in counted else [])
            self._tools.meter.add(STAGE_EVENTS, 1, self.name, "later")

    async def _own_failure(self, delivery: Delivery, code: Code, counted: Counted) -> None:
        """Count the attempt unless it was counted before the run, then send the delivery to wait, or bury it."""
        if delivery.reply not in counted:
            event = identity_of(delivery)
            (attempt,) = await self._patience.insist(lambda: self._tools.attempts.begin(self.name, [event]))
            counted = {delivery.reply: attempt}
        if counted[delivery.reply] >= self._budget.attempts_max:
            await self._exhausted(delivery, code, counted)
        else:
            await self._try_later(delivery, code, counted[delivery.reply])

    async def _exhausted(self, delivery: Delivery, code: Code, counted: Counted) -> None:
        """Bury what has had all its attempts; what its stage must not lose waits the longest, and somebody is told."""
        if DeadReason.RETRY_BUDGET_EXHAUSTED in self._budget.buries:
            await self._finish([delivery], [Dead(DeadReason.RETRY_BUDGET_EXHAUSTED)], counted)
        else:
            self._blame.note_overdue(self.name, delivery)
            await self._try_later(delivery, code, counted[delivery.reply])

    async def _try_later(self, delivery: Delivery, code: Code, attempt: int) -> None:
        wait_ms = delay_ms(attempt, self._budget.backoff_ms, self._tools.chance())
        schedule = self._tools.retry.schedule
        stored = await self._patience.insist(lambda: schedule(self.name, delivery, attempt, wait_ms))
        verb = ACK if stored else delayed(wait_ms)  # too large for the retry lane: it waits where it is
        await self._settle([(delivery, verb)])
        self._patience.resume()
        self._tools.meter.add(RETRIES, 1, self.name, code.value)
        self._tools.meter.add(STAGE_EVENTS, 1, self.name, "later")

    async def _finish(self, batch: Sequence[Delivery], fates: Sequence[Fate], counted: Counted) -> None:
        """Settle every delivery by its fate. The dead are in FG_DLQ before anything is acknowledged."""
        fates = [self._permitted(delivery, fate) for delivery, fate in zip(batch, fates, strict=True)]
        attempts_max = self._budget.attempts_max
        dead = [
            Death(delivery, fate.reason, min(counted.get(delivery.reply, 0), attempts_max))
            for delivery, fate in zip(batch, fates, strict=True)
            if isinstance(fate, Dead)
        ]
        if dead:
            await self._patience.insist(lambda: self._tools.graveyard.bury(self.name, dead))
        await self._settle([(delivery, _verb(fate)) for delivery, fate in zip(batch, fates, strict=True)])
        for ending, count in Counter(map(type, fates)).items():
            self._tools.meter.add(STAGE_EVENTS, count, self.name, ending.__name__.lower())
        self.guard.ended(fates)
        forgotten: list[Delivery] = []
        for delivery, fate in zip(batch, fates, strict=True):
            over = not isinstance(fate, Later)
            if over:
                self._blame.ended(delivery, through=isinstance(fate, Done))
            if delivery.reply in counted or (over and delivery.suspect and attempts_max):  # counted now or earlier
                forgotten.append(delivery)
        await self._forget(forgotten)

    def _permitted(self, delivery: Delivery, fate: Fate) -> Fate:
        """The fate; what the stage never buries for that reason waits instead, and somebody is told."""
        if not isinstance(fate, Dead) or fate.reason in self._budget.buries:
            return fate
        self._blame.note_overdue(self.name, delivery)
        return Later(Code.STORE_UNAVAILABLE, LETTER_PARKED_MS)

    async def _settle(self, verbs: Sequence[tuple[Delivery, bytes]]) -> None:
        settlements = [(delivery.reply, verb) for delivery, verb in verbs]
        await self._patience.insist(lambda: self._tools.broker.settle(settlements))
        self._settled(delivery for delivery, verb in verbs if verb == ACK)
        for delivery, _ in verbs:
            del self._patience.in_hand[delivery.reply]

    async def _forget(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self._tools.attempts.forget(self.name, [identity_of(delivery) for delivery in deliveries])
        except NoAnswer:  # they are settled: a count that stays is read by nobody, and its window ends
            log.info("stage %s could not forget %d attempts", self.name, len(deliveries))


def _verb(fate: Fate) -> bytes:
    match fate:
        case Done() | Dead():  # the dead are buried by now; TERM would bury them twice, through its advisory
            return ACK
        case Later(delay_ms=wait_ms):
            return delayed(wait_ms)
        case _:
            assert_never(fate)
