"""A storm stops a stage before it empties its stream into the dead-letter queue, and one done probe ends it."""

from collections.abc import Sequence

import pytest

from schemas.codes import Code, DeadReason
from schemas.fate import DONE, Dead, Fate, Later
from streams.storm import ENDS_MAX, ENDS_MIN, PROBE_S, UNTAKEN_S, StormGuard

POISON: Fate = Dead(DeadReason.POISON)
CONFLICT: Fate = Dead(DeadReason.EVENT_ID_CONFLICT)


class _Hands:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def now_s() -> _Hands:
    return _Hands()


@pytest.fixture
def guard(now_s: _Hands) -> StormGuard:
    return StormGuard(0.5, now_s)


def _end(guard: StormGuard, fates: Sequence[Fate], reply: str = "in hand") -> None:
    for fate in fates:
        guard.ended(reply, fate)


def _storm(guard: StormGuard) -> None:
    _end(guard, [POISON] * ENDS_MIN)
    assert guard.storm


def test_too_few_ends_are_no_storm_and_the_share_decides_once_there_are_enough(guard: StormGuard) -> None:
    _end(guard, [POISON] * (ENDS_MIN - 1))
    assert not guard.storm
    assert guard.room(512) == 512
    _end(guard, [POISON])
    assert guard.storm
    assert guard.room(512) == 0


def test_only_the_last_ends_count(guard: StormGuard) -> None:
    _end(guard, [DONE] * 10_000)
    _end(guard, [POISON] * (ENDS_MAX // 2 - 1))
    assert not guard.storm
    _end(guard, [POISON])
    assert guard.storm


def test_what_senders_make_and_what_waits_are_no_part_of_a_storm(guard: StormGuard) -> None:
    _end(guard, [CONFLICT] * ENDS_MAX)
    _end(guard, [Later(Code.STORE_UNAVAILABLE, 1_000)] * ENDS_MAX)
    assert not guard.storm


def test_after_a_minute_one_delivery_is_let_through_and_nobody_else(guard: StormGuard, now_s: _Hands) -> None:
    _storm(guard)
    now_s.now_s += PROBE_S - 0.001
    assert guard.room(512) == 0
    now_s.now_s += 0.001
    assert guard.room(512) == 1
    guard.taken([])
    assert guard.room(512) == 1
    guard.taken(["probe"])
    assert guard.room(512) == 0


def test_a_dead_probe_leaves_the_storm_and_a_done_one_ends_it(guard: StormGuard, now_s: _Hands) -> None:
    _storm(guard)
    now_s.now_s += PROBE_S
    guard.taken(["probe"])
    _end(guard, [POISON], "probe")
    assert guard.storm
    assert guard.room(512) == 0
    now_s.now_s += PROBE_S
    guard.taken(["next probe"])
    _end(guard, [DONE], "next probe")
    assert not guard.storm
    assert guard.room(512) == 512


def test_what_was_in_hand_when_the_storm_began_does_not_end_it(guard: StormGuard) -> None:
    _storm(guard)
    _end(guard, [DONE] * ENDS_MAX)
    assert guard.storm


def test_a_probe_that_waits_says_nothing_and_the_next_comes_a_minute_later(guard: StormGuard, now_s: _Hands) -> None:
    _storm(guard)
    now_s.now_s += PROBE_S
    guard.taken(["probe"])
    _end(guard, [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, 1_000)], "probe")
    assert guard.room(512) == 0
    now_s.now_s += PROBE_S
    assert guard.room(512) == 1


def test_after_a_storm_counting_starts_anew(guard: StormGuard, now_s: _Hands) -> None:
    _storm(guard)
    now_s.now_s += PROBE_S
    guard.taken(["probe"])
    _end(guard, [DONE], "probe")
    _end(guard, [POISON] * (ENDS_MIN - 1))
    assert not guard.storm


def test_a_storm_ends_when_nothing_is_left_to_probe_with(now_s: _Hands) -> None:
    told: list[bool] = []
    guard = StormGuard(0.5, now_s, told.append)
    _storm(guard)
    now_s.now_s += PROBE_S
    guard.taken([])  # another runner of the stage may have one
    assert guard.storm
    now_s.now_s += UNTAKEN_S
    guard.taken([])
    assert not guard.storm
    assert guard.room(512) == 512
    assert told == [True, False]
    _storm(guard)


def test_a_probe_that_was_just_taken_is_waited_for(guard: StormGuard, now_s: _Hands) -> None:
    _storm(guard)
    now_s.now_s += PROBE_S
    guard.taken(["probe"])
    now_s.now_s += UNTAKEN_S
    guard.taken([])
    assert guard.storm


def test_in_a_storm_only_the_probe_and_what_says_nothing_of_the_stage_are_buried(
    guard: StormGuard, now_s: _Hands
) -> None:
    exhausted = Dead(DeadReason.RETRY_BUDGET_EXHAUSTED)
    assert not guard.holds("in hand", POISON)
    _storm(guard)
    fates = (POISON, CONFLICT, exhausted, DONE)
    assert [guard.holds("in hand", fate) for fate in fates] == [True, False, False, False]
    now_s.now_s += PROBE_S
    guard.taken(["probe"])
    assert not guard.holds("probe", POISON)
    _end(guard, [POISON], "probe")
    assert guard.holds("probe", POISON)


def test_while_a_probe_is_out_what_was_in_hand_before_is_held_and_its_end_is_not_the_probes(
    guard: StormGuard, now_s: _Hands
) -> None:
    _storm(guard)
    now_s.now_s += PROBE_S
    guard.taken(["probe"])
    assert guard.holds("in hand", POISON)
    _end(guard, [POISON, Dead(DeadReason.RETRY_BUDGET_EXHAUSTED), DONE])
    assert guard.storm
    assert not guard.holds("probe", POISON)
    _end(guard, [DONE], "probe")
    assert not guard.storm
