"""How long the data of each plan is kept, and which plan a tenant has: the plan is the retention class."""

from collections.abc import Mapping, Sequence

from sinks.pg import Pool

_PLANS = "SELECT tenant_id, plan_tier FROM tenants WHERE tenant_id = ANY ($1::text[])"


class RetentionPlans:
    """The retention classes of tenants. `days_by_tier` names every plan there is."""

    def __init__(self, pool: Pool, days_by_tier: Mapping[str, int]) -> None:
        self._pool = pool
        self._days_by_tier = dict(days_by_tier)
        self._longest = max(self._days_by_tier, key=self._days_by_tier.__getitem__)

    def days(self, retention_class: str) -> int:
        """For how long the data of this class is kept. Raises KeyError for no class."""
        return self._days_by_tier[retention_class]

    async def classes(self, tenant_ids: Sequence[str]) -> dict[str, str]:
        """The class of each of those tenants; one that is not listed has the longest. Raises NoAnswer."""
        async with self._pool.connection() as connection:
            plans = dict(await connection.fetch(_PLANS, tenant_ids))
        return {tenant_id: plans.get(tenant_id, self._longest) for tenant_id in tenant_ids}
