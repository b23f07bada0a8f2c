"""`Prefer: wait=N`: how it is read, and that all who wait share one question."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import waiting
from edge.waiting import WAIT_S_MAX, DecisionWaits, prefer_wait_s
from schemas.answers import NoAnswer
from schemas.codes import Code


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"wait=5", 5),
        (b"WAIT=5", 5),
        (b'wait="5"', 5),
        (b"wait = 5", 5),
        (b" \twait=5 ", 5),
        (b"wait=0", 0),
        (b"wait=007", 7),
        (b"wait=10", 10),
        (b"wait=11", WAIT_S_MAX),
        (b"wait=" + b"9" * 9_000, WAIT_S_MAX),
        (b"respond-async, wait=3", 3),
        (b"wait=3, respond-async", 3),
        (b",,wait=3,", 3),
        (b"wait=3; foo=bar", 3),
        (b"wait=3, wait=4", 3),
        (b'note="a, wait=9", wait=2', 2),
        (b'note="a \\", wait=9", wait=2', 2),
        (b"return=minimal; wait=9, wait=2", 2),
    ],
)
def test_a_preference_to_wait_is_read_as_the_standard_has_it(field: bytes, seconds: int) -> None:
    assert prefer_wait_s({b"prefer": field}) == seconds


@pytest.mark.parametrize(
    "field",
    [
        *(b"", b"wait", b"wait=", b"wait=x", b"wait=-1", b"wait=1.5", b"wait=+1", b'wait=""', b'wait="5', b"wait=5 6"),
        *(b"waits=5", b"await=5", b"respond-async", b"wait=x, wait=5", b'note="wait=5"', b'"wait=5', b"wait=\xb2"),
        b"wait=" + b"0" * 9_000 + b"x",
    ],
)
def test_what_is_malformed_or_says_nothing_of_waiting_is_ignored(field: bytes) -> None:
    assert prefer_wait_s({b"prefer": field}) is None


def test_without_the_field_nobody_waits() -> None:
    assert prefer_wait_s({b"accept": b"wait=5"}) is None


@given(st.binary(max_size=200))
def test_no_field_value_breaks_the_reading(field: bytes) -> None:
    seconds = prefer_wait_s({b"prefer": field})
    assert seconds is None or 0 <= seconds <= WAIT_S_MAX


class Deciding:
    """Decides what it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], bytes] = {}
        self.asked: list[Sequence[tuple[str, str]]] = []
        self.answers = True
        self.was_asked = asyncio.Event()

    async def decided(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        self.asked.append(identities)
        self.was_asked.set()
        if not self.answers:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return {identity: self.documents[identity] for identity in identities if identity in self.documents}


async def test_all_who_wait_share_one_question_and_each_gets_its_own_answer() -> None:
    decisions = Deciding()
    waits = DecisionWaits(decisions)
    decisions.documents = {("acme", f"e{number}"): b"%d" % number for number in range(100)}
    answers = await asyncio.gather(*(waits.wait("acme", f"e{number}", 10) for number in range(100)))
    assert answers == [b"%d" % number for number in range(100)]
    assert len(decisions.asked) == 1


async def test_several_who_wait_for_one_event_get_the_same_decision() -> None:
    decisions = Deciding()
    waits = DecisionWaits(decisions)
    both = [asyncio.create_task(waits.wait("acme", "e1", 10)) for _ in range(2)]
    await decisions.was_asked.wait()
    decisions.documents["acme", "e1"] = b"decided"
    assert await asyncio.gather(*both) == [b"decided"] * 2
    assert all(list(asked) == [("acme", "e1")] for asked in decisions.asked)


async def test_a_decision_that_does_not_come_in_time_is_none() -> None:
    assert await DecisionWaits(Deciding()).wait("acme", "e1", 1) is None


async def test_a_database_that_does_not_answer_makes_nobody_wait() -> None:
    decisions = Deciding()
    decisions.answers = False
    waits = DecisionWaits(decisions)
    async with asyncio.timeout(5):
        assert await waits.wait("acme", "e1", 10) is None
    decisions.answers = True
    decisions.documents["acme", "e1"] = b"decided"
    assert await waits.wait("acme", "e1", 10) == b"decided"


async def test_beyond_the_bound_nobody_waits_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITING_MAX", 2)
    decisions = Deciding()
    waits = DecisionWaits(decisions)
    first = [asyncio.create_task(waits.wait("acme", "e1", 10)) for _ in range(2)]
    await decisions.was_asked.wait()
    assert await waits.wait("acme", "e2", 10) is None
    first[0].cancel()
    decisions.documents = {("acme", "e1"): b"1", ("acme", "e2"): b"2"}
    assert await first[1] == b"1"
    assert await waits.wait("acme", "e2", 10) == b"2"


async def test_one_tenant_does_not_take_the_waiting_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TENANT_WAITING_MAX", 1)
    decisions = Deciding()
    waits = DecisionWaits(decisions)
    first = asyncio.create_task(waits.wait("acme", "e1", 10))
    await decisions.was_asked.wait()
    assert await waits.wait("acme", "e2", 10) is None
    decisions.documents = {("acme", "e1"): b"1", ("acme", "e2"): b"2", ("other", "e1"): b"3"}
    assert await waits.wait("other", "e1", 10) == b"3"
    assert await first == b"1"
    assert await waits.wait("acme", "e2", 10) == b"2"


async def test_on_stopping_all_who_wait_are_told_at_once_and_nobody_waits_any_more() -> None:
    decisions = Deciding()
    waits = DecisionWaits(decisions)
    waiters = [asyncio.create_task(waits.wait("acme", f"e{number}", 10)) for number in range(3)]
    await decisions.was_asked.wait()
    waits.stop()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiters) == [None] * 3
        assert await waits.wait("acme", "e9", 10) is None


async def test_nobody_is_asked_for_once_everybody_went_away() -> None:
    decisions = Deciding()
    waits = DecisionWaits(decisions)
    gone = asyncio.create_task(waits.wait("acme", "e1", 10))
    await decisions.was_asked.wait()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert waits._polling is not None
    await waits._polling
    assert await waits.wait("acme", "e1", 0) is None
    assert waits._waiting == {}
