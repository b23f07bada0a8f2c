"""Limits of single tenants: set by operators with a history, read by edges within their rights."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from schemas.answers import NoAnswer
from schemas.limits import NO_QUOTA, OwnLimits, TenantUse
from sinks import meters
from sinks.limits import RATE_MAX, RuntimeLimits
from sinks.pg import Pool
from sinks.serving import ServingPool
from sinks.tenants import Tenants, UnknownTenantError
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings


async def _tenant(operator: Pool, plan_tier: str = "free") -> str:
    tenant_id = make.tenant_id()
    await Tenants(operator).add(tenant_id, plan_tier)
    return tenant_id


async def _set(operator: Pool, tenant_id: str, rps: int, burst: int, quota: int | None = None) -> None:
    await RuntimeLimits(operator).set(
        tenant_id, rps=rps, burst=burst, events_per_month_max=quota, updated_by="somebody"
    )


async def test_the_edge_reads_the_limits_of_many_tenants_at_once_and_no_limits_where_none_are_set(
    edge: Pool, operator: Pool
) -> None:
    first, second, third = [await _tenant(operator) for _ in range(3)]
    await _set(operator, first, 50, 100, 1_000)
    await _set(operator, second, RATE_MAX, RATE_MAX, NO_QUOTA)
    assert await RuntimeLimits(edge).read([first, second, third]) == {
        first: TenantUse(OwnLimits(50, 100, 1_000), 0),
        second: TenantUse(OwnLimits(RATE_MAX, RATE_MAX, NO_QUOTA), 0),
        third: TenantUse(None, 0),
    }
    assert await RuntimeLimits(edge).read([]) == {}


async def test_the_use_is_what_was_decided_in_this_utc_month(
    edge: Pool, operator: Pool, worker: Pool, superuser: Any
) -> None:
    tenant_id, other = await _tenant(operator), await _tenant(operator)
    month = await superuser.fetchval("SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC'), 'YYYY-MM-DD')")
    before = await superuser.fetchval("SELECT ($1::text::date - 1)::text", month)

    async def decide(tenant: str, days: Iterable[tuple[str, int]]) -> None:
        amounts = Counter({meters.TenantDay(tenant, day): events for day, events in days})
        async with worker.tenant_transaction([tenant]) as connection:
            await meters.add(connection, meters.MeterName.INGEST_EVENTS, amounts)
            await meters.add(connection, meters.MeterName.INGEST_BYTES, amounts)

    await decide(tenant_id, [(before, 1_000), (month, 40), (month[:8] + "02", 2)])
    await decide(other, [(month, 7)])
    uses = await RuntimeLimits(edge).read([tenant_id, other])
    assert (uses[tenant_id].events_this_month, uses[other].events_this_month) == (42, 7)


async def test_every_change_is_kept_with_who_made_it(operator: Pool) -> None:
    limits, tenant_id = RuntimeLimits(operator), await _tenant(operator, "pro")
    await _set(operator, tenant_id, 50, 100)
    await limits.set(tenant_id, rps=60, burst=120, events_per_month_max=9, updated_by="another")
    row = await limits.show(tenant_id)
    assert row is not None
    assert (row.plan_tier, row.own, row.updated_by) == ("pro", OwnLimits(60, 120, 9), "another")
    assert await limits.clear(tenant_id, "a third")
    assert not await limits.clear(tenant_id, "a third")
    assert await limits.show(tenant_id) is None
    async with operator.tenant_transaction([tenant_id]) as connection:
        history = await connection.fetch(
            "SELECT operator, action, details::text FROM operator_actions WHERE tenant_id = $1 ORDER BY done_at",
            tenant_id,
        )
    assert [tuple(one) for one in history] == [
        ("somebody", "limits.set", '{"rps": 50, "burst": 100}'),
        ("another", "limits.set", '{"rps": 60, "burst": 120, "events_per_month_max": 9}'),
        ("a third", "limits.clear", "{}"),
    ]


async def test_the_rows_plan_is_the_tenants_plan_after_it_changed(operator: Pool) -> None:
    tenant_id = await _tenant(operator)
    await _set(operator, tenant_id, 50, 100)
    async with operator.connection() as connection:
        await connection.execute("UPDATE tenants SET plan_tier = 'enterprise' WHERE tenant_id = $1", tenant_id)
    row = await RuntimeLimits(operator).show(tenant_id)
    assert row is not None
    assert row.plan_tier == "enterprise"


@pytest.mark.parametrize("tenant_id", ["nobody-knows-me", "", "a b", "*"])
async def test_a_tenant_that_does_not_exist_gets_no_limits(operator: Pool, tenant_id: str) -> None:
    with pytest.raises(UnknownTenantError):
        await _set(operator, tenant_id, 50, 100)


@pytest.mark.parametrize(("rps", "burst", "quota"), [(0, 1, None), (1, 0, None), (1, 1, 0), (RATE_MAX + 1, 1, None)])
async def test_what_is_no_limit_is_not_set(operator: Pool, rps: int, burst: int, quota: int | None) -> None:
    tenant_id = await _tenant(operator)
    with pytest.raises(ValueError):
        await _set(operator, tenant_id, rps, burst, quota)
    assert await RuntimeLimits(operator).show(tenant_id) is None


async def test_the_edge_may_read_limits_and_not_set_them(edge: Pool, operator: Pool) -> None:
    tenant_id = await _tenant(operator)
    with pytest.raises(Exception, match="42501"):
        await _set(edge, tenant_id, 50, 100)


async def test_a_database_without_the_function_is_as_good_as_away(virgin: Any) -> None:
    pool = await ServingPool.open(settings(virgin.postgres_dsn("admin")))
    try:
        with pytest.raises(NoAnswer):
            await RuntimeLimits(pool).read(["acme"])
    finally:
        await pool.close()
