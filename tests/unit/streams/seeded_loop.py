"""An event loop whose order of events is a seed's: it shuffles what is ready and jumps to the next timer."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SeededLoop(asyncio.SelectorEventLoop):
    """Runs as fast as it can on a clock of its own. Nothing may wait for the world outside."""

    _ready: Any
    _scheduled: list[Any]

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready:
            assert self._scheduled, "everyone waits for something that nobody will do"
            self._now_s = max(self._now_s, self._scheduled[0].when())
        else:
            ready = list(self._ready)
            self._chance.shuffle(ready)
            self._ready.clear()
            self._ready.extend(ready)
        super()._run_once()  # type: ignore[misc]  # the loop's own step has no published type


def run_seeded(main: Coroutine[Any, Any, T], chance: random.Random) -> T:
    loop = SeededLoop(chance)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
