"""An empty table asks no policy: a write without a tenant is refused there all the same, and the owner is bound too."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from sinks.migrate import migrate
from tests.integration.sinks import make
from tests.integration.sinks.tenant_tables import ROLES, SET_TENANTS, TABLES, changeable_column

WRITES = {
    "INSERT": "INSERT INTO {table} SELECT * FROM {table} WHERE false",
    "UPDATE": "UPDATE {table} SET {column} = {column}",
    "DELETE": "DELETE FROM {table}",
    "MERGE": "MERGE INTO {table} AS t USING (VALUES (1)) AS v (n) ON false WHEN MATCHED THEN DELETE",
}
TABLES_AND_A_PARTITION = (*TABLES, "ingest_events_20200102")
MISSING = "28000"


@pytest.fixture(scope="module")
async def empty(servers: EmbeddedServers) -> AsyncIterator[dict[str, Any]]:
    """Connections of each role, and of the superuser, to a migrated database without a row."""
    name = make.tenant_id()
    dsn = {role: urlsplit(servers.postgres_dsn(role))._replace(path=f"/{name}").geturl() for role in ("admin", *ROLES)}
    maker = await asyncpg.connect(servers.postgres_dsn("admin"))
    await maker.execute(f'CREATE DATABASE "{name}"')
    await migrate(dsn["admin"], servers.role_passwords())
    connections = {role: await asyncpg.connect(dsn[role]) for role in dsn}
    await connections["admin"].execute("SELECT app.ensure_ingest_partition('2020-01-02')")
    yield connections
    for connection in connections.values():
        await connection.close()
    await maker.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await maker.close()


async def _answers(connection: Any, statement: str, *before: str) -> str:
    """The SQLSTATE the statement ends with, or how many rows it wrote, in a transaction that is taken back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for each in before:
            await connection.execute(each)
        tag: str = await connection.execute(statement)
    except asyncpg.PostgresError as refused:
        return str(refused.sqlstate)
    else:
        return tag.rpartition(" ")[2]
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("table", TABLES_AND_A_PARTITION)
@pytest.mark.parametrize("role", ROLES)
async def test_no_role_writes_to_an_empty_table_without_a_tenant(empty: dict[str, Any], role: str, table: str) -> None:
    column = await changeable_column(empty[role], table)
    for verb, statement in WRITES.items():
        answer = await _answers(empty[role], statement.format(table=table, column=column))
        assert answer in {MISSING, "42501"}, verb


@pytest.mark.parametrize("table", TABLES_AND_A_PARTITION)
async def test_not_even_the_owner_writes_to_an_empty_table_without_a_tenant(empty: dict[str, Any], table: str) -> None:
    """The owner has every right, so it is the missing tenant that stands in its way."""
    grows = "SELECT FROM pg_trigger WHERE tgrelid = $1::regclass AND tgname IN ('append_only', 'never_less')"
    refused = {MISSING, "42501"} if await empty["admin"].fetch(grows, table) else {MISSING}
    for verb, statement in WRITES.items():
        written = statement.format(table=table, column="tenant_id")
        expected = {MISSING} if verb == "INSERT" else refused
        assert await _answers(empty["admin"], written, "SET LOCAL ROLE fg_owner") in expected, verb


async def test_with_a_tenant_a_write_to_an_empty_table_finds_no_row(empty: dict[str, Any]) -> None:
    named = SET_TENANTS.replace("$1", "'{somebody}'")
    for statement in ("DELETE FROM attempts", "UPDATE attempts SET attempt = 1"):
        assert await _answers(empty["worker"], statement, named) == "0"


async def test_the_administrator_of_the_server_writes_without_a_tenant(empty: dict[str, Any]) -> None:
    """What no policy binds is not asked for one: restoring a backup needs no tenant."""
    assert await _answers(empty["admin"], "DELETE FROM attempts") == "0"


async def test_the_owner_is_bound_by_force_alone(empty: dict[str, Any]) -> None:
    """The trap is really there: without FORCE the owner of a table reads past its policies."""
    insert = "INSERT INTO attempts VALUES ('somebody', 'e1', 'decision', 1, now(), now())"
    owner, unforced = "SET LOCAL ROLE fg_owner", "ALTER TABLE attempts NO FORCE ROW LEVEL SECURITY"
    for named in ("SELECT", SET_TENANTS.replace("$1", "'{nobody}'")):
        assert await _answers(empty["admin"], "SELECT FROM attempts", insert, owner, named) == "0"
        assert await _answers(empty["admin"], "SELECT FROM attempts", insert, owner, named, unforced) == "1"
