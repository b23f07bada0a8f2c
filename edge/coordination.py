"""The coordination store: the one awaited call of a request, and the notes behind everyone's back.

Admission is on every request's way: one script call for all who wait, `redis_timeout_ms` at most, and
no answer refuses the request, because nothing here decides in the store's stead. Notes are behind
everyone's back: what cannot be written is dropped and counted.

The store is one server: the script takes the keys of many tenants at once, which a cluster refuses.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from edge.coalesce import Coalescer
from edge.deadline import within
from edge.ports import Admission, Ask
from edge.redis_store import Script
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import EventKey

log = logging.getLogger("edge")

ADMIT_LINGER_MS = 0
"""Whoever asks during a call shares the next one: under load that is enough, and an idle edge waits for nobody."""
NOTE_LINGER_MS = 50.0
"""Every write costs the server an fsync, behind which admissions wait; until a hint is there, the broker knows."""
IDS_PER_CALL_MAX = 1_000
"""The server answers nobody else during a call."""
IDS_SMALL_MAX = 8
"""Asks of more ids share calls of their own, so that small ones wait for few."""
NOTES_QUEUED_MAX = 20_000
TRIES_FIELDS_MAX = 1_024
BACKGROUND_S_MAX = 2.0

ADMIT = Script("admit.lua")
REMEMBER = Script("remember.lua")
TRIED = Script("tried.lua")
EPOCH = Script("epoch.lua")

_REFUSALS = (None, Code.REPLAY_WINDOW_CLOSED, Code.REPLAY_DETECTED)


class _Try(NamedTuple):
    tenant_id: str
    event_id: str


class _Answer(NamedTuple):
    """As admit.lua says it."""

    refused: int
    hinted: list[int]
    admitted: int
    admitted_duplicates: int
    remaining: int
    retry_after_ms: int
    tries: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode_hint = msgspec.msgpack.Decoder(EventKey).decode
_decode_answers = msgspec.msgpack.Decoder(list[_Answer]).decode


class RedisCoordination:
    """Implements `edge.ports.Coordination`. Call `close` to write what is queued and give the connections back."""

    def __init__(self, client: "Redis", settings: EdgeSettings) -> None:
        self._client = client
        self._timeout_ms = settings.redis_timeout_ms
        self._ttl_ms = settings.hint_ttl_ms
        self._tries_window_ms = settings.tries_window_ms
        self._small: Coalescer[Ask, Admission] = Coalescer(self._admit_all, ADMIT_LINGER_MS, IDS_PER_CALL_MAX)
        self._large: Coalescer[Ask, Admission] = Coalescer(self._admit_all, ADMIT_LINGER_MS, IDS_PER_CALL_MAX)
        self._notes: deque[EventKey | _Try] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self.lost = 0
        """Notes dropped since start."""

    async def admit(self, ask: Ask) -> Admission:
        """Raises NoAnswer(RATE_LIMIT_BACKEND_UNAVAILABLE): then a charge or a nonce may have been taken or not."""
        return await (self._small if len(ask.event_ids) <= IDS_SMALL_MAX else self._large).ask(ask)

    def remember(self, keys: Sequence[EventKey]) -> None:
        """Queue the hints of stored events; beyond the bound of the queue they are dropped."""
        self._note(keys)

    def tried(self, tenant_id: str, event_ids: Sequence[str]) -> None:
        """Note events that were refused after their admission, so that their next try counts as one."""
        self._note([_Try(tenant_id, event_id) for event_id in event_ids])

    async def close(self) -> None:
        """Write what is queued, if Redis takes it, and close the connections."""
        for task in (self._writing, self._reviving):
            if task is not None:
                await task
        await self._client.aclose()

    async def _admit_all(self, asks: Sequence[Ask]) -> Sequence[Admission]:
        """One answer per ask, in order. A store that fails one call is not asked again for those who wait."""
        answers: list[Admission] = []
        for share in _shares(asks):
            answers += await self._admit_share(share)
        return answers

    async def _admit_share(self, asks: Sequence[Ask]) -> list[Admission]:
        questions = _encode([_question(ask) for ask in asks])
        keys = [key for ask in asks for key in _keys(ask)]
        call = ADMIT.call(self._client, keys, questions, self._tries_window_ms)
        try:
            reply: list[bytes] = await within(self._timeout_ms, call)
            found = _decode_answers(reply[0])
        except (RedisError, OSError, msgspec.MsgspecError) as cause:
            self._revive()
            raise NoAnswer(Code.RATE_LIMIT_BACKEND_UNAVAILABLE) from cause
        hints = iter(reply[1:])
        return [_admission(ask, answer, hints) for ask, answer in zip(asks, found, strict=True)]

    def _note(self, notes: Sequence[EventKey | _Try]) -> None:
        room = NOTES_QUEUED_MAX - len(self._notes)
        self.lost += max(0, len(notes) - room)
        self._notes.extend(notes[:room])
        if self._notes and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._notes:
            await asyncio.sleep(NOTE_LINGER_MS / 1000)
            hints: list[EventKey] = []
            tries: dict[str, list[str]] = {}
            for _ in range(min(len(self._notes), IDS_PER_CALL_MAX)):
                note = self._notes.popleft()
                if isinstance(note, EventKey):
                    hints.append(note)
                else:
                    tries.setdefault(note.tenant_id, []).append(note.event_id)
            if hints:
                names = [_hint_name(key.tenant_id, key.event_id) for key in hints]
                await self._write(len(hints), REMEMBER.call(self._client, names, self._ttl_ms, *map(_encode, hints)))
            for tenant_id, event_ids in tries.items():
                limits = (self._tries_window_ms, TRIES_FIELDS_MAX)
                call = TRIED.call(self._client, [_name(tenant_id, "t")], *limits, *event_ids)
                await self._write(len(event_ids), call)

    async def _write(self, notes: int, call: Coroutine[Any, Any, Any]) -> None:
        try:
            async with asyncio.timeout(BACKGROUND_S_MAX):
                await call
        except (RedisError, OSError) as cause:
            self.lost += notes
            log.warning("%d notes lost: %s", notes, type(cause).__name__)

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


async def make_epoch(client: "Redis", tenant_id: str) -> None:
    """Begin the epoch of the tenant's nonces, unless it has begun: its first signed request need not wait then.

    Raises NoAnswer(RATE_LIMIT_BACKEND_UNAVAILABLE).
    """
    try:
        async with asyncio.timeout(BACKGROUND_S_MAX):
            await EPOCH.call(client, [_name(tenant_id, "ep")])
    except (RedisError, OSError) as cause:
        raise NoAnswer(Code.RATE_LIMIT_BACKEND_UNAVAILABLE) from cause


def _name(tenant_id: str, rest: str) -> str:
    """All keys of a tenant share the hash tag, so a tenant lives in one slot."""
    return f"fg:{{{tenant_id}}}:{rest}"


def _hint_name(tenant_id: str, event_id: str) -> str:
    return f"fg:{{{tenant_id}}}:h:{event_id}"


def _shares(asks: Sequence[Ask]) -> Iterator[Sequence[Ask]]:
    """The asks in order, in shares of so few ids that the server is free again soon."""
    begin, ids = 0, 0
    for position, ask in enumerate(asks):
        ids += len(ask.event_ids)
        if ids > IDS_PER_CALL_MAX and position > begin:
            yield asks[begin:position]
            begin, ids = position, len(ask.event_ids)
    yield asks[begin:]


def _question(ask: Ask) -> tuple[int, float, int, int | None]:
    created_ms = None if ask.nonce is None else ask.nonce.created_s * 1000
    return len(ask.event_ids), ask.budget.rate_per_s, ask.budget.burst, created_ms


def _keys(ask: Ask) -> list[str]:
    """In the order of admit.lua."""
    tenant = f"fg:{{{ask.tenant_id}}}:"
    keys = [tenant + "rl", tenant + "rd", tenant + "t"]
    keys += [f"{tenant}h:{event_id}" for event_id in ask.event_ids]
    if ask.nonce is not None:
        keys += [tenant + "ep", f"{tenant}n:{ask.nonce.key_id}:{ask.nonce.nonce}"]
    return keys


def _admission(ask: Ask, answer: _Answer, hints: Iterator[bytes]) -> Admission:
    """The answer in our words; takes its share of `hints`."""
    count = len(ask.event_ids)
    if answer.refused:
        refused = _REFUSALS[answer.refused]
        return Admission([None] * count, [False] * count, [0] * count, 0, answer.retry_after_ms, refused)
    keys: list[EventKey | None] = [None] * count
    for place in answer.hinted:
        keys[place] = _read(next(hints), ask.tenant_id, ask.event_ids[place])
    admitted = [position < answer.admitted for position in range(count - len(answer.hinted))]
    for number, place in enumerate(answer.hinted):  # ascending, so each lands where it was asked
        admitted.insert(place, number < answer.admitted_duplicates)
    return Admission(keys, admitted, answer.tries, answer.remaining, answer.retry_after_ms)


def _read(value: bytes, tenant_id: str, event_id: str) -> EventKey | None:
    """The key in a hint. What does not read as this event's key is no hint; the truth is asked instead."""
    try:
        key = _decode_hint(value)
    except msgspec.MsgspecError:
        return None
    return key if (key.tenant_id, key.event_id) == (tenant_id, event_id) else None
