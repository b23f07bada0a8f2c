"""Many single questions answered by few calls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from schemas.answers import NoAnswer

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Coalescer(Generic[Question, Answer]):
    """Per lane at most one call at a time; whoever asks meanwhile, or within the linger, shares the next one.

    `fetch(lane, questions)` returns one answer per question, in order. Not thread-safe: one event loop.
    """

    def __init__(
        self,
        fetch: Callable[[str, Sequence[Question]], Awaitable[Sequence[Answer]]],
        linger_ms: float,
        questions_max: int,
    ) -> None:
        self._fetch = fetch
        self._linger_s = linger_ms / 1000
        self._questions_max = questions_max
        self._waiting: dict[str, list[tuple[Question, asyncio.Future[Answer]]]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def ask(self, lane: str, question: Question) -> "asyncio.Future[Answer]":
        """The answer to come. The future raises the NoAnswer that `fetch` raised."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        waiting = self._waiting.get(lane)
        if waiting is None:
            self._waiting[lane] = [(question, answer)]
            call = loop.create_task(self._serve(lane))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        else:
            waiting.append((question, answer))
        return answer

    async def _serve(self, lane: str) -> None:
        """Call until nobody waits in this lane."""
        try:
            while True:
                await asyncio.sleep(self._linger_s)
                waiting = self._waiting[lane]
                if not waiting:
                    return
                share, self._waiting[lane] = waiting[: self._questions_max], waiting[self._questions_max :]
                await self._call(lane, share)
        finally:
            for _, answer in self._waiting.pop(lane):
                answer.cancel()

    async def _call(self, lane: str, share: list[tuple[Question, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._fetch(lane, [question for question, _ in share])
            for (_, future), answer in zip(share, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except NoAnswer as failure:
            for _, future in share:
                if not future.done():
                    future.set_exception(NoAnswer(failure.code))
        finally:
            for _, future in share:
                future.cancel()  # only after a fault of ours: whoever waits must not wait for ever
