"""Row-level security on every table that has tenants: whoever asks as one tenant never touches another's rows."""

import re
from collections.abc import AsyncIterator
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
from sinks.faults import DeniedError
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

ROLES = ("edge", "worker", "operator")
TABLES = (
    "attempts",
    "chain_entries",
    "chain_frontiers",
    "chain_heads",
    "chain_leaves",
    "chain_nodes",
    "decision_evidence_artifacts",
    "decisions",
    "event_keys",
    "evidence_bundles",
    "evidence_outbox",
    "ingest_dlq",
    "ingest_events",
    "operator_actions",
    "tenant_policy_data",
    "tenant_runtime_limits",
    "usage_meters",
)
VERBS = {
    "SELECT": "SELECT FROM {table} WHERE tenant_id = $1",
    "SELECT FOR UPDATE": "SELECT FROM {table} WHERE tenant_id = $1 FOR UPDATE",
    "UPDATE": "UPDATE {table} SET {column} = {column} WHERE tenant_id = $1",
    "UPDATE RETURNING": "UPDATE {table} SET {column} = {column} WHERE tenant_id = $1 RETURNING *",
    "DELETE": "DELETE FROM {table} WHERE tenant_id = $1",
    "DELETE RETURNING": "DELETE FROM {table} WHERE tenant_id = $1 RETURNING *",
    "CTE": "WITH theirs AS (SELECT * FROM {table} WHERE tenant_id = $1) SELECT FROM theirs",
    "CTE that deletes": "WITH gone AS (DELETE FROM {table} WHERE tenant_id = $1 RETURNING *) SELECT FROM gone",
    "MERGE": "MERGE INTO {table} AS t USING (VALUES ($1)) AS v (tenant_id) ON t.tenant_id = v.tenant_id"
    " WHEN MATCHED THEN DO NOTHING",
    "MERGE that deletes": "MERGE INTO {table} AS t USING (VALUES ($1)) AS v (tenant_id) ON t.tenant_id = v.tenant_id"
    " WHEN MATCHED THEN DELETE",
}
"""With the other tenant's id: no row, or denied."""
_COPY = "INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, $1)"
WRITES = {
    "INSERT": _COPY,
    "INSERT RETURNING": f"{_COPY} RETURNING *",
    "INSERT of many": "INSERT INTO {table} SELECT r.* FROM unnest(ARRAY[$1::jsonb]) AS j (row)"
    " CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, j.row) AS r",
    "INSERT ON CONFLICT DO NOTHING": f"{_COPY} ON CONFLICT DO NOTHING",
    "MERGE that inserts": "MERGE INTO {table} AS t USING jsonb_populate_record(NULL::{table}, $1) AS v ON false"
    " WHEN NOT MATCHED THEN INSERT VALUES (v.*)",
}
"""With a row of the other tenant: denied."""

# What no repository of these tests writes.
_REST = """
INSERT INTO attempts VALUES ($1, 'e1', 'decision', 1, now(), now());
INSERT INTO chain_frontiers VALUES ($1, 1, '\\x', repeat('a', 64), repeat('b', 64), 0, 1);
INSERT INTO chain_leaves VALUES ($1, 1, 1, 0, repeat('a', 64));
INSERT INTO chain_nodes VALUES ($1, 8, 0, sha256(''));
INSERT INTO evidence_bundles VALUES ($1, 'b1', '{}');
INSERT INTO operator_actions VALUES ($1, 'a1', 'someone', 'nothing', '{}');
INSERT INTO tenants (tenant_id, plan_tier) VALUES ($1, 'pro');
INSERT INTO tenant_runtime_limits VALUES ($1, 'pro', 1, 1, now(), 'someone');
INSERT INTO tenant_policy_data VALUES ($1, '{}', now(), 'someone');
"""
_SET = "SELECT app.set_tenants($1::text[])"
_SOURCES = Path(attest.__file__).parent
_NEVER = re.compile(r"SET\s+(SESSION\s+|LOCAL\s+)?app\.|set_config\([^()]*,\s*false\s*\)|SET\s+SESSION|\bEXPLAIN\b")
"""What names a tenant past its transaction, or shows how many rows another has."""


@pytest.fixture(scope="module")
async def all_seeing(servers: EmbeddedServers) -> AsyncIterator[Any]:
    """A connection that row-level security does not bind."""
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def other(servers: EmbeddedServers, all_seeing: Any) -> str:
    """Another tenant, with rows in every table. No test changes it."""
    tenant = make.tenant_id()
    pool = await Pool.open(settings(servers.postgres_dsn("worker")))
    await EventKeys(pool).claim([make.claim(tenant, "e1", 1)])
    await DecisionLedger(pool).record([make.record(tenant, "e1")])
    await DeadLetters(pool, make.SHA_A).bury([make.letter(tenant, "e2")])
    await ArtifactIndex(pool).index([make.artifact(tenant, "e1")])
    await pool.close()
    for statement in _REST.strip().splitlines():
        await all_seeing.execute(statement, tenant)
    return tenant


@pytest.fixture(scope="module", params=ROLES)
async def connection(request: pytest.FixtureRequest, servers: EmbeddedServers) -> AsyncIterator[Any]:
    login = await asyncpg.connect(servers.postgres_dsn(request.param))
    yield login
    await login.close()


async def _rows(all_seeing: Any, table: str, tenant: str) -> list[str]:
    query = f"SELECT to_jsonb(t)::text FROM {table} AS t WHERE tenant_id = $1 ORDER BY 1"  # noqa: S608  (TABLES)
    return [row[0] for row in await all_seeing.fetch(query, tenant)]


async def _attempt(connection: Any, tenant: str, statement: str, *values: str) -> str:
    """What became of the statement in a transaction of the tenant: how many rows, or that it was denied."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(_SET, [tenant])
        tag: str = await connection.execute(statement, *values)
    except asyncpg.InsufficientPrivilegeError:
        return "denied"
    else:
        return tag.rpartition(" ")[2]
    finally:
        await transaction.rollback()


async def _changeable_column(connection: Any, table: str) -> str:
    query = """
        SELECT column_name FROM information_schema.column_privileges
        WHERE table_name = $1 AND grantee = current_user AND privilege_type = 'UPDATE' LIMIT 1
    """
    return await connection.fetchval(query, table) or "tenant_id"


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
    column = await _changeable_column(connection, table)
    for verb, statement in VERBS.items():
        outcome = await _attempt(connection, tenant, statement.format(table=table, column=column), other)
        assert outcome in {"0", "denied"}, verb
    for verb, statement in WRITES.items():
        assert await _attempt(connection, tenant, statement.format(table=table), before[0]) == "denied", verb
    assert await _attempt(connection, tenant, f"TRUNCATE {table}") == "denied"
    assert await _rows(all_seeing, table, other) == before


@pytest.mark.parametrize("table", TABLES)
async def test_no_row_moves_to_another_tenant(connection: Any, tenant: str, other: str, table: str) -> None:
    move = f"UPDATE {table} SET tenant_id = $1 WHERE tenant_id = $2"  # noqa: S608  (TABLES)
    assert await _attempt(connection, other, move, tenant, other) == "denied"


@pytest.mark.parametrize("table", TABLES)
async def test_no_row_is_copied_in_bulk_past_the_policies(connection: Any, tenant: str, other: str, table: str) -> None:
    with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError)):
        async with connection.transaction():
            await connection.execute(_SET, [tenant])
            await connection.copy_records_to_table(table, records=[(other,)], columns=["tenant_id"])


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("table", TABLES)
async def test_without_a_tenant_nothing_is_read(connection: Any, table: str) -> None:
    with pytest.raises((asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError)):
        await connection.fetch(f"SELECT FROM {table}")


async def test_the_tenants_own_rows_are_within_reach(edge: Pool, other: str) -> None:
    async with edge.tenant_transaction([other]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1


async def test_a_transaction_that_names_nobody_is_refused(worker: Pool) -> None:
    with pytest.raises(DeniedError, match="28000"):
        async with worker.tenant_transaction([]):
            pass


async def test_the_tenant_of_a_transaction_is_named_once(connection: Any, tenant: str, other: str) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
        async with connection.transaction():
            await connection.execute(_SET, [tenant])
            await connection.execute(_SET, [other])


async def test_a_savepoint_cannot_widen_its_transaction(connection: Any, tenant: str, other: str) -> None:
    async with connection.transaction():
        await connection.execute(_SET, [tenant])
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
            async with connection.transaction():
                await connection.execute(_SET, [other])
        assert await connection.fetchval("SELECT app.tenants()") == [tenant]


async def test_a_tenant_named_inside_a_savepoint_stays_the_only_one(connection: Any, tenant: str, other: str) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SAVEPOINT inner_one")
    await connection.execute(_SET, [other])
    await connection.execute("ROLLBACK TO inner_one")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
        await connection.fetch("SELECT FROM event_keys")
    await connection.execute("ROLLBACK TO inner_one")
    await connection.execute(_SET, [tenant])
    await connection.execute("RELEASE inner_one")
    assert await connection.fetchval("SELECT app.tenants()") == [tenant]
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
        await connection.execute(_SET, [other])
    await transaction.rollback()


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_the_tenant_is_forgotten_with_its_transaction(connection: Any, other: str, ending: str) -> None:
    await connection.execute("BEGIN")
    await connection.execute(_SET, [other])
    await connection.execute(ending)
    assert await connection.fetchval("SELECT current_setting('app.tenants', true)") in {None, ""}
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
        await connection.fetch("SELECT FROM event_keys")


async def test_a_tenant_named_outside_of_a_transaction_is_named_for_nobody(connection: Any, other: str) -> None:
    await connection.execute(_SET, [other])
    await connection.execute("SELECT set_config('app.tenants', $1, true)", other)
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
        await connection.fetch("SELECT FROM event_keys")


async def test_the_tenant_is_forgotten_with_a_cancelled_statement(connection: Any, other: str) -> None:
    with pytest.raises(asyncpg.QueryCanceledError):
        async with connection.transaction():
            await connection.execute(_SET, [other])
            await connection.execute("SET LOCAL statement_timeout = 20")
            await connection.execute("SELECT pg_sleep(60)")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
        await connection.fetch("SELECT FROM event_keys")


async def test_a_prepared_statement_follows_the_tenant_of_its_transaction(
    connection: Any, tenant: str, other: str
) -> None:
    statement = await connection.prepare("SELECT tenant_id FROM event_keys")
    for _ in range(7):  # beyond the fifth the server may keep one plan for all
        for named, seen in ((other, [other]), (tenant, [])):
            async with connection.transaction():
                await connection.execute(_SET, [named])
                assert [row[0] for row in await statement.fetch()] == seen


@pytest.mark.parametrize("names", [[], [""], [None], ["a,b"], ["a b"], ["-a"], ["a" * 64], ["é"], ["a\n"]])
async def test_only_tenant_ids_can_be_named(connection: Any, names: list[str | None]) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TENANT_CONTEXT_INVALID"):
        await connection.execute(_SET, names)


async def test_only_the_worker_may_name_several_tenants(
    edge: Pool, operator: Pool, worker: Pool, tenant: str, other: str
) -> None:
    for pool in (edge, operator):
        async with pool.lent() as connection:
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TOO_WIDE"):
                async with connection.transaction():
                    await connection.execute(_SET, [tenant, other])
                    await connection.fetch("SELECT FROM decisions")
    async with worker.tenant_transaction([tenant, other]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1


async def test_a_partition_is_as_protected_as_its_table(connection: Any, all_seeing: Any, other: str) -> None:
    partition = await all_seeing.fetchval(
        "SELECT tableoid::regclass::text FROM ingest_events WHERE tenant_id = $1", other
    )
    assert await _attempt(connection, other, f"SELECT FROM {partition}") == "denied"
    protected = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = $1::regclass"
    assert await all_seeing.fetchval(protected, partition)
    policies = await all_seeing.fetchval("SELECT count(*) FROM pg_policy WHERE polrelid = $1::regclass", partition)
    assert policies == 2


async def test_an_expression_that_fails_on_foreign_rows_meets_none(connection: Any, tenant: str, other: str) -> None:
    """The policy comes before any condition of the query: no error tells that a row is there."""
    for condition in ("event_id::integer > 0", "1 / (CASE tenant_id WHEN $1 THEN 0 ELSE 1 END) > 0"):
        query = f"SELECT FROM event_keys WHERE {condition} AND $1::text <> ''"
        assert await _attempt(connection, tenant, query, other) == "0"


async def test_the_servers_statistics_tell_no_values(connection: Any, all_seeing: Any, tenant: str) -> None:
    await all_seeing.execute("ANALYZE event_keys, decisions")
    shown = "SELECT FROM pg_stats WHERE tablename = ANY ($1::text[])"
    assert await connection.execute(shown, list(TABLES)) == "SELECT 0"
    assert await _attempt(connection, tenant, "SELECT FROM pg_statistic") == "denied"
    assert await _attempt(connection, tenant, "SELECT last_value FROM ingest_dlq_id_seq") == "denied"
    running = "SELECT query FROM pg_stat_activity WHERE $1::text <> ''"
    assert tenant not in str(await connection.fetch(running, tenant))


@pytest.mark.usefixtures("other")
async def test_a_foreign_key_cannot_lean_on_another_tenants_row(all_seeing: Any, operator: Pool, tenant: str) -> None:
    """The server checks foreign keys past the policies, so each carries its tenant: the other's plan does not serve."""
    await all_seeing.execute("INSERT INTO tenants (tenant_id, plan_tier) VALUES ($1, 'free')", tenant)
    insert = "INSERT INTO tenant_runtime_limits VALUES ($1, 'pro', 1, 1, now(), 'someone')"
    async with operator.lent() as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await _attempt(connection, tenant, insert, tenant)


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
