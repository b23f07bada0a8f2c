"""The 30 s memory of receipts in Redis or Valkey. A hint saves a look-up and is never the truth.

Recalling is on every request's way: one call for all who wait, `redis_timeout_ms` at most, and no
answer refuses the request. Remembering is behind everyone's back: what cannot be written is
dropped and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from edge.coalesce import Coalescer
from edge.deadline import within
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import EventKey

log = logging.getLogger("edge")

RECALL_LINGER_MS = 0
"""Whoever asks during a call shares the next one: under load that is enough, and an idle edge waits for nobody."""
REMEMBER_LINGER_MS = 50.0
"""Every write costs the server an fsync, behind which recalls wait; until a hint is there, the broker knows."""
KEYS_PER_CALL_MAX = 1_000
KEYS_QUEUED_MAX = 20_000
BATCH_RECALLS_MAX = 2
"""More at once would only wait for this process's own turn, and be late by its own fault."""
CONNECTIONS_MAX = 8
BACKGROUND_S_MAX = 2.0
WRITE_SCRIPT = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end"
"""One command for many hints: a SET each costs the edge ten times as much."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(EventKey).decode


def redis_client(url: str) -> "Redis":
    """A client that fails at once instead of retrying: the deadline of a request is shorter than any backoff."""
    client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=CONNECTIONS_MAX)
    return client


class RedisHints:
    """Implements `edge.ports.Hints`. Call `close` to write what is queued and give the connections back."""

    def __init__(self, client: "Redis", settings: EdgeSettings) -> None:
        self._client = client
        self._timeout_ms = settings.redis_timeout_ms
        self._ttl_ms = settings.hint_ttl_ms
        self._recalls: Coalescer[tuple[str, str], EventKey | None] = Coalescer(
            self._recall_many, RECALL_LINGER_MS, KEYS_PER_CALL_MAX
        )
        self._batch_recalls = asyncio.Semaphore(BATCH_RECALLS_MAX)
        self._queue: deque[EventKey] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self.lost = 0
        """Hints dropped since start."""

    async def recall(self, tenant_id: str, event_ids: Sequence[str]) -> Sequence[EventKey | None]:
        """One answer per id, in order. Raises NoAnswer(RATE_LIMIT_BACKEND_UNAVAILABLE)."""
        if len(event_ids) == 1:
            return [await self._recalls.ask((tenant_id, event_ids[0]))]
        async with self._batch_recalls:
            return await self._recall_many([(tenant_id, event_id) for event_id in event_ids])

    def remember(self, keys: Sequence[EventKey]) -> None:
        """Queue the hints of stored events; beyond the bound of the queue they are dropped."""
        room = KEYS_QUEUED_MAX - len(self._queue)
        self.lost += max(0, len(keys) - room)
        self._queue.extend(keys[:room])
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Write what is queued, if Redis takes it, and close the connections."""
        for task in (self._writing, self._reviving):
            if task is not None:
                await task
        await self._client.aclose()

    async def _recall_many(self, asked: Sequence[tuple[str, str]]) -> Sequence[EventKey | None]:
        positions: dict[str, list[int]] = {}
        for position, (tenant_id, _) in enumerate(asked):
            positions.setdefault(tenant_id, []).append(position)
        commands = [["MGET", *(_name(*asked[one]) for one in places)] for places in positions.values()]
        try:
            replies = await within(self._timeout_ms, self._call(commands))
        except (RedisError, OSError) as cause:
            self._revive()
            raise NoAnswer(Code.RATE_LIMIT_BACKEND_UNAVAILABLE) from cause
        found: list[EventKey | None] = [None] * len(asked)
        for places, values in zip(positions.values(), replies, strict=True):
            for position, value in zip(places, values, strict=True):
                found[position] = _read(value, *asked[position])
        return found

    async def _write_all(self) -> None:
        while self._queue:
            await asyncio.sleep(REMEMBER_LINGER_MS / 1000)
            share = [self._queue.popleft() for _ in range(min(len(self._queue), KEYS_PER_CALL_MAX))]
            by_tenant: dict[str, list[EventKey]] = {}
            for key in share:
                by_tenant.setdefault(key.tenant_id, []).append(key)
            try:
                async with asyncio.timeout(BACKGROUND_S_MAX):
                    await self._call([self._write_command(keys) for keys in by_tenant.values()])
            except (RedisError, OSError) as cause:
                self.lost += len(share)
                log.warning("%d hints lost: %s", len(share), type(cause).__name__)

    def _write_command(self, keys: list[EventKey]) -> list[object]:
        names = [_name(key.tenant_id, key.event_id) for key in keys]
        return ["EVAL", WRITE_SCRIPT, len(keys), *names, self._ttl_ms, *map(_encode, keys)]

    async def _call(self, commands: Sequence[Sequence[object]]) -> Sequence[Sequence[bytes | None]]:
        """One command per tenant, because in a cluster the keys of two tenants may live on two nodes."""
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]  # not annotated there
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Sequence[bytes | None]] = await pipeline.execute()
            return replies

    def _revive(self) -> None:
        """Connect in the background: a request's own deadline may be too short for a new connection."""
        if self._reviving is None or self._reviving.done():
            self._reviving = asyncio.get_running_loop().create_task(self._ping())

    async def _ping(self) -> None:
        try:
            async with asyncio.timeout(BACKGROUND_S_MAX):
                await self._client.execute_command("PING")  # type: ignore[no-untyped-call]  # not annotated there
        except (RedisError, OSError) as cause:
            log.warning("the coordination store does not answer: %s", type(cause).__name__)


def _name(tenant_id: str, event_id: str) -> str:
    """All keys of a tenant share the hash tag, so a tenant lives on one node of a cluster."""
    return f"fg:{{{tenant_id}}}:h:{event_id}"


def _read(value: bytes | None, tenant_id: str, event_id: str) -> EventKey | None:
    """The key in a hint. What does not read as this event's key is no hint; the truth is asked instead."""
    if value is None:
        return None
    try:
        key = _decode(value)
    except msgspec.MsgspecError:
        return None
    return key if (key.tenant_id, key.event_id) == (tenant_id, event_id) else None
