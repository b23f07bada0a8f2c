"""Limits of single tenants: what operators set, with the history of it, and what the edge reads."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from schemas.ids import is_tenant_id
from schemas.limits import NO_QUOTA, OwnLimits, TenantUse
from sinks.pg import Connection, Pool
from sinks.tenants import UnknownTenantError

RATE_MAX = 2**31 - 1

_READ = """
SELECT tenant_id, ingest_rps, burst, events_per_month_max, events_this_month FROM app.runtime_limits($1::text[])
"""
_SET = """
INSERT INTO tenant_runtime_limits (tenant_id, plan_tier, ingest_rps, burst, events_per_month_max, updated_by)
SELECT tenant_id, plan_tier, $2, $3, $4, $5 FROM tenants WHERE tenant_id = $1
ON CONFLICT (tenant_id) DO UPDATE SET
    plan_tier = EXCLUDED.plan_tier, ingest_rps = EXCLUDED.ingest_rps, burst = EXCLUDED.burst,
    events_per_month_max = EXCLUDED.events_per_month_max, updated_by = EXCLUDED.updated_by, updated_at = now()
RETURNING true
"""
_CLEAR = "DELETE FROM tenant_runtime_limits WHERE tenant_id = $1 RETURNING true"
_SHOW = """
SELECT plan_tier, ingest_rps, burst, events_per_month_max, app.rfc3339(updated_at), updated_by
FROM tenant_runtime_limits WHERE tenant_id = $1
"""
_NOTE = """
INSERT INTO operator_actions (tenant_id, action_id, operator, action, details)
VALUES (
    $1, gen_random_uuid()::text, $2, $3,
    jsonb_strip_nulls(jsonb_build_object('rps', $4::int, 'burst', $5::int, 'events_per_month_max', $6::bigint))
)
"""


class LimitsRow(NamedTuple):
    """A tenant's own limits, and who set them when."""

    plan_tier: str
    own: OwnLimits
    updated_at: str
    updated_by: str


class RuntimeLimits:
    """Every method raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(self, tenant_ids: Sequence[str]) -> dict[str, TenantUse]:
        """Limits and use of each of those tenants."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_READ, tenant_ids)
        return {tenant_id: TenantUse(_own(rps, burst, quota), used) for tenant_id, rps, burst, quota, used in rows}

    async def set(
        self, tenant_id: str, *, rps: int, burst: int, events_per_month_max: int | None, updated_by: str
    ) -> None:
        """On return these are the tenant's limits, and operator_actions says who set them.

        `events_per_month_max` None leaves the quota to the tier, `NO_QUOTA` lifts it. Raises
        UnknownTenantError, and ValueError for a limit that is not positive or too large.
        """
        if not (1 <= rps <= RATE_MAX and 1 <= burst <= RATE_MAX):
            raise ValueError(f"rps and burst must lie between 1 and {RATE_MAX}")
        if events_per_month_max is not None and not 1 <= events_per_month_max <= NO_QUOTA:
            raise ValueError(f"events per month must lie between 1 and {NO_QUOTA}")
        own = OwnLimits(rps, burst, events_per_month_max)
        async with self._tenant(tenant_id) as connection:
            if not await connection.fetchval(_SET, tenant_id, *own, updated_by):
                raise UnknownTenantError(tenant_id)
            await _note(connection, tenant_id, updated_by, own)

    async def clear(self, tenant_id: str, updated_by: str) -> bool:
        """On return the tenant has no limits of its own; True when this call took them away.

        Raises UnknownTenantError for what cannot be a tenant.
        """
        async with self._tenant(tenant_id) as connection:
            cleared = bool(await connection.fetchval(_CLEAR, tenant_id))
            if cleared:
                await _note(connection, tenant_id, updated_by, None)
        return cleared

    async def show(self, tenant_id: str) -> LimitsRow | None:
        """The tenant's own limits, None where no operator set any. Raises as `clear`."""
        async with self._tenant(tenant_id) as connection:
            row = await connection.fetchrow(_SHOW, tenant_id)
        if row is None:
            return None
        plan_tier, rps, burst, quota, updated_at, updated_by = row
        return LimitsRow(plan_tier, OwnLimits(rps, burst, quota), updated_at, updated_by)

    def _tenant(self, tenant_id: str) -> AbstractAsyncContextManager[Connection]:
        if not is_tenant_id(tenant_id):
            raise UnknownTenantError(tenant_id)
        return self._pool.tenant_transaction([tenant_id])


def _own(rps: int | None, burst: int | None, quota: int | None) -> OwnLimits | None:
    return None if rps is None or burst is None else OwnLimits(rps, burst, quota)


async def _note(connection: Connection, tenant_id: str, operator: str, own: OwnLimits | None) -> None:
    action = "limits.clear" if own is None else "limits.set"
    await connection.execute(_NOTE, tenant_id, operator, action, *(own or (None, None, None)))
