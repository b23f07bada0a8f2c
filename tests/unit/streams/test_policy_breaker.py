"""The circuit of the policy server and what is believed of its rules: state machines that are told the time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.opa_breaker import FAILURES_IN_A_ROW, OPEN_MS, WINDOW, Breaker, State
from streams.opa_proof import CHECK_MS, PROOF_AGE_MS_MAX, Proof


def opened() -> Breaker:
    """Open since 0 ms."""
    breaker = Breaker()
    for _ in range(FAILURES_IN_A_ROW):
        breaker.failed(0)
    assert breaker.state is State.OPEN
    return breaker


def test_failures_in_a_row_open_it_and_an_answer_between_them_begins_the_row_anew() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_IN_A_ROW - 1):
        breaker.failed(0)
    breaker.answered()
    for _ in range(FAILURES_IN_A_ROW - 1):
        breaker.failed(0)
    assert breaker.lets_in(0)
    breaker.failed(0)
    assert not breaker.lets_in(0)


def test_half_of_the_last_20_open_it_though_never_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(WINDOW):
        breaker.answered()
    for _ in range(WINDOW // 2 - 1):
        breaker.failed(0)
        breaker.answered()
    assert breaker.lets_in(0)
    breaker.failed(0)
    assert not breaker.lets_in(0)


def test_failures_older_than_the_last_20_are_forgotten() -> None:
    breaker = Breaker()
    for _ in range(10 * WINDOW):
        breaker.failed(0)
        breaker.answered()
        breaker.answered()
    assert breaker.state is State.CLOSED


def test_open_it_lets_nobody_in_for_5_s_then_exactly_one() -> None:
    breaker = opened()
    assert not breaker.lets_in(OPEN_MS - 1)
    assert [breaker.lets_in(OPEN_MS) for _ in range(3)] == [True, False, False]


def test_the_probe_decides() -> None:
    breaker = opened()
    assert breaker.lets_in(OPEN_MS)
    breaker.failed(OPEN_MS + 250)
    assert not breaker.lets_in(2 * OPEN_MS + 249)
    assert breaker.lets_in(2 * OPEN_MS + 250)
    breaker.answered()
    assert [breaker.lets_in(0) for _ in range(3)] == [True] * 3
    for _ in range(WINDOW // 2 - 1):
        breaker.failed(0)
        breaker.answered()
    assert breaker.state is State.CLOSED, "what happened before is forgotten"


def test_answers_to_questions_from_before_it_opened_change_nothing() -> None:
    breaker = opened()
    breaker.answered()
    breaker.failed(OPEN_MS - 1)
    assert not breaker.lets_in(OPEN_MS - 1)
    assert breaker.lets_in(OPEN_MS)


@given(st.lists(st.tuples(st.sampled_from(["ask", "answer", "fail"]), st.integers(0, 6_000)), max_size=60))
def test_whatever_happens_it_lets_somebody_in_again(steps: list[tuple[str, int]]) -> None:
    breaker, now_ms, probing = Breaker(), 0, False
    for step, pause_ms in steps:
        now_ms += pause_ms
        if step == "ask":
            half_open_before = breaker.state is State.HALF_OPEN
            let_in = breaker.lets_in(now_ms)
            assert not (half_open_before and let_in)
            probing = probing or (let_in and breaker.state is State.HALF_OPEN)
        elif step == "answer":
            breaker.answered()
            probing = False
        else:
            breaker.failed(now_ms)
            probing = False
    if probing:
        breaker.failed(now_ms)
    assert breaker.lets_in(now_ms + OPEN_MS)


def test_nothing_is_believed_before_the_first_proof() -> None:
    assert Proof().doubt(0)
    assert Proof().is_due(0)


def test_a_proof_grows_old_from_the_moment_it_was_begun() -> None:
    proof = Proof()
    proof.proven(None, asked_ms=0)
    assert not proof.is_due(CHECK_MS - 1)
    assert proof.is_due(CHECK_MS)
    assert not proof.doubt(PROOF_AGE_MS_MAX)
    assert proof.doubt(PROOF_AGE_MS_MAX + 1)
    assert proof.doubt(0), "a doubt stays until the next proof"
    proof.proven(None, asked_ms=PROOF_AGE_MS_MAX)
    assert not proof.doubt(PROOF_AGE_MS_MAX + 1)


@pytest.mark.parametrize("other", [("", {"fg": {"revision": "2"}}), ("2", None)])
def test_an_answer_under_other_revisions_casts_doubt_on_all_that_follow(other: object) -> None:
    proof = Proof()
    proof.proven(("", None), asked_ms=0)
    assert proof.answered_under(("", None))
    assert not proof.answered_under(other)
    assert not proof.answered_under(("", None))
    assert proof.is_due(1)
    proof.proven(other, asked_ms=1)
    assert proof.answered_under(other)


def test_a_refuted_server_is_not_believed_whatever_was_asked_before() -> None:
    proof = Proof()
    proof.proven(None, asked_ms=0)
    proof.refuted("other modules")
    assert proof.doubt(1) == "other modules"
    assert not proof.answered_under(None)
