"""Many questions, few calls."""

import asyncio
from collections.abc import Sequence

import pytest

from edge.coalesce import Coalescer
from schemas.answers import NoAnswer
from schemas.codes import Code


class Oracle:
    """Doubles numbers when let; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.began: asyncio.Queue[None] = asyncio.Queue()
        self.let = asyncio.Event()
        self.let.set()
        self.fault: Exception | None = None

    async def fetch(self, numbers: Sequence[int]) -> Sequence[int]:
        self.calls.append(tuple(numbers))
        self.began.put_nowait(None)
        await self.let.wait()
        if self.fault is not None:
            raise self.fault
        return [2 * number for number in numbers]


@pytest.fixture
async def oracle() -> Oracle:
    return Oracle()


async def test_those_who_ask_together_share_a_call(oracle: Oracle) -> None:
    questions = Coalescer(oracle.fetch, 0, 10)
    assert await asyncio.gather(*(questions.ask(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert oracle.calls == [(0, 1, 2, 3, 4)]


async def test_those_who_ask_during_a_call_share_the_next(oracle: Oracle) -> None:
    questions = Coalescer(oracle.fetch, 0, 10)
    oracle.let.clear()
    first = questions.ask(1)
    await oracle.began.get()
    later = [questions.ask(number) for number in (2, 3)]
    oracle.let.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6]
    assert oracle.calls == [(1,), (2, 3)]


async def test_a_call_carries_no_more_than_its_bound(oracle: Oracle) -> None:
    questions = Coalescer(oracle.fetch, 0, 2)
    assert await asyncio.gather(*(questions.ask(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert oracle.calls == [(0, 1), (2, 3), (4,)]


async def test_no_answer_reaches_everyone_who_asked_and_nobody_after(oracle: Oracle) -> None:
    questions = Coalescer(oracle.fetch, 0, 10)
    oracle.fault = NoAnswer(Code.STORE_UNAVAILABLE)
    asked = [questions.ask(number) for number in (1, 2)]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, NoAnswer)
        assert answer.code is Code.STORE_UNAVAILABLE
    oracle.fault = None
    assert await questions.ask(3) == 6


async def test_one_who_gives_up_takes_nothing_from_the_others(oracle: Oracle) -> None:
    questions = Coalescer(oracle.fetch, 0, 10)
    gone, kept = questions.ask(1), questions.ask(2)
    gone.cancel()
    assert await kept == 4


async def test_a_fault_of_ours_leaves_nobody_waiting(oracle: Oracle) -> None:
    questions = Coalescer(oracle.fetch, 0, 10)
    oracle.let.clear()
    oracle.fault = ZeroDivisionError()
    asked = [questions.ask(1)]
    await oracle.began.get()
    asked.append(questions.ask(2))
    call = vars(questions)["_serving"]
    oracle.let.set()
    with pytest.raises(ZeroDivisionError):
        await call
    assert all(answer.cancelled() for answer in asked)
    oracle.fault = None
    assert await questions.ask(3) == 6
