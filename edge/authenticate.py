"""Bearer keys: asked of Postgres at most once per freshness, all at once for simultaneous requests.

Only digests of keys are kept.
"""

import asyncio
import hashlib
from dataclasses import dataclass, replace

from edge.ports import Credentials
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.principal import Principal
from schemas.units import Clock, UnixMs

KEYS_MAX = 10_000
KEY_CHARS_MAX = 512
SCHEME = b"bearer "


@dataclass(frozen=True, slots=True)
class _Verified:
    """`verified_ms`: when Postgres last said yes. `asked_ms`: when it was last asked, with or without an answer."""

    principal: Principal
    verified_ms: UnixMs
    asked_ms: UnixMs


class Authenticator:
    """Credentials to principals."""

    def __init__(self, credentials: Credentials, clock: Clock, settings: EdgeSettings) -> None:
        self._credentials = credentials
        self._clock = clock
        self._settings = settings
        self._verified: dict[bytes, _Verified] = {}
        self._refused: dict[bytes, UnixMs] = {}
        self._asking: dict[bytes, asyncio.Task[Principal | None]] = {}

    async def principal(self, authorization: bytes | None) -> Principal | None:
        """Who sent this `Authorization` header, None when it holds no valid key.

        Raises NoAnswer(STORE_UNAVAILABLE) when Postgres does not answer and the key was not verified
        within `key_stale_ms_max`.
        """
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            return None
        key = authorization[len(SCHEME) :].strip()
        if not 0 < len(key) <= KEY_CHARS_MAX:
            return None
        digest = hashlib.sha256(key).digest()
        now_ms = self._clock.now_ms()
        known = self._verified.get(digest)
        if known is not None and self._fresh(known.asked_ms, now_ms) and self._usable(known, now_ms):
            return known.principal
        refused_ms = self._refused.get(digest)
        if refused_ms is not None and self._fresh(refused_ms, now_ms):
            return None
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(digest, key.decode()))
            self._asking[digest] = asking
            asking.add_done_callback(lambda _: self._asking.pop(digest))
        return await asyncio.shield(asking)

    async def _ask(self, digest: bytes, api_key: str) -> Principal | None:
        now_ms = self._clock.now_ms()
        try:
            principal = await self._credentials.authenticate(api_key)
        except NoAnswer:
            known = self._verified.get(digest)
            if known is None or not self._usable(known, now_ms):
                raise
            self._verified[digest] = replace(known, asked_ms=self._clock.now_ms())
            return known.principal
        # Taken out first, so that the first key of the dictionary is always the one asked about longest ago.
        self._verified.pop(digest, None)
        self._refused.pop(digest, None)
        if principal is None:
            _bound(self._refused)
            self._refused[digest] = now_ms
        else:
            _bound(self._verified)
            self._verified[digest] = _Verified(principal, now_ms, now_ms)
        return principal

    def _fresh(self, asked_ms: UnixMs, now_ms: UnixMs) -> bool:
        """A clock set back makes nothing fresh."""
        return 0 <= now_ms - asked_ms <= self._settings.key_fresh_ms

    def _usable(self, known: _Verified, now_ms: UnixMs) -> bool:
        return 0 <= now_ms - known.verified_ms <= self._settings.key_stale_ms_max


def _bound(cache: dict[bytes, _Verified] | dict[bytes, UnixMs]) -> None:
    if len(cache) >= KEYS_MAX:
        del cache[next(iter(cache))]
