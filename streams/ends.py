"""How the deliveries of one stage end: each is settled by its fate, once what it stands for is stored.

The dead are in FG_DLQ and the failed in FG_RETRY before they are acknowledged; an attempt that was
no failure of the event's own is given back before the event is let go.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from schemas.answers import NoAnswer
from schemas.codes import Code, DeadReason
from schemas.fate import Dead, Done, Fate, Later
from schemas.meter import Meter
from schemas.metrics import RETRIES, STAGE_EVENTS
from streams.attempting import Blame, Turns, delay_ms
from streams.budgets import LETTER_PARKED_MS, StageBudget
from streams.delivery import ACK, Delivery, delayed
from streams.graveyard import identity_of
from streams.patience import Patience
from streams.ports import Attempts, Burial, Death, RetryLane, Settler
from streams.storm import StormGuard

log = logging.getLogger("streams")

Settled = Callable[[Iterable[Delivery]], None]
Counted = Mapping[str, int]
"""By reply subject, the number of the attempt a delivery is having."""


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


class Ends:
    """Ends deliveries, however long it takes. Everything raises Stopping when the worker stops meanwhile."""

    def __init__(
        self, budget: StageBudget, guard: StormGuard, tools: Tools, patience: Patience, settled: Settled
    ) -> None:
        """`settled` is told the deliveries that were acknowledged."""
        self._stage = budget.stage
        self._budget = budget
        self._guard = guard
        self._tools = tools
        self._patience = patience
        self._settled = settled
        self._blame = tools.blame[budget.stage]
        self._kept_or_given: set[str] = set()
        """Reply subjects of what is to be let go, its attempt given back already or found to be its own."""

    async def finish(self, batch: Sequence[Delivery], fates: Sequence[Fate], counted: Counted) -> None:
        """Settle every delivery by its fate. The dead are in FG_DLQ before anything is acknowledged."""
        fates = [self._judged(delivery, fate) for delivery, fate in zip(batch, fates, strict=True)]
        attempts_max = self._budget.attempts_max
        dead = [
            Death(delivery, fate.reason, min(counted.get(delivery.reply, 0), attempts_max))
            for delivery, fate in zip(batch, fates, strict=True)
            if isinstance(fate, Dead)
        ]
        if dead:
            await self._patience.insist(lambda: self._tools.graveyard.bury(self._stage, dead))
        later = [delivery for delivery, fate in zip(batch, fates, strict=True) if isinstance(fate, Later)]
        await self._give_back_surely([delivery for delivery in later if delivery.reply in counted], counted)
        await self._settle([(delivery, _verb(fate)) for delivery, fate in zip(batch, fates, strict=True)])
        for ending, count in Counter(map(type, fates)).items():
            self._tools.meter.add(STAGE_EVENTS, count, self._stage, ending.__name__.lower())
        over = [(delivery, fate) for delivery, fate in zip(batch, fates, strict=True) if not isinstance(fate, Later)]
        for delivery, fate in over:
            self._blame.ended(delivery, through=isinstance(fate, Done))
        known = [delivery for delivery, _ in over if delivery.reply in counted or delivery.suspect]
        if attempts_max:
            await self._forget(known)

    async def exhausted(self, delivery: Delivery, code: Code, counted: Counted) -> None:
        """Bury what has had all its attempts; what its stage must not lose waits the longest, and somebody is told."""
        if DeadReason.RETRY_BUDGET_EXHAUSTED in self._budget.buries:
            await self.finish([delivery], [Dead(DeadReason.RETRY_BUDGET_EXHAUSTED)], counted)
        else:
            self._blame.note_overdue(self._stage, delivery)
            await self.try_later(delivery, code, counted[delivery.reply])

    async def try_later(self, delivery: Delivery, code: Code, attempt: int) -> None:
        """Send the delivery, whose `attempt`-th try failed, to wait for its next one."""
        wait_ms = delay_ms(attempt, self._budget.backoff_ms, self._tools.chance())
        schedule = self._tools.retry.schedule
        stored = await self._patience.insist(lambda: schedule(self._stage, delivery, attempt, wait_ms))
        verb = ACK if stored else delayed(wait_ms)  # too large for the retry lane: it waits where it is
        await self._settle([(delivery, verb)])
        self._blame.still_waits(delivery)
        self._patience.resume()
        self._tools.meter.add(RETRIES, 1, self._stage, code.value)
        self._tools.meter.add(STAGE_EVENTS, 1, self._stage, "later")

    async def park(self, delivery: Delivery, counted: Counted) -> None:
        """Let it wait where it is, unspent."""
        wait_ms = delay_ms(1, self._budget.backoff_ms, self._tools.chance())
        await self._give_back_surely([delivery] if delivery.reply in counted else [], counted)
        await self._settle([(delivery, delayed(wait_ms))])
        self._blame.still_waits(delivery)
        self._tools.meter.add(STAGE_EVENTS, 1, self._stage, "later")

    def keep_attempt(self, delivery: Delivery) -> None:
        """The attempt was the delivery's own failure: it stays counted, whatever becomes of the delivery."""
        self._kept_or_given.add(delivery.reply)

    async def give_back(self, deliveries: Sequence[Delivery], counted: Counted) -> None:
        """Take off the attempt they were counted and have not failed, or report that the database did not answer.

        Waits for nothing.
        """
        owed = [delivery for delivery in deliveries if delivery.reply not in self._kept_or_given]
        try:
            await self._give_back(owed, counted)
        except NoAnswer:
            log.info("stage %s could not give %d attempts back", self._stage, len(owed))

    async def _give_back_surely(self, deliveries: Sequence[Delivery], counted: Counted) -> None:
        """Before they are let go: what comes again must not find an attempt that was none."""
        await self._patience.insist(lambda: self._give_back(deliveries, counted))
        self._kept_or_given.update(delivery.reply for delivery in deliveries)

    async def _give_back(self, deliveries: Sequence[Delivery], counted: Counted) -> None:
        if deliveries:
            numbers = [counted[delivery.reply] for delivery in deliveries]
            await self._tools.attempts.give_back(self._stage, list(map(identity_of, deliveries)), numbers)

    async def _forget(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        try:
            await self._tools.attempts.forget(self._stage, [identity_of(delivery) for delivery in deliveries])
        except NoAnswer:  # they are settled: a count that stays is read by nobody, and its window ends
            log.info("stage %s could not forget %d attempts", self._stage, len(deliveries))

    def _judged(self, delivery: Delivery, fate: Fate) -> Fate:
        """The fate, told to the guard. What may not be buried, or not now, waits instead."""
        if isinstance(fate, Dead) and fate.reason not in self._budget.buries:
            self._blame.note_overdue(self._stage, delivery)
            fate = Later(Code.STORE_UNAVAILABLE, LETTER_PARKED_MS)
        elif self._guard.holds(delivery.reply, fate):
            fate = Later(Code.STORE_UNAVAILABLE, LETTER_PARKED_MS)
        self._guard.ended(delivery.reply, fate)
        return fate

    async def _settle(self, verbs: Sequence[tuple[Delivery, bytes]]) -> None:
        settlements = [(delivery.reply, verb) for delivery, verb in verbs]
        await self._patience.insist(lambda: self._tools.broker.settle(settlements))
        self._settled(delivery for delivery, verb in verbs if verb == ACK)
        for delivery, _ in verbs:
            del self._patience.in_hand[delivery.reply]
            self._kept_or_given.discard(delivery.reply)


def _verb(fate: Fate) -> bytes:
    match fate:
        case Done() | Dead():  # the dead are buried by now; TERM would bury them twice, through its advisory
            return ACK
        case Later(delay_ms=wait_ms):
            return delayed(wait_ms)
        case _:
            assert_never(fate)
