"""Row-level security on every table that has tenants: whoever asks as one tenant never touches another's rows."""

import asyncio
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from schemas.rows import ClaimOutcome
from sinks import attest
from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.life import Lives
from sinks.pg import Pool
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings
from tests.integration.sinks.tenant_tables import (
    ROLES,
    SET_TENANTS,
    TABLES,
    VERBS,
    WRITES,
    attempt,
    changeable_column,
)

_SOURCES = Path(attest.__file__).parent
_NEVER = re.compile(r"SET\s+(SESSION\s+|LOCAL\s+)?app\.|set_config\([^()]*,\s*false\s*\)|SET\s+SESSION|\bEXPLAIN\b")
"""What names a tenant past its transaction, or shows how many rows another has."""
_RUNNING = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = current_user"


async def _rows(all_seeing: Any, table: str, tenant: str) -> list[str]:
    query = f"SELECT to_jsonb(t)::text FROM {table} AS t WHERE tenant_id = $1 ORDER BY 1"  # noqa: S608  (TABLES)
    return [row[0] for row in await all_seeing.fetch(query, tenant)]


async def test_the_tables_of_this_suite_are_all_that_have_tenants(all_seeing: Any) -> None:
    found = await all_seeing.fetch(
        "SELECT 'public.' || relname FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid"
        " WHERE attname = 'tenant_id' AND relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )
    assert {row[0] for row in found} - set(attest.EXEMPT_TABLES) == {f"public.{table}" for table in TABLES}


@pytest.mark.parametrize("table", TABLES)
async def test_rows_of_another_tenant_are_out_of_reach_of_every_verb(
    connection: Any, all_seeing: Any, tenant: str, other: str, table: str
) -> None:
    before = await _rows(all_seeing, table, other)
    assert before
    column = await changeable_column(connection, table)
    for verb, statement in VERBS.items():
        outcome = await attempt(connection, tenant, statement.format(table=table, column=column), other)
        assert outcome in {"0", "denied"}, verb
    for verb, statement in WRITES.items():
        outcome = await attempt(connection, tenant, statement.format(table=table, column=column), before[0])
        assert outcome == "denied", verb
    assert await attempt(connection, tenant, f"TRUNCATE {table}") == "denied"
    assert await _rows(all_seeing, table, other) == before


@pytest.mark.parametrize("table", TABLES)
async def test_no_row_moves_to_another_tenant(connection: Any, tenant: str, other: str, table: str) -> None:
    move = f"UPDATE {table} SET tenant_id = $1 WHERE tenant_id = $2"  # noqa: S608  (TABLES)
    assert await attempt(connection, other, move, tenant, other) == "denied"


@pytest.mark.parametrize("table", TABLES)
async def test_no_row_is_copied_in_bulk_past_the_policies(connection: Any, tenant: str, other: str, table: str) -> None:
    with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError)):
        async with connection.transaction():
            await connection.execute(SET_TENANTS, [tenant])
            await connection.copy_records_to_table(table, records=[(other,)], columns=["tenant_id"])


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("table", TABLES)
async def test_without_a_tenant_nothing_is_read(connection: Any, table: str) -> None:
    with pytest.raises((asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError)):
        await connection.fetch(f"SELECT FROM {table}")


async def test_the_tenants_own_rows_are_within_reach(edge: Pool, other: str) -> None:
    async with edge.tenant_transaction([other]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1


async def test_a_partition_is_as_protected_as_its_table(connection: Any, all_seeing: Any, other: str) -> None:
    partition = await all_seeing.fetchval(
        "SELECT tableoid::regclass::text FROM ingest_events WHERE tenant_id = $1", other
    )
    assert await attempt(connection, other, f"SELECT FROM {partition}") == "denied"
    protected = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = $1::regclass"
    assert await all_seeing.fetchval(protected, partition)
    policies = await all_seeing.fetchval("SELECT count(*) FROM pg_policy WHERE polrelid = $1::regclass", partition)
    assert policies == 2


async def test_an_expression_that_fails_on_foreign_rows_meets_none(connection: Any, tenant: str, other: str) -> None:
    """The policy comes before any condition of the query: no error tells that a row is there."""
    for condition in ("event_id::integer > 0", "1 / (CASE tenant_id WHEN $1 THEN 0 ELSE 1 END) > 0"):
        query = f"SELECT FROM event_keys WHERE {condition} AND $1::text <> ''"
        assert await attempt(connection, tenant, query, other) == "0"


async def test_the_servers_statistics_tell_no_values(connection: Any, all_seeing: Any, tenant: str) -> None:
    await all_seeing.execute("ANALYZE event_keys, decisions")
    shown = "SELECT FROM pg_stats WHERE tablename = ANY ($1::text[])"
    assert await connection.execute(shown, list(TABLES)) == "SELECT 0"
    assert await attempt(connection, tenant, "SELECT FROM pg_statistic") == "denied"
    assert await attempt(connection, tenant, "SELECT last_value FROM ingest_dlq_id_seq") == "denied"


@pytest.mark.parametrize("role", ROLES)
async def test_the_statements_of_others_that_a_login_sees_running_hold_no_value_of_a_tenant(
    servers: EmbeddedServers, all_seeing: Any, other: str, role: str
) -> None:
    """A login sees what its own sessions run, and those work for other tenants: their values travel apart."""
    session = await asyncpg.connect(servers.postgres_dsn(role))
    pool = await Pool.open(settings(servers.postgres_dsn(role)))
    work: Awaitable[object]
    if role == "worker":
        work = EventKeys(pool).claim([make.claim(other, "e1", 1)])
    else:
        work = Lives(pool).life_of(other, "e1", None)
    async with all_seeing.transaction():
        await all_seeing.execute("LOCK TABLE event_keys IN ACCESS EXCLUSIVE MODE")
        working = asyncio.ensure_future(work)
        while not (running := await session.fetch(_RUNNING)):
            continue
    await working
    await pool.close()
    await session.close()
    assert all("event_keys" in row["query"] for row in running)
    assert other not in str(running)
    assert "e1" not in str(running)


@pytest.mark.usefixtures("other")
async def test_a_foreign_key_cannot_lean_on_another_tenants_row(all_seeing: Any, operator: Pool, tenant: str) -> None:
    """The server checks foreign keys past the policies, so each carries its tenant: the other's plan does not serve."""
    await all_seeing.execute("INSERT INTO tenants (tenant_id, plan_tier) VALUES ($1, 'free')", tenant)
    insert = "INSERT INTO tenant_runtime_limits VALUES ($1, 'pro', 1, 1, now(), 'someone')"
    async with operator.lent() as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await attempt(connection, tenant, insert, tenant)


async def test_what_another_tenant_has_stored_is_never_taken(worker: Pool, tenant: str, other: str) -> None:
    """Unique keys start with the tenant: the other's event, decision, letter and artifact of the same names stand in
    nobody's way, and no error tells of them."""
    assert await EventKeys(worker).claim([make.claim(tenant, "e1", 1)]) == [ClaimOutcome.CLAIMED]
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    assert len(await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e2")])) == 1
    await ArtifactIndex(worker).index([make.artifact(tenant, "e1")])
    async with worker.tenant_transaction([tenant, other]) as connection:
        keys = await connection.fetch("SELECT tenant_id, event_id FROM event_keys ORDER BY tenant_id")
    assert sorted(map(tuple, keys)) == sorted([(tenant, "e1"), (other, "e1")])


def test_no_statement_names_a_tenant_past_its_transaction_or_shows_a_plan() -> None:
    for careless in ("SET app.tenants = 'a'", "SELECT set_config('app.tenants', $1, false)", "EXPLAIN SELECT 1"):
        assert _NEVER.search(careless)
    files = [*_SOURCES.rglob("*.py"), *_SOURCES.rglob("*.sql")]
    assert len(files) > 30
    assert not [file.name for file in files if _NEVER.search(file.read_text())]
