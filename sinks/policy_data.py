"""Policy data of tenants: what operators set, with the history of it, and what the worker gives to the rules."""

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from schemas.canonical import sha256_hex
from schemas.ids import is_tenant_id
from schemas.policy_data import NO_POLICY_DATA, PolicyData, read_policy_data
from schemas.units import Clock, UnixMs
from sinks.pg import Connection, Pool
from sinks.tenants import UnknownTenantError

AGE_MS_MAX = 2_000
KEPT_BYTES_MAX = 16 * 1024 * 1024

_READ = "SELECT tenant_id, data::text FROM tenant_policy_data WHERE tenant_id = ANY ($1::text[])"
_SET = """
INSERT INTO tenant_policy_data (tenant_id, data, updated_by)
SELECT tenant_id, $2::text::jsonb, $3 FROM tenants WHERE tenant_id = $1
ON CONFLICT (tenant_id) DO UPDATE SET data = EXCLUDED.data, updated_at = now(), updated_by = EXCLUDED.updated_by
RETURNING true
"""
_CLEAR = "DELETE FROM tenant_policy_data WHERE tenant_id = $1 RETURNING true"
_SHOW = "SELECT data::text, app.rfc3339(updated_at), updated_by FROM tenant_policy_data WHERE tenant_id = $1"
_NOTE = """
INSERT INTO operator_actions (tenant_id, action_id, operator, action, details)
VALUES ($1, gen_random_uuid()::text, $2, $3, jsonb_build_object('sha256', $4::text))
"""


class PolicyDataRow(NamedTuple):
    """A tenant's data, and who set it when."""

    data: PolicyData
    updated_at: str
    updated_by: str


class TenantPolicyData:
    """For `fg_admin`. Every method raises NoAnswer when the database is away, UnknownTenantError for no tenant."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def set(self, tenant_id: str, data: PolicyData, updated_by: str) -> None:
        """On return this is the tenant's data, and operator_actions says who set it."""
        async with self._tenant(tenant_id) as connection:
            if not await connection.fetchval(_SET, tenant_id, data.document.decode(), updated_by):
                raise UnknownTenantError(tenant_id)
            await connection.execute(_NOTE, tenant_id, updated_by, "policy_data.set", data.sha256)

    async def clear(self, tenant_id: str, updated_by: str) -> bool:
        """On return the tenant has no data; True when this call took it away."""
        async with self._tenant(tenant_id) as connection:
            cleared = bool(await connection.fetchval(_CLEAR, tenant_id))
            if cleared:
                await connection.execute(_NOTE, tenant_id, updated_by, "policy_data.clear", "")
        return cleared

    async def show(self, tenant_id: str) -> PolicyDataRow | None:
        """The tenant's data, None where no operator set any."""
        async with self._tenant(tenant_id) as connection:
            row = await connection.fetchrow(_SHOW, tenant_id)
        if row is None:
            return None
        text, updated_at, updated_by = row
        return PolicyDataRow(read_policy_data(text.encode()), updated_at, updated_by)

    def _tenant(self, tenant_id: str) -> AbstractAsyncContextManager[Connection]:
        if not is_tenant_id(tenant_id):
            raise UnknownTenantError(tenant_id)
        return self._pool.tenant_transaction([tenant_id])


class _Kept(NamedTuple):
    """A tenant's data as it was when it was asked for."""

    asked_ms: UnixMs
    data: PolicyData


class PolicyDataReader:
    """For `fg_worker`: the data of a batch's tenants, at most 2 s old."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def of(self, tenant_ids: Collection[str]) -> Mapping[str, PolicyData]:
        """The data of each of these tenants. Raises NoAnswer: no data is something only the database can say."""
        now_ms = self._clock.now_ms()
        if not all(self._is_fresh(tenant_id, now_ms) for tenant_id in tenant_ids):
            await self._read(sorted(tenant_ids), now_ms)
        return {tenant_id: self._kept[tenant_id].data for tenant_id in tenant_ids}

    def _is_fresh(self, tenant_id: str, now_ms: UnixMs) -> bool:
        kept = self._kept.get(tenant_id)
        return kept is not None and 0 <= now_ms - kept.asked_ms < AGE_MS_MAX

    async def _read(self, tenant_ids: list[str], now_ms: UnixMs) -> None:
        """All of them at once, so that they grow old together: one query in two seconds, not one for each."""
        async with self._pool.tenant_transaction(tenant_ids) as connection:
            rows = await connection.fetch(_READ, tenant_ids)
        found = {tenant_id: _for_the_rules(text.encode()) for tenant_id, text in rows}
        fresh = {one: _Kept(now_ms, found.get(one, NO_POLICY_DATA)) for one in tenant_ids}
        others = {one: kept for one, kept in self._kept.items() if self._is_fresh(one, now_ms)}
        together = others | fresh
        self._kept = together if _size_bytes(together) <= KEPT_BYTES_MAX else fresh


def _for_the_rules(text: bytes) -> PolicyData:
    """What was written past this program and cannot be hashed exactly is `null`: rules can only refuse it."""
    try:
        return read_policy_data(text)
    except ValueError:
        return PolicyData(b"null", sha256_hex(text))


def _size_bytes(kept: Mapping[str, _Kept]) -> int:
    return sum(len(one.data.document) for one in kept.values())
