"""Whether the clocks of this process, Redis and Postgres agree: windows of time are only as good as that."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas.answers import NoAnswer
from schemas.units import Clock
from sinks.pg import Pool
from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 10.0
RETRY_S = 1.0
ANSWER_S_MAX = 1.0
"""A slower answer says too little: its clock was read at some moment of the call."""
APART_MS_MAX = 2_000
AGE_S_MAX = 60.0
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8"


class _Comparison(NamedTuple):
    ahead_ms: float
    at_s: float


class ClockWatch:
    """Compares every 10 s, and every second while the clocks disagree.

    A dependency that does not answer is not skew: its last comparison stands.
    """

    def __init__(self, clock: Clock, client: "Redis", pool: Pool) -> None:
        self._clock = clock
        self._client = client
        self._pool = pool
        self._comparisons: dict[str, _Comparison] = {}

    @property
    def findings(self) -> list[str]:
        """Why `skewed` is true, nothing when it is not."""
        now_s = asyncio.get_running_loop().time()
        latest_s = max((one.at_s for one in self._comparisons.values()), default=None)
        if latest_s is None:
            return ["the clocks were not compared yet"]
        found = [
            f"the clock of {name} is {abs(one.ahead_ms) / 1000:.1f} s {'ahead' if one.ahead_ms > 0 else 'behind'}"
            for name, one in self._comparisons.items()
            if abs(one.ahead_ms) > APART_MS_MAX
        ]
        if now_s - latest_s > AGE_S_MAX:
            found.append(f"the clocks were not compared for {now_s - latest_s:.0f} s")
        return found

    def skewed(self) -> bool:
        """Whether a clock is more than 2 s apart from ours, or none was compared within 60 s."""
        return bool(self.findings)

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            await set_within(stopping, RETRY_S if self.skewed() else INTERVAL_S)

    async def check(self) -> None:
        """Compare now."""
        was_skewed = bool(self._comparisons) and self.skewed()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._compare("Redis", self._redis_ms))
            tasks.create_task(self._compare("Postgres", self._postgres_ms))
        if self._comparisons and self.skewed() and not was_skewed:
            log.error("%s", "; ".join(self.findings))

    async def _compare(self, name: str, their_ms: Callable[[], Awaitable[float]]) -> None:
        asked_ms = self._clock.now_ms()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                there_ms = await their_ms()
        except (NoAnswer, RedisError, OSError):
            return  # others watch whether and how they answer
        ahead_ms = there_ms - (asked_ms + self._clock.now_ms()) / 2
        self._comparisons[name] = _Comparison(ahead_ms, asyncio.get_running_loop().time())

    async def _redis_ms(self) -> float:
        seconds, microseconds = await self._client.time()
        return float(seconds * 1000 + microseconds / 1000)

    async def _postgres_ms(self) -> float:
        async with self._pool.connection() as connection:
            now: Any = await connection.fetchval(_NOW)
            return float(now)
