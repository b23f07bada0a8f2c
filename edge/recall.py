"""What Postgres said about a credential: asked again once it is not fresh, at once for all who wait for it."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from edge.settings import EdgeSettings
from edge.turns import Turns
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.units import Clock, UnixMs

ENTRIES_MAX = 10_000
STRANGERS_AT_ONCE = 1
"""Names that were not found before wait for each other, so that a flood of invented ones delays none that is known."""

Name = TypeVar("Name", bound=str | bytes)
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class _Found(Generic[Known]):
    """`found_ms`: when Postgres last had it. `asked_ms`: when it was last asked, with or without an answer."""

    known: Known
    found_ms: UnixMs
    asked_ms: UnixMs


class Recall(Generic[Name, Known]):
    """A bounded memory of what is there and of what is not, each by its name."""

    def __init__(self, clock: Clock, settings: EdgeSettings) -> None:
        self._clock = clock
        self._fresh_ms = settings.key_fresh_ms
        self._stale_ms_max = settings.key_stale_ms_max
        self._found: dict[Name, _Found[Known]] = {}
        self._absent: dict[Name, UnixMs] = {}
        self._strangers = Turns(STRANGERS_AT_ONCE, Code.STORE_UNAVAILABLE)
        self._asking: dict[Name, asyncio.Task[Known | None]] = {}

    async def get(self, name: Name, ask: Callable[[], Coroutine[Any, Any, Known | None]]) -> Known | None:
        """What `ask` says of the name, at most `key_fresh_ms` old; None when there is nothing.

        When Postgres does not answer, what was there within `key_stale_ms_max` still is; else raises NoAnswer.
        """
        now_ms = self._clock.now_ms()
        found = self._found.get(name)
        if found is not None and self._fresh(found.asked_ms, now_ms) and self._usable(found, now_ms):
            return found.known
        absent_ms = self._absent.get(name)
        if absent_ms is not None and self._fresh(absent_ms, now_ms):
            return None
        asking = self._asking.get(name)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(name, ask))
            self._asking[name] = asking
            asking.add_done_callback(lambda _: self._asking.pop(name))
        return await asyncio.shield(asking)

    async def _ask(self, name: Name, ask: Callable[[], Coroutine[Any, Any, Known | None]]) -> Known | None:
        now_ms = self._clock.now_ms()
        try:
            known = await self._answer(name, ask)
        except NoAnswer:
            found = self._found.get(name)
            if found is None or not self._usable(found, now_ms):
                raise
            self._found[name] = replace(found, asked_ms=self._clock.now_ms())
            return found.known
        # Taken out first, so that the first name of each dictionary is always the one asked about longest ago.
        self._found.pop(name, None)
        self._absent.pop(name, None)
        if known is None:
            _bound(self._absent)
            self._absent[name] = now_ms
        else:
            _bound(self._found)
            self._found[name] = _Found(known, now_ms, now_ms)
        return known

    async def _answer(self, name: Name, ask: Callable[[], Coroutine[Any, Any, Known | None]]) -> Known | None:
        if name in self._found:
            return await ask()
        async with self._strangers.one():
            return await ask()

    def _fresh(self, asked_ms: UnixMs, now_ms: UnixMs) -> bool:
        """A clock set back makes nothing fresh."""
        return 0 <= now_ms - asked_ms <= self._fresh_ms

    def _usable(self, found: _Found[Known], now_ms: UnixMs) -> bool:
        return 0 <= now_ms - found.found_ms <= self._stale_ms_max


def _bound(memory: dict[Name, Any]) -> None:
    if len(memory) >= ENTRIES_MAX:
        del memory[next(iter(memory))]
