"""Ed25519 public keys of agents, by which an edge knows who signed a request."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from schemas.canonical import sha256_hex
from schemas.ids import AGENT_ID
from schemas.principal import SigningKey
from schemas.units import UnixMs
from sinks.faults import TakenError
from sinks.pg import Pool
from sinks.tenants import UnknownTenantError

PUBLIC_KEY_BYTES = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A key is valid from a little before it is made: the clocks of edges may be up to 2 s behind this one.
_ISSUE = """
INSERT INTO agent_keys (key_id, tenant_id, agent_id, public_key, not_before, not_after)
SELECT $1, tenant_id, $3, $4, coalesce($5::timestamptz, now() - interval '5 seconds'), $6::timestamptz
FROM tenants WHERE tenant_id = $2
RETURNING true
"""
_ROTATE = """
WITH ending AS (
    UPDATE agent_keys SET not_after = least(not_after, now() + $2 * interval '1 millisecond')
    WHERE key_id = $1 AND revoked_at IS NULL AND (not_after IS NULL OR not_after > now())
    RETURNING tenant_id, agent_id
)
INSERT INTO agent_keys (key_id, tenant_id, agent_id, public_key, not_before, not_after)
SELECT $3, tenant_id, agent_id, $4, now() - interval '5 seconds', $5::timestamptz FROM ending
RETURNING true
"""
_REVOKE = "UPDATE agent_keys SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL RETURNING true"
_LIST = """
SELECT key_id, tenant_id, agent_id, app.rfc3339(created_at), app.rfc3339(not_before), app.rfc3339(not_after),
    app.rfc3339(revoked_at)
FROM agent_keys WHERE tenant_id = $1 OR $1::text IS NULL ORDER BY tenant_id, created_at, key_id
"""
_PUBLIC_KEY = """
SELECT key_id, tenant_id, agent_id, public_key, (extract(epoch FROM not_before) * 1000)::bigint,
    (extract(epoch FROM not_after) * 1000)::bigint, (extract(epoch FROM revoked_at) * 1000)::bigint
FROM agent_keys WHERE key_id = $1
"""


class AgentKey(NamedTuple):
    """What is known about a key; `not_after` and `revoked_at` are None where there is no such time."""

    key_id: str
    tenant_id: str
    agent_id: str
    created_at: str
    not_before: str
    not_after: str | None
    revoked_at: str | None


class UnknownKeyError(Exception):
    """No valid key has this id."""


class KeyExistsError(Exception):
    """This public key is known already."""


class AgentKeys:
    """Every method raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def issue(
        self,
        tenant_id: str,
        agent_id: str,
        public_key: bytes,
        not_before_ms: UnixMs | None = None,
        not_after_ms: UnixMs | None = None,
    ) -> str:
        """On return the key is the agent's within its times, from now and without end where None is given.

        Returns its id. Raises UnknownTenantError, KeyExistsError, ValueError.
        """
        if not AGENT_ID.fullmatch(agent_id):
            raise ValueError("not an agent id")
        key_id = key_id_of(public_key)
        try:
            async with self._pool.connection() as connection:
                issued = await connection.fetchval(
                    _ISSUE, key_id, tenant_id, agent_id, public_key, _moment(not_before_ms), _moment(not_after_ms)
                )
        except TakenError as taken:
            raise KeyExistsError(key_id) from taken
        if not issued:
            raise UnknownTenantError(tenant_id)
        return key_id

    async def rotate(self, key_id: str, public_key: bytes, overlap_ms: int, not_after_ms: UnixMs | None = None) -> str:
        """On return the agent of that key has the new one too, and the old one ends after the overlap at the latest.

        Returns the new key's id. Raises UnknownKeyError for a key that is not there, revoked or over;
        KeyExistsError, ValueError. Then nothing has changed.
        """
        new_key_id = key_id_of(public_key)
        try:
            async with self._pool.connection() as connection:
                rotated = await connection.fetchval(
                    _ROTATE, key_id, overlap_ms, new_key_id, public_key, _moment(not_after_ms)
                )
        except TakenError as taken:
            raise KeyExistsError(new_key_id) from taken
        if not rotated:
            raise UnknownKeyError(key_id)
        return new_key_id

    async def revoke(self, key_id: str) -> bool:
        """On return the key is not valid; True when this call revoked it."""
        async with self._pool.connection() as connection:
            return bool(await connection.fetchval(_REVOKE, key_id))

    async def list(self, tenant_id: str | None = None) -> list[AgentKey]:
        """The keys of one tenant, or of all, those that are over included."""
        async with self._pool.connection() as connection:
            return [AgentKey(*row) for row in await connection.fetch(_LIST, tenant_id)]

    async def public_key(self, key_id: str) -> SigningKey | None:
        """The key of that id, valid or not, None when there is none."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_PUBLIC_KEY, key_id)
        return None if row is None else SigningKey(*row)


def key_id_of(public_key: bytes) -> str:
    """The first 8 bytes of the key's sha256, in hex. Raises ValueError unless it is 32 bytes."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError("an Ed25519 public key is 32 bytes")
    return sha256_hex(public_key)[:16]


def _moment(unix_ms: UnixMs | None) -> datetime | None:
    return None if unix_ms is None else _EPOCH + timedelta(milliseconds=unix_ms)
