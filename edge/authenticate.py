"""Bearer keys: asked of Postgres at most once per freshness, all at once for simultaneous requests.

Only digests of keys are kept.
"""

import hashlib

from edge.ports import Credentials
from edge.recall import Recall
from edge.settings import EdgeSettings
from schemas.principal import Principal
from schemas.units import Clock

KEY_CHARS_MAX = 512
SCHEME = b"bearer "


class Authenticator:
    """Credentials to principals."""

    def __init__(self, credentials: Credentials, clock: Clock, settings: EdgeSettings) -> None:
        self._credentials = credentials
        self._principals: Recall[bytes, Principal] = Recall(clock, settings)

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
        return await self._principals.get(digest, lambda: self._credentials.authenticate(key.decode()))
