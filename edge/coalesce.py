"""Many single questions answered by few calls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from schemas.answers import NoAnswer

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Coalescer(Generic[Question, Answer]):
    """At most one call at a time; whoever asks meanwhile, or within the linger, shares the next one.

    `fetch(questions)` returns one answer per question, in order. Not thread-safe: one event loop.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        linger_ms: float,
        questions_max: int,
    ) -> None:
        self._fetch = fetch
        self._linger_s = linger_ms / 1000
        self._questions_max = questions_max
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._serving: asyncio.Task[None] | None = None

    def ask(self, question: Question) -> "asyncio.Future[Answer]":
        """The answer to come. The future raises the NoAnswer that `fetch` raised."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, answer))
        if self._serving is None:
            self._serving = loop.create_task(self._serve())
        return answer

    async def _serve(self) -> None:
        """Call until nobody waits."""
        try:
            while self._waiting:
                await asyncio.sleep(self._linger_s)
                share = self._waiting[: self._questions_max]
                del self._waiting[: self._questions_max]
                await self._call(share)
        finally:
            self._serving = None
            for _, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()

    async def _call(self, share: list[tuple[Question, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._fetch([question for question, _ in share])
            for (_, future), answer in zip(share, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except NoAnswer as failure:
            for _, future in share:
                if not future.done():
                    future.set_exception(failure)
        finally:
            for _, future in share:
                future.cancel()  # only after a fault of ours: whoever waits must not wait for ever
