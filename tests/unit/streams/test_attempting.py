"""The arithmetic of attempts: nobody runs more often than its budget, and company costs no innocent its life."""

from collections.abc import Iterator
from itertools import pairwise, zip_longest

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.attempting import COMPANY_MAX, SILENT_MAX, Blame, companies, delay_ms
from streams.budgets import BACKOFF_MS
from streams.delivery import Delivery

WINDOW_S = 900
ATTEMPTS_MAX = 5
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
    """Workers that are killed, by an event or by an operator, and the suspects their successors find."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}
        self.runs: dict[int, int] = {}
        self.deadly: set[int] = set()
        self.done: set[int] = set()
        self.dead: set[int] = set()
        self.others_kills = 0

    @initialize(events=st.integers(1, 200), deadly=st.integers(0, 3), data=st.data())
    def begin(self, events: int, deadly: int, data: st.DataObject) -> None:
        self.made = dict.fromkeys(range(events), 0)
        self.runs = dict.fromkeys(range(events), 0)
        self.deadly = data.draw(st.sets(st.integers(0, events - 1), max_size=deadly))

    def _companies(self, first_lane: int) -> Iterator[list[int]]:
        """The companies of all lanes, which take turns: each lane knows of its own suspects alone."""
        lanes = []
        for lane in range(LANES):
            left = [event for event in self.made if event % LANES == lane and event not in self.done | self.dead]
            groups = companies([self.made[event] for event in left], ATTEMPTS_MAX)
            lanes.append([[left[position] for position in group] for group in groups])
        for turn in zip_longest(*lanes[first_lane:], *lanes[:first_lane], fillvalue=[]):
            yield from filter(None, turn)

    def _life(self, killed_after: int | None, first_lane: int = 0) -> bool:
        """One worker over all suspects, as `streams/work.py` runs them; whether it was killed from outside."""
        for number, company in enumerate(self._companies(first_lane)):
            for event in company:
                self.made[event] += 1
            spent = {event for event in company if self.made[event] > ATTEMPTS_MAX}
            self.dead |= spent
            running = set(company) - spent
            for event in running:
                self.runs[event] += 1
            if number == killed_after:
                return True
            if running & self.deadly:
                return False
            self.done |= running
        return False

    @rule(first_lane=st.integers(0, LANES - 1))
    def nobody_kills_from_outside(self, first_lane: int) -> None:
        self._life(None, first_lane)

    # A company of three costs an innocent two attempts at most, so three kills from outside are left to it.
    @precondition(lambda self: self.others_kills < (3 if self.deadly else 5))
    @rule(after=st.integers(0, 40), first_lane=st.integers(0, LANES - 1))
    def an_operator_kills(self, after: int, first_lane: int) -> None:
        self.others_kills += self._life(after, first_lane)

    @invariant()
    def nothing_runs_more_often_than_its_budget(self) -> None:
        assert all(runs <= ATTEMPTS_MAX for runs in self.runs.values())

    @invariant()
    def nobody_innocent_is_dead(self) -> None:
        assert self.dead <= self.deadly

    def teardown(self) -> None:
        for _ in range(4 * ATTEMPTS_MAX):
            self._life(None)
        assert self.dead == self.deadly
        assert self.done == set(self.made) - self.deadly


Suspects.TestCase.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
TestSuspects = Suspects.TestCase
