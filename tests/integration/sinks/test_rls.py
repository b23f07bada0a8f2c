"""Row-level security on every table that has tenants: whoever asks as one tenant never touches another's rows."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from sinks import attest
from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

ROLES = ("edge", "worker", "operator")
TABLES = (
    "attempts",
    "chain_entries",
    "chain_heads",
    "decision_evidence_artifacts",
    "decisions",
    "event_keys",
    "evidence_bundles",
    "evidence_outbox",
    "ingest_dlq",
    "ingest_events",
    "operator_actions",
    "tenant_runtime_limits",
    "usage_meters",
)

# What no repository writes.
_REST = """
INSERT INTO attempts VALUES ($1, 'e1', 'decision', 1, now(), now());
INSERT INTO evidence_bundles VALUES ($1, 'b1', '{}');
INSERT INTO operator_actions VALUES ($1, 'a1', 'someone', 'nothing', '{}');
INSERT INTO tenants (tenant_id, plan_tier) VALUES ($1, 'free');
INSERT INTO tenant_runtime_limits VALUES ($1, 'free', 1, 1, now(), 'someone');
"""


@pytest.fixture
async def other(worker: Pool, superuser: Any) -> str:
    """Another tenant, with rows in every table."""
    tenant = make.tenant_id()
    await EventKeys(worker).claim([make.claim(tenant, "e1", 1)])
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e2")])
    await ArtifactIndex(worker).index([make.artifact(tenant, "e1")])
    for statement in _REST.strip().splitlines():
        await superuser.execute(statement, tenant)
    return tenant


@pytest.fixture(params=ROLES)
async def connection(request: pytest.FixtureRequest, servers: EmbeddedServers) -> AsyncIterator[Any]:
    login = await asyncpg.connect(servers.postgres_dsn(request.param))
    yield login
    await login.close()


async def _rows(superuser: Any, table: str, tenant: str) -> list[str]:
    query = f"SELECT to_jsonb(t)::text FROM {table} AS t WHERE tenant_id = $1 ORDER BY 1"  # noqa: S608  (TABLES)
    return [row[0] for row in await superuser.fetch(query, tenant)]


async def _attempt(connection: Any, tenant: str, statement: str, *values: str) -> str:
    """What became of the statement in a transaction of the tenant: its tag, or that it was denied."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SELECT app.set_tenants($1::text[])", [tenant])
        tag: str = await connection.execute(statement, *values)
    except asyncpg.InsufficientPrivilegeError:
        return "denied"
    else:
        return tag
    finally:
        await transaction.rollback()


async def _changeable_column(connection: Any, table: str) -> str:
    query = """
        SELECT column_name FROM information_schema.column_privileges
        WHERE table_name = $1 AND grantee = current_user AND privilege_type = 'UPDATE' LIMIT 1
    """
    return await connection.fetchval(query, table) or "tenant_id"


async def test_the_tables_of_this_suite_are_all_that_have_tenants(superuser: Any) -> None:
    exempt = {name.removeprefix("public.") for name in attest.EXEMPT_TABLES}
    found = await superuser.fetch(
        "SELECT relname FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid AND attname = 'tenant_id' "
        "WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace"
    )
    assert {row["relname"] for row in found} == set(TABLES) | exempt


@pytest.mark.parametrize("table", TABLES)
async def test_rows_of_another_tenant_are_out_of_reach_of_every_verb(
    connection: Any, superuser: Any, tenant: str, other: str, table: str
) -> None:
    before = await _rows(superuser, table, other)
    assert before
    column = await _changeable_column(connection, table)
    read = await _attempt(connection, tenant, f"SELECT FROM {table} WHERE tenant_id = $1", other)
    update = f"UPDATE {table} SET {column} = {column} WHERE tenant_id = $1"  # noqa: S608
    delete = f"DELETE FROM {table} WHERE tenant_id = $1"  # noqa: S608
    copy = f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, $1)"  # noqa: S608
    assert read in {"SELECT 0", "denied"}
    assert await _attempt(connection, tenant, update, other) in {"UPDATE 0", "denied"}
    assert await _attempt(connection, tenant, delete, other) in {"DELETE 0", "denied"}
    assert await _attempt(connection, tenant, copy, before[0]) == "denied"
    assert await _attempt(connection, tenant, f"TRUNCATE {table}") == "denied"
    assert await _rows(superuser, table, other) == before


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("table", TABLES)
async def test_without_a_tenant_nothing_is_read(connection: Any, table: str) -> None:
    with pytest.raises((asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InsufficientPrivilegeError)):
        await connection.fetch(f"SELECT FROM {table}")


async def test_the_tenants_own_rows_are_within_reach(edge: Pool, other: str) -> None:
    async with edge.tenant_transaction([other]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1


async def test_the_tenant_of_a_transaction_is_named_once(connection: Any, tenant: str, other: str) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
        async with connection.transaction():
            await connection.execute("SELECT app.set_tenants($1::text[])", [tenant])
            await connection.execute("SELECT app.set_tenants($1::text[])", [other])


async def test_a_savepoint_cannot_widen_its_transaction(connection: Any, tenant: str, other: str) -> None:
    async with connection.transaction():
        await connection.execute("SELECT app.set_tenants($1::text[])", [tenant])
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
            async with connection.transaction():
                await connection.execute("SELECT app.set_tenants($1::text[])", [other])
        assert await connection.fetchval("SELECT app.tenants()") == [tenant]


async def test_the_tenant_is_forgotten_with_its_transaction(connection: Any, tenant: str) -> None:
    async with connection.transaction():
        await connection.execute("SELECT app.set_tenants($1::text[])", [tenant])
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TENANT_CONTEXT_MISSING"):
        await connection.fetchval("SELECT app.tenants()")


@pytest.mark.parametrize("names", [[], [""], [None], ["a,b"], ["a b"], ["-a"], ["a" * 64], ["é"], ["a\n"]])
async def test_only_tenant_ids_can_be_named(connection: Any, names: list[str | None]) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TENANT_CONTEXT_INVALID"):
        await connection.execute("SELECT app.set_tenants($1::text[])", names)


async def test_only_the_worker_may_name_several_tenants(
    edge: Pool, operator: Pool, worker: Pool, tenant: str, other: str
) -> None:
    for pool in (edge, operator):
        async with pool.lent() as connection:
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TOO_WIDE"):
                async with connection.transaction():
                    await connection.execute("SELECT app.set_tenants($1::text[])", [tenant, other])
                    await connection.fetch("SELECT FROM decisions")
    async with worker.tenant_transaction([tenant, other]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1


async def test_a_partition_is_as_protected_as_its_table(connection: Any, superuser: Any, other: str) -> None:
    partition = await superuser.fetchval(
        "SELECT tableoid::regclass::text FROM ingest_events WHERE tenant_id = $1", other
    )
    assert await _attempt(connection, other, f"SELECT FROM {partition}") == "denied"
    protected = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = $1::regclass"
    assert await superuser.fetchval(protected, partition)
    policies = await superuser.fetchval("SELECT count(*) FROM pg_policy WHERE polrelid = $1::regclass", partition)
    assert policies == 2


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("role", ROLES)
async def test_a_migrated_database_is_attested_for_every_role(servers: EmbeddedServers, role: str) -> None:
    assert await _findings(servers.postgres_dsn(role)) == []


async def _findings(dsn: str) -> list[str]:
    pool = await Pool.open(settings(dsn))
    try:
        return await attest.findings(pool)
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("fault", "cure", "finding"),
    [
        (
            "ALTER TABLE decisions NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE decisions FORCE ROW LEVEL SECURITY",
            "public.decisions: row-level security is not enabled and forced",
        ),
        (
            "ALTER TABLE decisions DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE decisions ENABLE ROW LEVEL SECURITY",
            "decisions: the probe read past row-level security",
        ),
        (
            "CREATE POLICY lax ON decisions USING (true)",
            "DROP POLICY lax ON decisions",
            "public.decisions: policy lax is not the canonical one",
        ),
        (
            "ALTER POLICY tenant_wall ON decisions TO fg_edge",
            "ALTER POLICY tenant_wall ON decisions TO PUBLIC",
            "public.decisions: no restrictive policy holds for everyone",
        ),
        (
            "GRANT TRUNCATE ON decisions TO fg_worker",
            "REVOKE TRUNCATE ON decisions FROM fg_worker",
            "public.decisions: role fg_worker may truncate it, refer to it or put triggers on it",
        ),
        (
            "GRANT SELECT ON decisions TO PUBLIC",
            "REVOKE SELECT ON decisions FROM PUBLIC",
            "public.decisions: something is granted to PUBLIC",
        ),
        (
            "ALTER ROLE fg_worker BYPASSRLS",
            "ALTER ROLE fg_worker NOBYPASSRLS",
            "role fg_worker can bypass row-level security or manage roles",
        ),
        (
            "GRANT pg_read_all_data TO fg_worker",
            "REVOKE pg_read_all_data FROM fg_worker",
            "role pg_read_all_data is a predefined role",
        ),
        (
            "ALTER TABLE decisions OWNER TO fg_worker",
            "ALTER TABLE decisions OWNER TO fg_owner",
            "public.decisions is owned by role fg_worker",
        ),
        (
            "CREATE VIEW peep AS SELECT * FROM decisions",
            "DROP VIEW peep",
            "view public.peep does not run as its caller",
        ),
        (
            "CREATE FUNCTION peep() RETURNS bigint SECURITY DEFINER RETURN (SELECT count(*) FROM decisions)",
            "DROP FUNCTION peep",
            "function peep() runs as its owner",
        ),
        (
            "ALTER TABLE chain_entries DISABLE TRIGGER append_only",
            "ALTER TABLE chain_entries ENABLE TRIGGER append_only",
            "public.chain_entries: the append-only trigger is missing or disabled",
        ),
        (
            "CREATE UNIQUE INDEX loose ON decisions (event_id, tenant_id)",
            "DROP INDEX loose",
            "public.decisions: unique index loose does not start with tenant_id",
        ),
        (
            "ALTER ROLE fg_worker SET synchronous_commit = off",
            "ALTER ROLE fg_worker RESET synchronous_commit",
            "synchronous_commit is off",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO fg_worker",
            "REVOKE CREATE ON SCHEMA public FROM fg_worker",
            "role fg_worker may create in schema public",
        ),
    ],
)
async def test_each_way_around_the_policies_is_found(
    spare: EmbeddedServers, fault: str, cure: str, finding: str
) -> None:
    admin = await asyncpg.connect(spare.postgres_dsn("admin"))
    try:
        await admin.execute(fault)
        found = await _findings(spare.postgres_dsn("worker"))
        await admin.execute(cure)
    finally:
        await admin.close()
    assert finding in found
    assert await _findings(spare.postgres_dsn("worker")) == []


async def test_a_migration_that_is_missing_is_found(spare: EmbeddedServers) -> None:
    admin = await asyncpg.connect(spare.postgres_dsn("admin"))
    try:
        row = await admin.fetchrow("DELETE FROM schema_migrations WHERE name ~ '^0003' RETURNING *")
        found = await _findings(spare.postgres_dsn("edge"))
        await admin.execute("INSERT INTO schema_migrations VALUES ($1, $2, $3)", *row)
    finally:
        await admin.close()
    assert found == [f"migration {row['name']} is not applied"]
