"""A batch in hand that does not get through: it is kept alive at the broker until it does, and nothing is spent."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.meter import Meter
from schemas.metrics import STAGE_PAUSED
from streams.delivery import IN_PROGRESS, Delivery
from streams.ports import Settler

log = logging.getLogger("streams")

T = TypeVar("T")

PAUSE_MS_BASE = 250
PAUSE_MS_MAX = 2_000
TURN_MS = 1_000
"""So often a batch that waits for its turn is shown to the broker to be alive."""


class Stopping(Exception):
    """The worker stops: what is in hand stays unsettled and is delivered again."""


class Patience:
    """Waits for one stage's work. Whatever waits raises Stopping when the worker stops meanwhile."""

    def __init__(
        self,
        name: str,
        broker: Settler,
        meter: Meter,
        ready: Callable[[], Awaitable[bool]],
        let_others_run: Callable[[], None],
    ) -> None:
        """`ready` says whether the dependencies answer, asked without any message.

        `let_others_run` is called as a pause begins: nobody else waits for what this stage waits for.
        """
        self._name = name
        self._broker = broker
        self._meter = meter
        self._ready = ready
        self._let_others_run = let_others_run
        self._stopping = asyncio.Event()
        self.in_hand: dict[str, Delivery] = {}
        self.paused = False

    def take(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self.in_hand = {delivery.reply: delivery for delivery in batch}

    async def insist(self, verb: Callable[[], Awaitable[T]]) -> T:
        """The verb's answer, however long it takes."""
        pause_ms = PAUSE_MS_BASE
        while True:
            try:
                answer = await verb()
            except NoAnswer as failure:
                pause_ms = await self.pause(failure, pause_ms)
            else:
                self.resume()
                return answer

    async def until_ready(self) -> None:
        """Return once the dependencies answer."""
        if not await self.answers():
            await self.pause(NoAnswer(Code.STORE_UNAVAILABLE), PAUSE_MS_BASE)

    async def pause(self, failure: NoAnswer, pause_ms: int) -> int:
        """Wait until the dependencies answer, so long at least; returns how long to wait the next time."""
        self._report(failure)
        self._let_others_run()
        while True:
            await self.wait(pause_ms)
            pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)
            if await self.answers():
                return pause_ms

    async def wait(self, wait_ms: int) -> None:
        if self._broker.connected:
            await self.hold()
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopping

    async def turn(self, come: Callable[[], Awaitable[object]]) -> None:
        """Return once `come` has, which is asked anew each time the batch was shown to the broker."""
        while True:
            try:
                async with asyncio.timeout(TURN_MS / 1000):
                    await come()
            except TimeoutError:
                await self.wait(0)
            else:
                return

    async def hold(self) -> None:
        """On return the broker was told that the batch is still in hand. Raises NoAnswer when nothing was sent."""
        await self._broker.settle([(reply, IN_PROGRESS) for reply in self.in_hand])

    async def answers(self) -> bool:
        """Whether the dependencies answer. A worker that stops does not wait for their silence: it raises Stopping."""
        if self._stopping.is_set():
            raise Stopping
        return self._broker.connected and await self._ready()

    def resume(self) -> None:
        """Something got through."""
        if self.paused:
            log.warning("stage %s resumes", self._name)
            self.paused = False
            self._meter.add(STAGE_PAUSED, 0, self._name)

    def _report(self, failure: NoAnswer) -> None:
        if not self.paused:
            log.warning("stage %s pauses: %s", self._name, failure, extra={"error_code": failure.code.value})
        self.paused = True
        self._meter.add(STAGE_PAUSED, 1, self._name)
