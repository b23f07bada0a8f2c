"""What an edge's pools promise: a refusal is no answer, and Postgres itself ends what nobody waits for any more."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer
from schemas.codes import Code
from sinks import attest
from sinks.faults import UnexpectedAnswerError
from sinks.serving import EdgePools, ServingPool
from tests.integration.sinks.conftest import settings

PATIENCE_S = 60.0
_WAITING = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"


@pytest.fixture
async def pools(servers: EmbeddedServers) -> AsyncIterator[EdgePools]:
    opened = await EdgePools.open(settings(servers.postgres_dsn("edge")))
    yield opened
    await opened.close()


async def test_a_refusal_is_no_answer_and_a_finding_and_logged_once(
    pools: EdgePools, caplog: pytest.LogCaptureFixture
) -> None:
    assert pools.findings == []
    for _ in range(3):
        with caplog.at_level(logging.ERROR), pytest.raises(NoAnswer) as failure:
            async with pools.reads.connection() as connection:
                await connection.fetchval("SELECT nothing FROM secrets_of_a_tenant")
        assert failure.value.code is Code.STORE_UNAVAILABLE
    assert pools.findings == ["the database refuses this edge: UndefinedTableError (SQLSTATE 42P01)"]
    assert [record.getMessage() for record in caplog.records if record.name == "sinks"] == [
        "the database refuses what requests read: UndefinedTableError (SQLSTATE 42P01)"
    ]
    assert "secrets_of_a_tenant" not in caplog.text


async def test_a_value_the_database_cannot_take_is_no_answer_and_no_finding(pools: EdgePools) -> None:
    with pytest.raises(NoAnswer):
        async with pools.reads.connection() as connection:
            await connection.fetchval("SELECT 1/0")
    assert pools.findings == []


async def test_the_standing_checks_are_told_what_the_database_refuses(pools: EdgePools) -> None:
    with pytest.raises(UnexpectedAnswerError):
        async with pools.checks.connection() as connection:
            await connection.fetchval("SELECT nothing")


async def test_an_edge_attests_within_its_own_deadlines(pools: EdgePools) -> None:
    assert await attest.findings(pools.checks) == []


@pytest.mark.parametrize("waiting_for", ["SELECT pg_sleep(60)", "SELECT pg_advisory_xact_lock(2, 2)"])
async def test_postgres_itself_ends_what_takes_an_edge_too_long(
    servers: EmbeddedServers, superuser: Any, waiting_for: str
) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn("edge"))
    async with superuser.transaction(), asyncio.timeout(PATIENCE_S):
        await superuser.execute("SELECT pg_advisory_xact_lock(2, 2)")
        with pytest.raises((asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError)):
            await connection.execute(waiting_for)
    await connection.close()


async def test_a_backend_whose_edge_has_gone_does_not_wait_on(servers: EmbeddedServers, superuser: Any) -> None:
    """The role's other deadlines are lifted here, so that it is the lost connection that ends it."""
    connection = await asyncpg.connect(servers.postgres_dsn("edge"))
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    async with superuser.transaction(), asyncio.timeout(PATIENCE_S):
        await superuser.execute("SELECT pg_advisory_xact_lock(3, 3)")
        waiting = asyncio.create_task(connection.execute("SELECT pg_advisory_xact_lock(3, 3)"))
        while not await superuser.fetchval(_WAITING, pid):
            continue
        connection.terminate()
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await waiting
        while await superuser.fetchval(_WAITING, pid):
            continue


@pytest.mark.parametrize("role", ["worker", "operator"])
async def test_other_roles_have_no_deadline_of_the_server(servers: EmbeddedServers, role: str) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn(role))
    for name in ("statement_timeout", "lock_timeout", "client_connection_check_interval"):
        assert await connection.fetchval("SELECT current_setting($1)", name) == "0"
    await connection.close()


@pytest.mark.parametrize("pool_size", [1, 5, 7, 8, 20])
async def test_an_edge_keeps_as_many_connections_as_it_is_told_and_five_at_least(
    servers: EmbeddedServers, pool_size: int
) -> None:
    opened = await EdgePools.open(settings(servers.postgres_dsn("edge"), pool_size=pool_size))
    shares = (opened.lookups, opened.limits, opened.credentials, opened.reads, opened.checks)
    assert sum(pool.size for pool in shares) == max(5, pool_size)
    assert min(pool.size for pool in shares) == 1
    assert all(isinstance(pool, ServingPool) for pool in shares[:-1])
    await opened.close()
