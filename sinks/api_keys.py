"""API keys: 256 random bits, shown once, stored as their SHA-256."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.ids import AGENT_ID
from schemas.principal import Principal, Scope
from sinks.pg import Pool
from sinks.tenants import UnknownTenantError

KEY_ID_BYTES = 8
SECRET_BYTES = 32
_FORM = re.compile(r"fgk_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")

_ISSUE = """
INSERT INTO api_keys (key_id, tenant_id, agent_id, key_sha256, scopes)
SELECT $1, tenant_id, $3, $4, $5::text[] FROM tenants WHERE tenant_id = $2
RETURNING true
"""
_REVOKE = "UPDATE api_keys SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL RETURNING true"
_LIST = """
SELECT key_id, tenant_id, agent_id, scopes, app.rfc3339(created_at), app.rfc3339(revoked_at)
FROM api_keys WHERE tenant_id = $1 OR $1::text IS NULL ORDER BY tenant_id, created_at, key_id
"""
_AUTHENTICATE = """
SELECT key_id, tenant_id, agent_id, scopes, plan_tier
FROM api_keys JOIN tenants USING (tenant_id) WHERE key_sha256 = $1 AND revoked_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `secret` is known to the caller alone and cannot be read again."""

    key_id: str
    secret: str = field(repr=False)


class ApiKey(NamedTuple):
    """What is known about a key; `revoked_at` is None while it is valid."""

    key_id: str
    tenant_id: str
    agent_id: str | None
    scopes: list[str]
    created_at: str
    revoked_at: str | None


class ApiKeys:
    """Every method raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def issue(self, tenant_id: str, agent_id: str | None, scopes: Iterable[str]) -> IssuedKey:
        """A new key of the tenant, for one agent or, with None, for all. Raises UnknownTenantError, ValueError."""
        if agent_id is not None and not AGENT_ID.fullmatch(agent_id):
            raise ValueError("not an agent id")
        named = sorted({Scope(scope).value for scope in scopes})
        key_id = secrets.token_hex(KEY_ID_BYTES)
        secret = f"fgk_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
        async with self._pool.connection() as connection:
            if not await connection.fetchval(_ISSUE, key_id, tenant_id, agent_id, _sha256(secret), named):
                raise UnknownTenantError(tenant_id)
        return IssuedKey(key_id, secret)

    async def revoke(self, key_id: str) -> bool:
        """On return the key is not valid; True when this call revoked it."""
        async with self._pool.connection() as connection:
            return bool(await connection.fetchval(_REVOKE, key_id))

    async def list(self, tenant_id: str | None = None) -> list[ApiKey]:
        """The keys of one tenant, or of all, revoked ones included."""
        async with self._pool.connection() as connection:
            return [ApiKey(*row) for row in await connection.fetch(_LIST, tenant_id)]

    async def authenticate(self, api_key: str) -> Principal | None:
        """The principal of a valid key, None for any other string.

        The look-up is by hash, so its timing says nothing about a secret.
        """
        if not _FORM.fullmatch(api_key):
            return None
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_AUTHENTICATE, _sha256(api_key))
        if row is None:
            return None
        key_id, tenant_id, agent_id, scopes, plan_tier = row
        return Principal(key_id, tenant_id, agent_id, frozenset(scopes), plan_tier)


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
