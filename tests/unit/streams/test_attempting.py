"""The arithmetic of attempts: nobody runs more often than its budget, and company costs no innocent its life."""

import asyncio
import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.attempting import COMPANY_MAX, SILENT_MAX, Blame, companies, delay_ms
from streams.budgets import BACKOFF_MS, budget_of
from streams.delivery import Delivery
from streams.runner import keep_settled
from streams.storm import StormGuard
from streams.work import StageWork, Tools
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.stage_world import DEADLY, INNOCENT, STREAM, Killed, World
from tests.unit.streams.test_work_seeded import ATTEMPTS_MAX, RETRY, STREAMS

WINDOW_S = 900
LANES = 3


@given(made=st.lists(st.integers(0, 7), max_size=300), attempts_max=st.integers(1, 8))
def test_every_suspect_runs_once_the_least_tried_first_and_the_last_attempt_alone(
    made: list[int], attempts_max: int
) -> None:
    groups = list(companies(made, attempts_max))
    assert sorted(position for group in groups for position in group) == list(range(len(made)))
    assert [made[group[0]] for group in groups] == sorted(made[group[0]] for group in groups)
    for group in groups:
        (attempts,) = {made[position] for position in group}
        assert len(group) <= (COMPANY_MAX[attempts] if attempts < len(COMPANY_MAX) else 1)
        assert len(group) == 1 or attempts < attempts_max - 1


def test_a_thousand_suspects_are_sixteen_runs_and_after_one_kill_each_a_hundred_and_twenty_five() -> None:
    assert len(list(companies([0] * 1_000, ATTEMPTS_MAX))) == 16
    assert len(list(companies([1] * 1_000, ATTEMPTS_MAX))) == 125
    assert len(list(companies([2] * 1_000, ATTEMPTS_MAX))) == 1_000


@given(attempt=st.integers(1, 20), chance=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_its_step_of_the_ladder_within_a_fifth(attempt: int, chance: float) -> None:
    step_ms = BACKOFF_MS[min(attempt, len(BACKOFF_MS)) - 1]
    assert 0.8 * step_ms - 1 <= delay_ms(attempt, BACKOFF_MS, chance) <= 1.2 * step_ms


def test_the_ladder_grows_and_its_longest_waits_fit_the_window() -> None:
    assert all(earlier < later for earlier, later in pairwise(BACKOFF_MS))
    assert sum(delay_ms(n + 1, BACKOFF_MS, 0.999) for n in range(len(BACKOFF_MS))) / 1_000 < WINDOW_S / 2
    assert len(BACKOFF_MS) == ATTEMPTS_MAX - 1


def _delivery(seq: int) -> Delivery:
    return Delivery("fg.decide.3.acme", b"", f"q.{seq}", "FG_DECIDE", seq)


def test_a_failure_is_ones_own_once_others_got_through_and_the_next_one_is_judged_anew() -> None:
    blame = Blame()
    assert not blame.is_its_own(_delivery(1), blame.got_through)
    blame.ended(_delivery(2), through=False)  # what is buried got no answer either
    assert not blame.is_its_own(_delivery(1), blame.got_through)
    blame.ended(_delivery(2), through=True)
    assert blame.is_its_own(_delivery(1), blame.got_through)
    assert not blame.is_its_own(_delivery(1), blame.got_through)


def test_what_this_process_outlived_is_forgotten_when_it_ends_and_when_there_is_too_much_of_it() -> None:
    blame = Blame()
    for seq in range(SILENT_MAX + 1):
        blame.is_its_own(_delivery(seq), 0)
    blame.ended(_delivery(1), through=True)
    assert [blame.outlived(_delivery(seq)) for seq in (0, 1, 2, SILENT_MAX)] == [False, False, True, True]


class Suspects(RuleBasedStateMachine):
    """Workers that are killed, by an event or by an operator, and the suspects that their successors work off."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(random.Random(0))
        self.others_kills = 0
        self.deadly: set[int] = set()

    @initialize(events=st.integers(1, 200), deadly=st.integers(0, 3), seed=st.integers(0, 1_000), data=st.data())
    def begin(self, events: int, deadly: int, seed: int, data: st.DataObject) -> None:
        self.deadly = data.draw(st.sets(st.integers(1, events), max_size=deadly))
        self.world = World(random.Random(seed))
        self.world.store(*(DEADLY if seq in self.deadly else INNOCENT for seq in range(1, events + 1)))
        for message in self.world.messages.values():
            message.delivered = True

    async def _work_lanes(self) -> None:
        """One worker over all that its predecessor left: each lane takes its own suspects, all at the same time."""
        tools = Tools(
            broker=self.world,
            graveyard=self.world,
            attempts=self.world,
            retry=self.world,
            meter=self.world,
            chance=self.world.chance.random,
        )
        guard = StormGuard(2.0, asyncio.get_running_loop().time)  # never reached
        budget = budget_of("decision", STREAMS, RETRY)
        works = []
        for lane in range(LANES):
            own = {seq: message for seq, message in self.world.messages.items() if seq % LANES == lane}
            batch = self.world.deliver(own, len(own), STREAM)
            works.append(StageWork(self.world, budget, guard, tools, keep_settled).work(batch, asyncio.Event()))
        tasks = [asyncio.ensure_future(work) for work in works]
        _, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in left:  # the process is gone
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if ended is not None and not isinstance(ended, Killed | asyncio.CancelledError):
                raise ended

    def _life(self, runs_left: int | None) -> None:
        self.world.restarted()
        self.world.runs_left = runs_left
        run_seeded(self._work_lanes(), self.world.chance)
        self.others_kills += runs_left is not None and (self.world.runs_left or 0) < 0

    @rule()
    def nobody_kills_from_outside(self) -> None:
        self._life(None)

    # Company costs an innocent two attempts at most, so two kills from outside leave it its last one.
    @precondition(lambda self: self.others_kills < (2 if self.deadly else 4))
    @rule(after=st.integers(0, 40))
    def an_operator_kills(self, after: int) -> None:
        self._life(after)

    @invariant()
    def nothing_runs_more_often_than_its_budget(self) -> None:
        assert all(len(runs) <= ATTEMPTS_MAX for runs in self.world.runs.values())

    @invariant()
    def nobody_innocent_is_dead(self) -> None:
        assert set(self.world.letters) <= self.deadly

    def teardown(self) -> None:
        for _ in range(4 * ATTEMPTS_MAX):
            self._life(None)
        assert set(self.world.letters) == self.deadly
        assert self.world.effects == set(self.world.messages) - self.deadly
        assert self.world.unsettled == []


Suspects.TestCase.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)
TestSuspects = Suspects.TestCase
