"""Pools of each role on the session's real Postgres, and a Postgres of its own for tests that stop or break one."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from tests.integration.sinks import make

_PATIENT = {"acquire_timeout_ms": 60_000, "statement_timeout_ms": 60_000, "lock_timeout_ms": 60_000}


def settings(dsn: str, **more: int) -> PostgresSettings:
    """A pool's settings with time enough for a busy machine."""
    return PostgresSettings(dsn=dsn, **{"pool_size": 4, "statement_cache_size": 100, **_PATIENT, **more})


@pytest.fixture
def tenant() -> str:
    return make.tenant_id()


@pytest.fixture
async def worker(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    pool = await Pool.open(settings(servers.postgres_dsn("worker")))
    yield pool
    await pool.close()


@pytest.fixture
async def edge(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    pool = await Pool.open(settings(servers.postgres_dsn("edge")))
    yield pool
    await pool.close()


@pytest.fixture
async def operator(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    pool = await Pool.open(settings(servers.postgres_dsn("operator")))
    yield pool
    await pool.close()


@pytest.fixture
async def superuser(servers: EmbeddedServers) -> AsyncIterator[Any]:
    """A connection that row-level security does not bind: it sees what is really there."""
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    yield connection
    await connection.close()


@asynccontextmanager
async def _postgres(directory: Path) -> AsyncIterator[EmbeddedServers]:
    with await DataDirectory.open(directory) as opened:
        embedded = EmbeddedServers(opened)
        try:
            await embedded.start_one("postgres")
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(opened.outside, ignore_errors=True)


@pytest.fixture(scope="module")
async def virgin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """A Postgres nobody else uses, in which nothing was ever made."""
    async with _postgres(tmp_path_factory.mktemp("virgin") / "data") as embedded:
        yield embedded


@pytest.fixture(scope="module")
async def spare(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """A Postgres nobody else uses, migrated. A test that stops it starts it again."""
    async with _postgres(tmp_path_factory.mktemp("spare") / "data") as embedded:
        await migrate(embedded.postgres_dsn("admin"), embedded.role_passwords())
        yield embedded
