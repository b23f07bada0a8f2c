"""The list of tenants."""

from enum import StrEnum
from typing import NamedTuple

from schemas.ids import is_tenant_id
from sinks.pg import Pool

_ADD = "INSERT INTO tenants (tenant_id, plan_tier) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true"
_LIST = "SELECT tenant_id, plan_tier, app.rfc3339(created_at) FROM tenants ORDER BY tenant_id"


class PlanTier(StrEnum):
    FREE = "free"
    PRO = "pro"
    ENTERPRISE = "enterprise"


class Tenant(NamedTuple):
    tenant_id: str
    plan_tier: str
    created_at: str


class TenantExistsError(Exception):
    """A tenant of this id is there already."""


class UnknownTenantError(Exception):
    """There is no tenant of this id."""


class Tenants:
    """For `fg_admin`. Every method raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, tenant_id: str, plan_tier: str = PlanTier.FREE) -> None:
        """On return the tenant exists and did not before. Raises TenantExistsError, ValueError."""
        if not await self.ensure(tenant_id, plan_tier):
            raise TenantExistsError(tenant_id)

    async def ensure(self, tenant_id: str, plan_tier: str = PlanTier.FREE) -> bool:
        """On return the tenant exists; True when this call made it, else it keeps its plan. Raises ValueError."""
        if not is_tenant_id(tenant_id):
            raise ValueError("not a tenant id")
        async with self._pool.connection() as connection:
            return bool(await connection.fetchval(_ADD, tenant_id, PlanTier(plan_tier).value))

    async def list(self) -> list[Tenant]:
        async with self._pool.connection() as connection:
            return [Tenant(*row) for row in await connection.fetch(_LIST)]
