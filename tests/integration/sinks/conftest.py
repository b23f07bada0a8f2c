"""Pools of each role on the session's real Postgres, and a Postgres of its own for tests that stop or break one."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from tests.integration.sinks import make
from tests.integration.sinks.kept import Place
from tests.integration.sinks.tenant_tables import REST, ROLES

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
    for statement in REST.strip().splitlines():
        await all_seeing.execute(statement, tenant)
    return tenant


@pytest.fixture(scope="module", params=ROLES)
async def connection(request: pytest.FixtureRequest, servers: EmbeddedServers) -> AsyncIterator[Any]:
    """A session of each role, that follows none of the program's rules."""
    login = await asyncpg.connect(servers.postgres_dsn(request.param))
    yield login
    await login.close()


@pytest.fixture(scope="module")
async def template(servers: EmbeddedServers) -> AsyncIterator[str]:
    """The name of a migrated database without a row, to be copied."""
    name = make.tenant_id()
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    await connection.execute(f'CREATE DATABASE "{name}"')
    await migrate(urlsplit(servers.postgres_dsn("admin"))._replace(path=f"/{name}").geturl(), servers.role_passwords())
    yield name
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def place(servers: EmbeddedServers, superuser: Any, template: str) -> AsyncIterator[Place]:
    name = make.tenant_id()
    await superuser.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    await superuser.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
    await superuser.execute(f'GRANT CONNECT ON DATABASE "{name}" TO fg_admin, fg_worker')
    dsn = {
        role: urlsplit(servers.postgres_dsn(role))._replace(path=f"/{name}").geturl()
        for role in ("admin", "operator", "worker")
    }
    operator, worker = await Pool.open(settings(dsn["operator"])), await Pool.open(settings(dsn["worker"]))
    eyes = await asyncpg.connect(dsn["admin"])
    yield Place(dsn, operator, worker, eyes)
    await asyncio.gather(operator.close(), worker.close(), eyes.close())
    await superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


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
