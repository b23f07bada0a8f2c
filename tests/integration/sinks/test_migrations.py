"""`sinks.migrate` on databases of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer
from sinks import attest
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
