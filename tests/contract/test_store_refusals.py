"""A database that answers with a refusal, or is held up by one kind of question: never a 500, never for everybody."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from schemas.principal import Scope
from schemas.units import UnixMs, format_rfc3339
from sinks.api_keys import ApiKeys
from sinks.migrate import migrate
from sinks.tenants import Tenants
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import Edge, ShiftedClock, opened
from tests.contract.wire import Answer, Client

AHEAD_MS = 60_000
"""So far ahead of the broker's start that the broker must know every id published since."""
LONG_AGO = format_rfc3339(UnixMs(SystemClock().now_ms() - 3_600_000))
"""Made so long ago that only Postgres can tell whether it is new."""
_numbers = itertools.count(1)

_END_BACKENDS = """
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE usename = 'fg_edge' AND datname = current_database()
"""
_WAITING = """
SELECT count(*) FROM pg_locks WHERE NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Database:
    """A database of its own on the session's server, and the connection of its administrator."""

    def __init__(self, servers: EmbeddedServers, name: str, admin: Any) -> None:
        self._servers = servers
        self._name = name
        self.admin = admin

    def dsn(self, role: str) -> str:
        return urlsplit(self._servers.postgres_dsn(role))._replace(path=f"/{self._name}").geturl()

    async def sender(self, edge: Edge) -> Sender:
        """A new tenant with a key of all scopes."""
        tenant_id = f"refused-{next(_numbers)}"
        async with opened(self.dsn("operator")) as pool:
            await Tenants(pool).add(tenant_id, "pro")
            issued = await ApiKeys(pool).issue(tenant_id, None, list(Scope))
        return Sender(tenant_id, issued.secret, Client(edge.port, issued.secret))

    async def refuse(self) -> None:
        """On return the edge's role has no connection and gets none."""
        await self.admin.execute(f'REVOKE CONNECT ON DATABASE "{self._name}" FROM fg_edge')
        await self.admin.fetchval(_END_BACKENDS)

    async def accept(self) -> None:
        await self.admin.execute(f'GRANT CONNECT ON DATABASE "{self._name}" TO fg_edge')


@pytest.fixture
async def database(servers: EmbeddedServers) -> AsyncIterator[Database]:
    name = f"refusing_{next(_numbers)}"
    outside = await asyncpg.connect(servers.postgres_dsn("admin"))
    await outside.execute(f'CREATE DATABASE "{name}"')
    dsn = urlsplit(servers.postgres_dsn("admin"))._replace(path=f"/{name}").geturl()
    await migrate(dsn, {})
    admin = await asyncpg.connect(dsn)
    yield Database(servers, name, admin)
    await admin.close()
    await outside.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await outside.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            continue


async def readiness(edge: Edge) -> Answer:
    return await Client(edge.port, "").ask("GET", "/readyz")


async def test_a_database_that_refuses_the_edges_login_is_as_good_as_away(
    run_edge: RunEdge, database: Database
) -> None:
    clock = ShiftedClock(AHEAD_MS)
    async with run_edge(postgres_dsn=database.dsn("edge"), clock=clock) as edge:
        here, stranger = await database.sender(edge), await database.sender(edge)
        assert (await here.client.ingest(here.body())).status == 202
        await database.refuse()
        old = here.body(event_id="old", created_at=LONG_AGO)
        for answer in (
            await here.client.ingest(old),
            await here.client.ask("GET", "/v1/events/evt-1"),
            await stranger.client.ingest(stranger.body()),
        ):
            assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")
        (line,) = (await here.client.batch(old)).lines
        assert (line["status"], line["error_code"]) == (503, "STORE_UNAVAILABLE")
        young = here.body(event_id="young", created_at=format_rfc3339(clock.now_ms()))
        assert (await here.client.ingest(young)).status == 202, "the key was verified lately, the broker knows the rest"
        unready = await readiness(edge)
        assert unready.status == 503
        assert (
            "the database refuses this edge: InsufficientPrivilegeError (SQLSTATE 42501)" in unready.document["reasons"]
        )
        await database.accept()

        async def accepted() -> bool:
            return bool((await here.client.ingest(old)).status == 202)

        await until(accepted)


async def test_a_database_without_a_function_of_the_edge_is_as_good_as_away(
    run_edge: RunEdge, database: Database
) -> None:
    async with run_edge(postgres_dsn=database.dsn("edge")) as edge:
        here = await database.sender(edge)
        await database.admin.execute("DROP FUNCTION app.stored_keys(text[], text[])")
        answer = await here.client.ingest(here.body(created_at=LONG_AGO))
        assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")


@pytest.mark.parametrize(("table", "path"), [("evidence_outbox", "/v1/events/evt-1"), ("api_keys", "/v1/limits")])
async def test_questions_that_hang_take_no_connection_from_ingest(
    run_edge: RunEdge, database: Database, table: str, path: str
) -> None:
    """More of them than the edge has connections, each by another tenant."""
    async with run_edge(postgres_dsn=database.dsn("edge")) as edge:
        here = await database.sender(edge)
        others = [await database.sender(edge) for _ in range(9)]
        if table != "api_keys":
            for other in others:
                assert (await other.client.ask("GET", "/v1/limits")).status == 200
        assert (await here.client.ingest(here.body())).status == 202
        over = asyncio.Event()
        async with database.admin.transaction(), asyncio.TaskGroup() as tasks:
            await database.admin.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            hanging = [tasks.create_task(_ask_until(over, other.client, path)) for other in others]

            async def waits() -> bool:
                return bool(await database.admin.fetchval(_WAITING))

            await until(waits)
            for number in range(20):
                old = here.body(event_id=f"old-{number}", created_at=LONG_AGO)
                assert (await here.client.ingest(old)).status == 202
            over.set()
        assert set(itertools.chain(*(one.result() for one in hanging))) == {(503, "STORE_UNAVAILABLE")}


async def _ask_until(over: asyncio.Event, client: Client, path: str) -> set[tuple[int, str]]:
    """What the answers were."""
    answers = set()
    while not over.is_set():
        answer = await client.ask("GET", path)
        answers.add((answer.status, answer.code))
    return answers
