"""Waiting for a decision: `Prefer: wait=N` (RFC 7240), one question every 50 ms for all who wait."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from edge.ports import Decisions
from edge.transport import Fields
from schemas.answers import NoAnswer

POLL_S = 0.05
WAIT_S_MAX = 10
WAITING_MAX = 1_000
TENANT_WAITING_MAX = 100
"""Who comes when so many wait already gets the receipt at once, as if the time were over."""

_PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
_WAIT = re.compile(r'[ \t]*wait[ \t]*(?:=[ \t]*(?:"(\d+)"|(\d+))[ \t]*(?:;.*)?)?', re.IGNORECASE | re.ASCII)
_NAME = re.compile(r"[ \t]*wait[ \t]*(?:[=;]|$)", re.IGNORECASE)

_Identity = tuple[str, str]


def prefer_wait_s(fields: Fields) -> int | None:
    """How long the sender prefers to wait, at most 10 s; None when it says nothing that can be understood.

    The first `wait` counts, as the standard says; a malformed one is ignored with those behind it.
    """
    raw = fields.get(b"prefer")
    if raw is None:
        return None
    for preference in _PREFERENCE.findall(raw.decode("latin-1")):
        if _NAME.match(preference):
            found = _WAIT.fullmatch(preference)
            digits = "" if found is None else found[1] or found[2] or ""
            return _clipped(digits) if digits else None
    return None


class DecisionWaits:
    """For all requests of this process. Not thread-safe: one event loop."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._waiting: dict[_Identity, set[asyncio.Future[bytes | None]]] = {}
        self._waiting_of: Counter[str] = Counter()
        self._count = 0
        self._polling: asyncio.Task[None] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Whoever waits gets None, and nobody waits any more."""
        self._stopped = True
        for decisions in self._waiting.values():
            _resolve(decisions, None)

    async def wait(self, tenant_id: str, event_id: str, seconds: int) -> bytes | None:
        """The document of the event's decision, None when it does not come in time or cannot be asked for."""
        if seconds <= 0 or self._stopped or self._full(tenant_id):
            return None
        loop = asyncio.get_running_loop()
        decision: asyncio.Future[bytes | None] = loop.create_future()
        identity = tenant_id, event_id
        self._waiting.setdefault(identity, set()).add(decision)
        self._waiting_of[tenant_id] += 1
        self._count += 1
        if self._polling is None or self._polling.done():
            self._polling = loop.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                return await decision
        except TimeoutError:
            return None
        finally:
            self._leave(identity, decision)

    def _full(self, tenant_id: str) -> bool:
        return self._count >= WAITING_MAX or self._waiting_of[tenant_id] >= TENANT_WAITING_MAX

    def _leave(self, identity: _Identity, decision: "asyncio.Future[bytes | None]") -> None:
        self._count -= 1
        tenant_id = identity[0]
        self._waiting_of[tenant_id] -= 1
        if not self._waiting_of[tenant_id]:
            del self._waiting_of[tenant_id]
        others = self._waiting.get(identity)
        if others is not None:
            others.discard(decision)
            if not others:
                del self._waiting[identity]

    async def _poll(self) -> None:
        """Ask until nobody waits."""
        while True:
            await asyncio.sleep(POLL_S)
            asked = list(self._waiting)
            if not asked:
                return
            try:
                found: Mapping[_Identity, bytes | None] = await self._decisions.decided(asked)
            except NoAnswer:
                found = dict.fromkeys(asked)
            for identity, document in found.items():
                _resolve(self._waiting.get(identity, ()), document)


def _resolve(decisions: Iterable["asyncio.Future[bytes | None]"], document: bytes | None) -> None:
    for decision in decisions:
        if not decision.done():
            decision.set_result(document)


def _clipped(written: str) -> int:
    digits = written.lstrip("0") or "0"
    return int(digits) if len(digits) <= len(str(WAIT_S_MAX)) and int(digits) < WAIT_S_MAX else WAIT_S_MAX
