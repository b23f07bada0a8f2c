"""`sinks.migrate` on databases of its own."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer
from schemas.envelope import AcceptedEvent, DecideTask
from sinks import attest
from sinks import migrate as migrating
from sinks.migrate import MigrationError, migrate, packaged
from sinks.pg import Pool
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

NAMES = [migration.name for migration in packaged()]

# Everything a migration could change, the roles' salted passwords left out.
_SCHEMA = """
SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
    SELECT format('%s %s %s', c.oid::regclass, c.relkind, c.relacl) FROM pg_class AS c WHERE c.relnamespace > 16000
    UNION ALL SELECT format('%s %s %s', attrelid::regclass, attname, atttypid::regtype) FROM pg_attribute
        WHERE attrelid > 16000
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE oid > 16000
    UNION ALL SELECT pg_get_functiondef(oid) || proacl::text FROM pg_proc WHERE oid > 16000
    UNION ALL SELECT format('%s %s', polname, polrelid::regclass) FROM pg_policy
    UNION ALL SELECT format('%s %s', nspname, nspacl) FROM pg_namespace
    UNION ALL SELECT format('%s %s', datname, datacl) FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT format('%s %s %s', rolname, rolcanlogin, rolinherit) FROM pg_roles
    UNION ALL SELECT format('%s %s', name, sha256) FROM schema_migrations
) AS everything (line)
"""


@pytest.fixture
async def empty(servers: EmbeddedServers, superuser: Any) -> AsyncIterator[str]:
    """The administrator's DSN of a database without anything in it."""
    name = make.tenant_id()
    await superuser.execute(f'CREATE DATABASE "{name}"')
    yield _in_database(servers.postgres_dsn("admin"), name)
    await superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _in_database(dsn: str, name: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


async def _fetch(dsn: str, query: str, *values: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *values)
    finally:
        await connection.close()


async def test_migrations_called_at_once_are_each_applied_once(servers: EmbeddedServers, empty: str) -> None:
    passwords = servers.role_passwords()
    applied = await asyncio.gather(*(migrate(empty, passwords) for _ in range(3)))
    assert sorted(name for names in applied for name in names) == NAMES
    assert await _fetch(empty, "SELECT count(*) FROM schema_migrations") == len(NAMES)


async def test_a_second_run_applies_nothing_and_changes_nothing(servers: EmbeddedServers, empty: str) -> None:
    await migrate(empty, servers.role_passwords())
    before = await _fetch(empty, _SCHEMA)
    assert await migrate(empty, servers.role_passwords()) == []
    assert await _fetch(empty, _SCHEMA) == before


async def test_an_applied_migration_whose_file_changed_is_refused(empty: str) -> None:
    await migrate(empty, {})
    await _fetch(empty, "UPDATE schema_migrations SET sha256 = $1 WHERE name = $2", make.SHA_A, NAMES[1])
    with pytest.raises(MigrationError, match=f"{NAMES[1]} was changed"):
        await migrate(empty, {})


async def test_a_database_newer_than_the_program_is_refused(empty: str) -> None:
    await migrate(empty, {})
    await _fetch(empty, "INSERT INTO schema_migrations VALUES ('9999_later', $1)", make.SHA_A)
    with pytest.raises(MigrationError, match="newer than this program"):
        await migrate(empty, {})


async def test_a_migration_that_fails_leaves_nothing_behind_and_can_be_run_again(empty: str) -> None:
    await _fetch(empty, "CREATE TABLE public.attempts (obstacle text)")
    with pytest.raises(MigrationError, match=r"0002_events.*42P07"):
        await migrate(empty, {})
    assert await _fetch(empty, "SELECT to_regclass('event_keys')") is None
    await _fetch(empty, "DROP TABLE public.attempts")
    assert await migrate(empty, {}) == NAMES[1:]


class Upgrade:
    """A database at the migration before `name`, and one session beside the migrations to come."""

    def __init__(self, dsn: str, session: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.dsn = dsn
        self.session = session
        self.missing = NAMES[NAMES.index(name) :]
        self._monkeypatch = monkeypatch

    async def before(self) -> None:
        earlier = [migration for migration in packaged() if migration.name not in self.missing]
        with self._monkeypatch.context() as patch:
            patch.setattr(migrating, "packaged", lambda: earlier)
            await migrate(self.dsn, {})

    async def waits_for(self, table: str) -> None:
        """Return once the migration waits for the table."""
        query = "SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted"
        while not await self.session.fetch(query, table):
            continue


@pytest.fixture
async def upgrade(
    empty: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Upgrade]:
    session = await asyncpg.connect(empty)
    upgrade = Upgrade(empty, session, monkeypatch, request.param)
    await upgrade.before()
    yield upgrade
    await session.close()


@pytest.mark.parametrize("upgrade", ["0019_writes_name_a_tenant"], indirect=True)
async def test_a_worker_that_appends_to_a_chain_meanwhile_is_waited_for(upgrade: Upgrade) -> None:
    await upgrade.session.execute("SET deadlock_timeout = '10ms'")  # were there a deadlock, the worker would be told
    async with upgrade.session.transaction():
        await upgrade.session.execute("LOCK TABLE chain_heads IN ROW EXCLUSIVE MODE")
        migration = asyncio.ensure_future(migrate(upgrade.dsn, {}))
        await upgrade.waits_for("chain_heads")
        await upgrade.session.execute("LOCK TABLE chain_entries IN ROW EXCLUSIVE MODE")
    assert await migration == upgrade.missing


@pytest.mark.parametrize("upgrade", ["0019_writes_name_a_tenant"], indirect=True)
async def test_a_step_that_waits_for_a_worker_in_a_circle_is_tried_again(upgrade: Upgrade) -> None:
    await upgrade.session.execute("SET deadlock_timeout = '1h'")  # so the migration is the one that is told
    async with upgrade.session.transaction():
        await upgrade.session.execute("LOCK TABLE usage_meters IN ROW EXCLUSIVE MODE")
        migration = asyncio.ensure_future(migrate(upgrade.dsn, {}))
        await upgrade.waits_for("usage_meters")
        await upgrade.session.execute("LOCK TABLE attempts IN ROW EXCLUSIVE MODE")
    assert await migration == upgrade.missing


async def test_a_step_is_tried_a_bounded_number_of_times_and_for_want_of_a_lock_alone(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def failing(sqlstate: str) -> migrating.Migration:
        raise_it = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$"
        return migrating.Migration(sqlstate, make.SHA_A, raise_it)

    async def apply(connection: Any, migration: Any) -> bool:
        tried.append(migration.name)
        return await applying(connection, migration)

    applying = migrating._apply
    monkeypatch.setattr(migrating, "_apply", apply)
    for sqlstate, times in {"55P03": migrating.TRIES_MAX, "40P01": migrating.TRIES_MAX, "22012": 1}.items():
        tried.clear()
        monkeypatch.setattr(migrating, "packaged", lambda sqlstate=sqlstate: [failing(sqlstate)])
        with pytest.raises(MigrationError, match=sqlstate):
            await migrate(empty, {})
        assert len(tried) == times


_OLD_LETTER = """
INSERT INTO ingest_dlq
    (tenant_id, event_id, reason_code, trace_id, stage, stream, seq, payload_json, first_seen_at, last_seen_at)
VALUES ('acme', $1, 'store_refused', '', 'dedupe', $2, $3, $4::text::jsonb, now(), now())
"""


@pytest.mark.parametrize("upgrade", ["0021_one_outcome"], indirect=True)
async def test_what_was_dead_before_says_which_acceptance_it_speaks_of(
    servers: EmbeddedServers, upgrade: Upgrade
) -> None:
    def accepted(event: str) -> AcceptedEvent:
        return AcceptedEvent("acme", event, "", "", "a", make.INGEST_TS, "", make.SHA_A, msgspec.Raw(b"{}"))

    def task(event: str, **changed: Any) -> dict[str, Any]:
        plain = msgspec.json.encode(DecideTask("FG_INGEST_1", 7, accepted(event)))
        return {**msgspec.json.decode(plain), **changed}

    unreadable = {"message_base64": base64.b64encode(b"\xff").decode()}
    rows = [
        ("dedupe", "FG_INGEST_0", 5, accepted("dedupe"), ("FG_INGEST_0", 5)),
        ("decision", "FG_DECIDE", 900, task("decision"), ("FG_INGEST_1", 7)),
        ("FG_INGEST_0:6", "FG_INGEST_0", 6, unreadable, (None, None)),
        ("FG_DECIDE:901", "FG_DECIDE", 901, unreadable, (None, None)),
        ("huge", "FG_DECIDE", 902, task("huge", seq=10**30), (None, None)),
        ("half", "FG_DECIDE", 903, task("half", seq=0.5), (None, None)),
        ("elsewhere", "FG_DECIDE", 904, task("elsewhere", stream="FG_EVENTS"), (None, None)),
    ]
    for event, stream, seq, payload, _ in rows:
        await upgrade.session.execute(_OLD_LETTER, event, stream, seq, msgspec.json.encode(payload).decode())
    assert await migrate(upgrade.dsn, servers.role_passwords()) == upgrade.missing
    found = await upgrade.session.fetch("SELECT event_id, accepted_stream, accepted_seq FROM ingest_dlq")
    assert {row[0]: tuple(row)[1:] for row in found} == {event: acceptance for event, *_, acceptance in rows}
    pool = await Pool.open(settings(_in_database(servers.postgres_dsn("worker"), urlsplit(upgrade.dsn).path[1:])))
    assert await attest.findings(pool) == []
    await pool.close()


async def test_a_role_logs_in_with_the_password_it_was_given_and_no_other(servers: EmbeddedServers) -> None:
    dsn = servers.postgres_dsn("edge")
    assert await _fetch(dsn, "SELECT current_user") == "fg_edge"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _fetch(dsn.replace(servers.role_passwords()["fg_edge"], "another"), "SELECT 1")


@pytest.mark.parametrize("passwords", [{"postgres": "x"}, {"fg_edge": ""}, {"fg_edge": "pass\tword"}, {"fg_edge": "é"}])
async def test_a_role_or_password_that_cannot_be_is_refused_before_anything_is_done(
    empty: str, passwords: dict[str, str]
) -> None:
    with pytest.raises(ValueError):
        await migrate(empty, passwords)
    assert await _fetch(empty, "SELECT to_regclass('schema_migrations')") is None


async def test_a_server_that_is_away_is_no_answer(empty: str) -> None:
    with pytest.raises(NoAnswer):
        await migrate(urlsplit(empty)._replace(netloc="a:b@127.0.0.1:1").geturl(), {})


async def test_an_administrator_without_superuser_can_migrate(virgin: EmbeddedServers) -> None:
    dsn = virgin.postgres_dsn("admin")
    await _fetch(dsn, "CREATE ROLE dba LOGIN CREATEROLE PASSWORD 'dba'")
    await _fetch(dsn, "CREATE DATABASE theirs OWNER dba")
    port = urlsplit(dsn).port
    theirs = f"postgresql://dba:dba@127.0.0.1:{port}/theirs"
    assert await migrate(theirs, virgin.role_passwords()) == NAMES
    assert await migrate(theirs, virgin.role_passwords()) == []
    pool = await Pool.open(settings(_in_database(virgin.postgres_dsn("worker"), "theirs")))
    assert await attest.findings(pool) == []
    await pool.close()
