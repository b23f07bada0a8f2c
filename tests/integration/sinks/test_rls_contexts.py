"""A transaction names its tenants once, and nothing that happens to it or after it names them again."""

from typing import Any

import asyncpg
import pytest

from sinks.faults import DeniedError
from sinks.pg import Pool
from tests.integration.sinks.tenant_tables import SET_TENANTS, TABLES

_MAY_READ = "SELECT has_table_privilege($1, 'SELECT')"


async def _names_nobody(connection: Any, table: str) -> None:
    """The table, which has rows, is read by nobody now; a role without the right to it is told that instead."""
    if await connection.fetchval(_MAY_READ, table):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
            await connection.fetch(f"SELECT FROM {table}")
    else:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT FROM {table}")


async def test_a_transaction_that_names_nobody_is_refused(worker: Pool) -> None:
    with pytest.raises(DeniedError, match="28000"):
        async with worker.tenant_transaction([]):
            pass


async def test_the_tenant_of_a_transaction_is_named_once(connection: Any, tenant: str, other: str) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
        async with connection.transaction():
            await connection.execute(SET_TENANTS, [tenant])
            await connection.execute(SET_TENANTS, [other])


async def test_a_savepoint_cannot_widen_its_transaction(connection: Any, tenant: str, other: str) -> None:
    async with connection.transaction():
        await connection.execute(SET_TENANTS, [tenant])
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
            async with connection.transaction():
                await connection.execute(SET_TENANTS, [other])
        assert await connection.fetchval("SELECT app.tenants()") == [tenant]


@pytest.mark.parametrize("table", TABLES)
async def test_a_tenant_named_inside_a_savepoint_stays_the_only_one(
    connection: Any, tenant: str, other: str, table: str
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SAVEPOINT inner_one")
    await connection.execute(SET_TENANTS, [other])
    await connection.execute("ROLLBACK TO inner_one")
    await _names_nobody(connection, table)
    await connection.execute("ROLLBACK TO inner_one")
    await connection.execute(SET_TENANTS, [tenant])
    await connection.execute("RELEASE inner_one")
    assert await connection.fetchval("SELECT app.tenants()") == [tenant]
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="ALREADY_SET"):
        await connection.execute(SET_TENANTS, [other])
    await transaction.rollback()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_the_tenant_is_forgotten_with_its_transaction(
    connection: Any, other: str, ending: str, table: str
) -> None:
    await connection.execute("BEGIN")
    await connection.execute(SET_TENANTS, [other])
    await connection.execute(ending)
    assert await connection.fetchval("SELECT current_setting('app.tenants', true)") in {None, ""}
    await _names_nobody(connection, table)


@pytest.mark.parametrize("table", TABLES)
async def test_a_tenant_named_outside_of_a_transaction_is_named_for_nobody(
    connection: Any, other: str, table: str
) -> None:
    await connection.execute(SET_TENANTS, [other])
    await connection.execute("SELECT set_config('app.tenants', $1, true)", other)
    await _names_nobody(connection, table)


@pytest.mark.parametrize("table", TABLES)
async def test_the_tenant_is_forgotten_with_a_cancelled_statement(connection: Any, other: str, table: str) -> None:
    with pytest.raises(asyncpg.QueryCanceledError):
        async with connection.transaction():
            await connection.execute(SET_TENANTS, [other])
            await connection.execute("SET LOCAL statement_timeout = 20")
            await connection.execute("SELECT pg_sleep(60)")
    await _names_nobody(connection, table)


@pytest.mark.parametrize("table", TABLES)
async def test_a_prepared_statement_follows_the_tenant_of_its_transaction(
    connection: Any, tenant: str, other: str, table: str
) -> None:
    query = f"SELECT DISTINCT tenant_id FROM {table}"  # noqa: S608  (TABLES)
    if not await connection.fetchval(_MAY_READ, table):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(query)
        return
    statement = await connection.prepare(query)
    for _ in range(7):  # beyond the fifth the server may keep one plan for all
        for named, seen in ((other, [other]), (tenant, [])):
            async with connection.transaction():
                await connection.execute(SET_TENANTS, [named])
                assert [row[0] for row in await statement.fetch()] == seen
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
            await statement.fetch()


@pytest.mark.parametrize("names", [[], [""], [None], ["a,b"], ["a b"], ["-a"], ["a" * 64], ["é"], ["a\n"]])
async def test_only_tenant_ids_can_be_named(connection: Any, names: list[str | None]) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TENANT_CONTEXT_INVALID"):
        await connection.execute(SET_TENANTS, names)


async def test_only_the_worker_may_name_several_tenants(
    edge: Pool, operator: Pool, worker: Pool, tenant: str, other: str
) -> None:
    for pool in (edge, operator):
        async with pool.lent() as connection:
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TOO_WIDE"):
                async with connection.transaction():
                    await connection.execute(SET_TENANTS, [tenant, other])
                    await connection.fetch("SELECT FROM decisions")
    async with worker.tenant_transaction([tenant, other]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1
