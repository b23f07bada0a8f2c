"""Who may try a half-open circuit: N probes in a round, over all edge processes or in this one alone.

A round ends when one probe fails (open again, for everybody who asks) or all have passed (closed,
also for those who were still waiting). One whose probes never came back is forgotten after
PROBE_MS_MAX, and a new one begins. A probe that was not used is given to another call.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from edge.deadline import within
from edge.redis_store import Script
from edge.settings import BreakerSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.units import Clock

PROBE_MS_MAX = 10_000
"""Longer than any call that a circuit guards may take."""
ANSWER_MS_MAX = 50
LOCAL = "local "
"""How the name of a round begins that is counted in this process."""


class Word(StrEnum):
    PROBE = "probe"
    NONE = "none"
    OPEN = "open"
    CLOSED = "closed"
    LATE = "late"


class Became(StrEnum):
    """What became of a probe. One that was not used was given to a call that then could not be made."""

    PASSED = "passed"
    FAILED = "failed"
    UNUSED = "unused"


class Answer(NamedTuple):
    """The word; for how long it holds, where it does; the round of the probe that was given."""

    word: Word
    ms: int = 0
    round: str = ""


class Probes(Protocol):
    """The two questions, as `probes.lua` answers them. Both raise NoAnswer: then nobody may pass."""

    async def ask(self, name: str, opened_ms_ago: int) -> Answer:
        """Whether a call may pass as a probe. A round that closed since the asker opened closes the asker."""

    async def report(self, name: str, round_: str, became: Became) -> Answer:
        """What became of a probe of that round."""


class SharedProbes:
    """Counted in Redis."""

    def __init__(self, client: "Redis", settings: BreakerSettings) -> None:
        self._client = client
        self._script = Script("probes.lua")
        self._bounds = (settings.half_open_probes, settings.open_seconds * 1000, PROBE_MS_MAX)

    async def ask(self, name: str, opened_ms_ago: int) -> Answer:
        return await self._call(name, "ask", opened_ms_ago)

    async def report(self, name: str, round_: str, became: Became) -> Answer:
        return await self._call(name, became, round_)

    async def _call(self, name: str, word: str, last: int | str) -> Answer:
        try:
            call = self._script.call(self._client, [name], word, *self._bounds, last)
            answer: Sequence[bytes | int] = await within(ANSWER_MS_MAX, call)
        except (RedisError, OSError) as cause:
            raise NoAnswer(Code.RATE_LIMIT_BACKEND_UNAVAILABLE) from cause
        word_, ms, round_ = answer
        assert isinstance(word_, bytes)
        assert isinstance(round_, bytes)
        return Answer(Word(word_.decode()), int(ms), round_.decode())


@dataclass(slots=True)
class _Round:
    phase: Word
    since_ms: int
    name: str
    given: int
    passed: int
    until_ms: float
    """When it is forgotten."""


class LocalProbes:
    """Counted in this process. `probes.lua` in Python."""

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._probes = settings.half_open_probes
        self._open_ms = settings.open_seconds * 1000
        self._clock = clock
        self._rounds: dict[str, _Round] = {}
        self._number = 0

    async def ask(self, name: str, opened_ms_ago: int) -> Answer:
        now_ms = self._clock.now_ms()
        held = self._held(name, now_ms)
        if held.phase is Word.OPEN and now_ms < held.since_ms + self._open_ms:
            return Answer(Word.OPEN, held.since_ms + self._open_ms - now_ms)
        if held.phase is Word.CLOSED and held.since_ms > now_ms - opened_ms_ago:
            return Answer(Word.CLOSED)
        if held.phase is Word.PROBE and held.given >= self._probes:
            return Answer(Word.NONE, math.ceil(held.until_ms - now_ms))
        if held.phase is not Word.PROBE:
            self._number += 1
            held = self._rounds[name] = _Round(Word.PROBE, now_ms, f"{LOCAL}{self._number}", 0, 0, 0)
        held.given += 1
        held.until_ms = now_ms + PROBE_MS_MAX
        return Answer(Word.PROBE, 0, held.name)

    async def report(self, name: str, round_: str, became: Became) -> Answer:
        now_ms = self._clock.now_ms()
        held = self._held(name, now_ms)
        if held.phase is not Word.PROBE or held.name != round_:
            return Answer(Word.LATE)
        failed = became is Became.FAILED
        held.given -= became is Became.UNUSED
        held.passed += became is Became.PASSED
        if not failed and held.passed < self._probes:
            return Answer(Word.PROBE, 0, round_)
        held.phase = Word.OPEN if failed else Word.CLOSED
        held.since_ms = now_ms
        held.until_ms = now_ms + self._open_ms + PROBE_MS_MAX
        return Answer(held.phase, self._open_ms if failed else 0)

    def _held(self, name: str, now_ms: int) -> _Round:
        held = self._rounds.get(name)
        return held if held is not None and now_ms < held.until_ms else _Round(Word.LATE, 0, "", 0, 0, 0)


class OverriddenProbes:
    """Counted in Redis; where Redis does not answer and an emergency override is armed, in this process.

    Without an override nothing is taken in then, so nobody needs a probe. With one, a circuit that
    could not close would undo what it was armed for.
    """

    def __init__(self, shared: Probes, local: Probes, armed: Callable[[], str | None]) -> None:
        self._shared = shared
        self._local = local
        self._armed = armed

    async def ask(self, name: str, opened_ms_ago: int) -> Answer:
        try:
            return await self._shared.ask(name, opened_ms_ago)
        except NoAnswer:
            if self._armed() is None:
                raise
        return await self._local.ask(name, opened_ms_ago)

    async def report(self, name: str, round_: str, became: Became) -> Answer:
        probes = self._local if round_.startswith(LOCAL) else self._shared
        return await probes.report(name, round_, became)
