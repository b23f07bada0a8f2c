"""Each way around row-level security, opened on a real database: the standing check sees it and nothing is ready."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from ops.watch import IsolationWatch, unpublished
from sinks import attest
from sinks.attest import RULES
from sinks.migrate import packaged
from sinks.pg import Pool
from tests.integration.sinks.conftest import settings

_RULE = "(tenant_id = ANY ((SELECT app.tenants())::text[]))"
_TEXT = f"USING {_RULE} WITH CHECK {_RULE}"
_ROWS = f"CREATE POLICY tenant_rows ON decisions FOR ALL TO fg_edge, fg_worker, fg_admin {_TEXT}"
_WALL = f"CREATE POLICY tenant_wall ON decisions AS RESTRICTIVE FOR ALL TO PUBLIC {_TEXT}"


_NAMED = "tenant_named BEFORE INSERT OR DELETE OR UPDATE ON decisions"


def _as_migrated(migration: str, function: str) -> str:
    """The statement of that migration that makes the function."""
    (text,) = (each.sql for each in packaged() if each.name == migration)
    body = text[text.index(f"FUNCTION {function} ") :]
    return f"CREATE OR REPLACE {body[: body.index('$$;') + 3]}"


class Mutation(NamedTuple):
    """A fault, what undoes it, and the finding it must make: its rule and its object."""

    name: str
    fault: str
    cure: str
    finding: str


def _role(name: str, attribute: str, finding: str) -> Mutation:
    return Mutation(name, f"ALTER ROLE fg_worker {attribute}", f"ALTER ROLE fg_worker NO{attribute}", finding)


def _member(name: str, role: str, finding: str) -> Mutation:
    return Mutation(name, f"GRANT {role} TO fg_worker", f"REVOKE {role} FROM fg_worker", finding)


def _granted(right: str, target: str, finding: str, to: str = "fg_worker") -> Mutation:
    name = f"{right} on {target} granted to {to}"
    return Mutation(name, f"GRANT {right} ON {target} TO {to}", f"REVOKE {right} ON {target} FROM {to}", finding)


def _table(change: str, cure: str, finding: str) -> Mutation:
    return Mutation(change, f"ALTER TABLE decisions {change}", f"ALTER TABLE decisions {cure}", finding)


def _for_new_sessions(setting: str, value: str, finding: str) -> Mutation:
    name = f"{setting} set for the role"
    return Mutation(
        name, f"ALTER ROLE fg_worker SET {setting} = {value}", f"ALTER ROLE fg_worker RESET {setting}", finding
    )


MUTATIONS = (
    _role("the role bypasses row-level security", "BYPASSRLS", "R1 role fg_worker"),
    _role("the role makes roles", "CREATEROLE", "R1 role fg_worker"),
    _role("the role replicates", "REPLICATION", "R1 role fg_worker"),
    _role("the role makes databases", "CREATEDB", "R1 role fg_worker"),
    _member("the role is a member of a superuser", "frostgate_admin", "R1 role frostgate_admin"),
    Mutation(
        "a role two roles up bypasses row-level security",
        "CREATE ROLE high BYPASSRLS NOLOGIN; CREATE ROLE middle ROLE fg_worker; GRANT high TO middle",
        "DROP ROLE high, middle",
        "R1 role high",
    ),
    Mutation(
        "new sessions of the role run as another",
        "GRANT fg_edge TO fg_worker; ALTER ROLE fg_worker SET role = 'fg_edge'",
        "REVOKE fg_edge FROM fg_worker; ALTER ROLE fg_worker RESET role",
        "R2 role fg_worker",
    ),
    Mutation(
        "the role owns a table",
        "ALTER TABLE decisions OWNER TO fg_worker",
        # The owner's grants to the role went up in the role's ownership.
        "ALTER TABLE decisions OWNER TO fg_owner; GRANT SELECT, INSERT ON decisions TO fg_worker",
        "R3 public.decisions",
    ),
    _member("the role can become the owner", "fg_owner", "R3 public.decisions"),
    Mutation(
        "the role owns a function",
        "ALTER FUNCTION app.tenants OWNER TO fg_worker",
        "ALTER FUNCTION app.tenants OWNER TO fg_owner; GRANT EXECUTE ON FUNCTION app.tenants TO fg_worker",
        "R3 function app.tenants()",
    ),
    _member("the role is a member of pg_read_all_data", "pg_read_all_data", "R4 role pg_read_all_data"),
    _table("DISABLE ROW LEVEL SECURITY", "ENABLE ROW LEVEL SECURITY", "T1 public.decisions"),
    Mutation(
        "a table that can be read past its policies",
        "ALTER TABLE attempts DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE attempts ENABLE ROW LEVEL SECURITY",
        "B1 attempts",
    ),
    _table("NO FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY", "T2 public.decisions"),
    Mutation(
        "a new table without row-level security",
        "CREATE TABLE fresh (tenant_id text NOT NULL); GRANT SELECT ON fresh TO fg_worker",
        "DROP TABLE fresh",
        "T1 public.fresh",
    ),
    Mutation(
        "a new table without tenant_id",
        "CREATE TABLE fresh (body text); GRANT INSERT (body) ON fresh TO fg_worker",
        "DROP TABLE fresh",
        "T3 public.fresh",
    ),
    Mutation(
        "tenant_id may be null",
        "ALTER TABLE ingest_dlq ALTER tenant_id DROP NOT NULL",
        "ALTER TABLE ingest_dlq ALTER tenant_id SET NOT NULL",
        "T3 public.ingest_dlq",
    ),
    Mutation("no permissive policy", "DROP POLICY tenant_rows ON decisions", _ROWS, "T4 public.decisions"),
    Mutation("no restrictive policy", "DROP POLICY tenant_wall ON decisions", _WALL, "T4 public.decisions"),
    Mutation(
        "a permissive policy for others only",
        "ALTER POLICY tenant_rows ON decisions TO fg_edge",
        "ALTER POLICY tenant_rows ON decisions TO fg_edge, fg_worker, fg_admin",
        "T4 public.decisions",
    ),
    Mutation(
        "a restrictive policy for some only",
        "ALTER POLICY tenant_wall ON decisions TO fg_edge",
        "ALTER POLICY tenant_wall ON decisions TO PUBLIC",
        "T4 public.decisions",
    ),
    Mutation(
        "a restrictive policy for reading only",
        "DROP POLICY tenant_wall ON decisions;"
        f" CREATE POLICY tenant_wall ON decisions AS RESTRICTIVE FOR SELECT USING {_RULE}",
        f"DROP POLICY tenant_wall ON decisions; {_WALL}",
        "T4 public.decisions",
    ),
    Mutation(
        "one more policy that lets everything through",
        "CREATE POLICY lax ON decisions USING (true)",
        "DROP POLICY lax ON decisions",
        "T5 public.decisions: policy lax",
    ),
    Mutation(
        "another text of a policy",
        f"ALTER POLICY tenant_wall ON decisions USING ({_RULE} OR true)",
        f"DROP POLICY tenant_wall ON decisions; {_WALL}",
        "T5 public.decisions: policy tenant_wall",
    ),
    _granted("TRUNCATE", "decisions", "T6 public.decisions"),
    _granted("REFERENCES", "decisions", "T6 public.decisions"),
    _granted("REFERENCES (event_id)", "decisions", "T6 public.decisions"),
    _granted("TRIGGER", "decisions", "T6 public.decisions"),
    _granted("MAINTAIN", "decisions", "T6 public.decisions"),
    Mutation(
        "a unique index over all tenants",
        "CREATE UNIQUE INDEX loose ON decisions (event_id, tenant_id)",
        "DROP INDEX loose",
        "T7 public.decisions: unique index loose",
    ),
    Mutation(
        "a foreign key that does not carry the tenant",
        "CREATE TABLE fresh (tenant_id text NOT NULL, letter bigint REFERENCES ingest_dlq);"
        " SELECT app.protect('fresh')",
        "DROP TABLE fresh",
        "T8 public.fresh",
    ),
    _table(
        "ADD CONSTRAINT apart EXCLUDE (decision_id WITH =)",
        "DROP CONSTRAINT apart",
        "T9 public.decisions",
    ),
    Mutation(
        "a partition without row-level security",
        "CREATE TABLE late PARTITION OF ingest_events FOR VALUES FROM ('2031-01-01') TO ('2031-01-02')",
        "DROP TABLE late",
        "P1 public.late",
    ),
    Mutation(
        "a partition with its protection taken off",
        "SELECT app.ensure_ingest_partition('2020-01-02');"
        " ALTER TABLE ingest_events_20200102 NO FORCE ROW LEVEL SECURITY",
        "DROP TABLE ingest_events_20200102",
        "P1 public.ingest_events_20200102",
    ),
    Mutation("a view", "CREATE VIEW peep AS SELECT * FROM decisions", "DROP VIEW peep", "V1 public.peep"),
    Mutation(
        "a materialized view",
        "CREATE MATERIALIZED VIEW peep AS SELECT 1 AS one",
        "DROP MATERIALIZED VIEW peep",
        "V2 public.peep",
    ),
    Mutation(
        "a foreign table",
        "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;"
        " CREATE FOREIGN TABLE peep (tenant_id text) SERVER away",
        "DROP FOREIGN DATA WRAPPER far CASCADE",
        "V2 public.peep",
    ),
    Mutation(
        "a function that runs as its owner",
        "CREATE FUNCTION peep() RETURNS bigint SECURITY DEFINER RETURN (SELECT count(*) FROM decisions)",
        "DROP FUNCTION peep",
        "F1 function public.peep()",
    ),
    Mutation(
        "a function of a name that is let through, with other arguments",
        "CREATE FUNCTION app.ensure_ingest_partition(text) RETURNS integer SECURITY DEFINER SET search_path = ''"
        " RETURN 1; GRANT EXECUTE ON FUNCTION app.ensure_ingest_partition(text) TO fg_worker",
        "DROP FUNCTION app.ensure_ingest_partition(text)",
        "F1 function app.ensure_ingest_partition(text)",
    ),
    Mutation(
        "a function that runs as its owner with the caller's search path",
        "ALTER FUNCTION app.ensure_ingest_partition(date) RESET search_path",
        "ALTER FUNCTION app.ensure_ingest_partition(date) SET search_path = ''",
        "F1 function app.ensure_ingest_partition(date)",
    ),
    Mutation(
        "a leakproof function",
        "CREATE FUNCTION peep() RETURNS integer LEAKPROOF RETURN 1; REVOKE EXECUTE ON FUNCTION peep FROM PUBLIC",
        "DROP FUNCTION peep",
        "F2 function public.peep()",
    ),
    _granted("CREATE", "SCHEMA public", "S1 schema public"),
    _granted("CREATE", "DATABASE frostgate", "S1 database frostgate"),
    _granted("TEMPORARY", "DATABASE frostgate", "S2 database frostgate"),
    _granted("TEMPORARY", "DATABASE frostgate", "S2 database frostgate", to="PUBLIC"),
    _granted("SELECT", "decisions", "S3 public.decisions", to="PUBLIC"),
    _granted("SELECT (event_id)", "decisions", "S3 public.decisions", to="PUBLIC"),
    _for_new_sessions("synchronous_commit", "off", "S4 synchronous_commit"),
    _for_new_sessions("row_security", "off", "S4 row_security"),
    _for_new_sessions("session_replication_role", "replica", "S4 session_replication_role"),
    _for_new_sessions("app.tenants", "'somebody'", "S4 app.tenants"),
    Mutation(
        "synchronous_commit set for the database",
        "ALTER DATABASE frostgate SET synchronous_commit = off",
        "ALTER DATABASE frostgate RESET synchronous_commit",
        "S4 synchronous_commit",
    ),
    Mutation(
        "a disabled trigger",
        "ALTER TABLE chain_entries DISABLE TRIGGER append_only",
        "ALTER TABLE chain_entries ENABLE TRIGGER append_only",
        "S5 public.chain_entries: trigger append_only is disabled",
    ),
    Mutation(
        "disabled checks of foreign keys",
        "ALTER TABLE tenant_runtime_limits DISABLE TRIGGER ALL",
        "ALTER TABLE tenant_runtime_limits ENABLE TRIGGER ALL",
        "S5 public.tenant_runtime_limits",
    ),
    Mutation(
        "a trigger that is gone",
        "ALTER TRIGGER append_only ON operator_actions RENAME TO other",
        "ALTER TRIGGER other ON operator_actions RENAME TO append_only",
        "S5 public.operator_actions: the trigger that keeps it from losing rows",
    ),
    Mutation(
        "a trigger of the right name that lets rows be changed",
        "CREATE OR REPLACE TRIGGER append_only BEFORE DELETE ON chain_entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change()",
        "CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON chain_entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change()",
        "S5 public.chain_entries: the trigger that keeps it from losing rows",
    ),
    Mutation(
        "a trigger of the right name that refuses nothing",
        f"CREATE OR REPLACE TRIGGER {_NAMED} FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION app.require_tenants()",
        f"CREATE OR REPLACE TRIGGER {_NAMED} FOR EACH STATEMENT EXECUTE FUNCTION app.require_tenants()",
        "S5 public.decisions: the trigger that refuses writes without a tenant",
    ),
    Mutation(
        "a new table whose writes need no tenant",
        "CREATE TABLE fresh (tenant_id text NOT NULL); SELECT app.protect('fresh'); DROP TRIGGER tenant_named ON fresh",
        "DROP TABLE fresh",
        "S5 public.fresh: the trigger that refuses writes without a tenant",
    ),
    Mutation(
        "a partition whose writes need no tenant",
        "SELECT app.ensure_ingest_partition('2020-01-03'); DROP TRIGGER tenant_named ON ingest_events_20200103",
        "DROP TABLE ingest_events_20200103",
        "S5 public.ingest_events_20200103: the trigger that refuses writes without a tenant",
    ),
    Mutation(
        "a function behind the policies that brings its own tenant",
        "ALTER FUNCTION app.tenants() SET app.tenants = 'victim'",
        "ALTER FUNCTION app.tenants() RESET app.tenants",
        "T5 function app.tenants()",
    ),
    Mutation(
        "a function behind a trigger that no longer refuses",
        "CREATE OR REPLACE FUNCTION app.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = ''"
        " AS 'BEGIN RETURN NULL; END'",
        _as_migrated("0001_tenancy", "app.refuse_change()"),
        "T5 function app.refuse_change()",
    ),
    Mutation(
        "a function that runs as its owner and does something else",
        "CREATE OR REPLACE FUNCTION app.drop_ingest_partition(day date, days_by_tier jsonb) RETURNS void"
        " LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS 'BEGIN DELETE FROM public.decisions; END'",
        _as_migrated("0018_days", "app.drop_ingest_partition(day date, days_by_tier jsonb)"),
        "T5 function app.drop_ingest_partition(date, jsonb)",
    ),
    Mutation(
        "a function that runs as its owner with one more setting",
        "ALTER FUNCTION app.ensure_ingest_partition(date) SET row_security = off",
        "ALTER FUNCTION app.ensure_ingest_partition(date) RESET row_security",
        "T5 function app.ensure_ingest_partition(date)",
    ),
    Mutation(
        "the role owns a schema",
        "ALTER SCHEMA app OWNER TO fg_worker",
        "ALTER SCHEMA app OWNER TO fg_owner; GRANT USAGE ON SCHEMA app TO fg_worker",
        "R3 schema app",
    ),
)


class Session(NamedTuple):
    """What a session of the role has done to itself, the finding, and the right it took, given and taken back."""

    name: str
    statement: str
    finding: str
    right: str = "SELECT"
    undone: str = "SELECT"


SESSIONS = (
    Session(
        "runs as another role",
        "SET ROLE fg_edge",
        "R2 role fg_worker: runs as role fg_edge",
        "GRANT fg_edge TO fg_worker",
        "REVOKE fg_edge FROM fg_worker",
    ),
    Session("does not ask the policies", "SET row_security = off", "S4 row_security: is off"),
    Session("does not wait for the disk", "SET synchronous_commit = off", "S4 synchronous_commit: is off"),
    Session(
        "fires no trigger",
        "SET session_replication_role = replica",
        "S4 session_replication_role: is replica",
        "GRANT SET ON PARAMETER session_replication_role TO fg_worker",
        "REVOKE SET ON PARAMETER session_replication_role FROM fg_worker",
    ),
)


@pytest.fixture(scope="module")
async def admin(spare: EmbeddedServers) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(spare.postgres_dsn("admin"))
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def watch(spare: EmbeddedServers) -> AsyncIterator[IsolationWatch]:
    """The check of a service that was attested before anything is changed, over the sessions it has kept since."""
    pool = await Pool.open(settings(spare.postgres_dsn("worker"), pool_size=1))
    standing = IsolationWatch(pool, unpublished)
    await standing.check()
    assert standing.findings == []
    yield standing
    await pool.close()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_each_way_around_the_policies_stops_readiness_until_it_is_closed(
    admin: Any, watch: IsolationWatch, mutation: Mutation
) -> None:
    await admin.execute(mutation.fault)
    try:
        await watch.check()
        found = watch.findings
    finally:
        await admin.execute(mutation.cure)
    await watch.check()
    assert [finding for finding in found if finding.startswith(mutation.finding)], found
    assert watch.findings == []


async def test_another_body_of_a_function_the_policies_stand_on_stops_readiness(
    admin: Any, watch: IsolationWatch
) -> None:
    definition = await admin.fetchval("SELECT pg_get_functiondef('app.tenants()'::regprocedure)")
    assert "> 1" in definition
    await admin.execute(definition.replace("> 1", "> 1000"))
    await watch.check()
    assert watch.findings == ["T5 function app.tenants(): is defined otherwise than this program relies on"]
    await admin.execute(definition)
    await watch.check()
    assert watch.findings == []


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
async def test_what_a_session_has_done_to_itself_stops_readiness(
    spare: EmbeddedServers, admin: Any, session: Session
) -> None:
    await admin.execute(session.right)
    pool = await Pool.open(settings(spare.postgres_dsn("worker"), pool_size=1))
    try:
        async with pool.lent() as connection:
            await connection.execute(session.statement)
        found = await attest.findings(pool)
    finally:
        await pool.close()
        await admin.execute(session.undone)
    assert session.finding in found


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_can_lose_what_it_acknowledged_stops_readiness(
    admin: Any, watch: IsolationWatch, setting: str
) -> None:
    async def until(said: list[str]) -> None:
        """The server tells its sessions in its own time."""
        while watch.findings != said:
            await watch.check()

    await admin.execute(f"ALTER SYSTEM SET {setting} = off")
    try:
        await admin.execute("SELECT pg_reload_conf()")
        await until([f"S4 {setting}: is off"])
    finally:
        await admin.execute(f"ALTER SYSTEM RESET {setting}")
        await admin.execute("SELECT pg_reload_conf()")
    await until([])


async def test_a_missing_migration_stops_readiness(admin: Any, watch: IsolationWatch) -> None:
    row = await admin.fetchrow("DELETE FROM schema_migrations WHERE name ~ '^0003' RETURNING *")
    await watch.check()
    assert watch.findings == [f"M1 migration {row['name']}: is not applied"]
    await admin.execute("INSERT INTO schema_migrations VALUES ($1, $2, $3)", *row)
    await watch.check()
    assert watch.findings == []


async def test_a_database_that_cannot_be_asked_about_itself_stops_readiness(admin: Any, watch: IsolationWatch) -> None:
    await admin.execute("REVOKE SELECT ON schema_migrations FROM fg_worker")
    await watch.check()
    (finding,) = watch.findings
    assert finding.startswith("A1 database: row-level security cannot be attested")
    await admin.execute("GRANT SELECT ON schema_migrations TO fg_worker")
    await watch.check()
    assert watch.findings == []


async def test_a_server_that_does_not_understand_the_questions_stops_readiness(
    watch: IsolationWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value of the call is refused for ever, and the check must not end the service by that."""
    beyond_it = f"{attest._RULES} UNION ALL SELECT '', '', '' WHERE pg_has_role(current_user, 'NO SUCH PRIVILEGE')"
    with monkeypatch.context() as other:
        other.setattr(attest, "_RULES", beyond_it)
        await watch.check()
        (finding,) = watch.findings
    assert finding.startswith("A1 database: row-level security cannot be attested")
    await watch.check()
    assert watch.findings == []


def test_every_rule_has_its_mutation() -> None:
    rules = {mutation.finding.split()[0] for mutation in MUTATIONS}
    assert rules | {"M1"} == set(RULES)
