"""The pool outlives the server: no answer while it is away, work again when it is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer, NotNow, Refusal
from schemas.codes import Code
from sinks.event_keys import EventKeys
from sinks.faults import UnexpectedAnswerError
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.contract.proxy import Proxy
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

PATIENCE_MS = 60_000
PATIENCE_S = PATIENCE_MS / 1000
"""Far beyond any deadline of the pools here; a call that hangs fails its test."""
_QUICK = {"acquire_timeout_ms": 500, "statement_timeout_ms": 500, "lock_timeout_ms": 300}


@pytest.fixture
async def proxy(servers: EmbeddedServers) -> AsyncIterator[Proxy]:
    opened = await Proxy.open(urlsplit(servers.postgres_dsn("worker")).port or 0)
    yield opened
    await opened.close()


@asynccontextmanager
async def _distant(servers: EmbeddedServers, proxy: Proxy, **timeouts: int) -> AsyncIterator[Pool]:
    """A pool on the far side of the proxy."""
    dsn = urlsplit(servers.postgres_dsn("worker"))
    netloc = f"{dsn.username}:{dsn.password}@127.0.0.1:{proxy.port}"
    pool = await Pool.open(settings(dsn._replace(netloc=netloc).geturl(), **timeouts))
    yield pool
    proxy.restore()
    await pool.close()


@pytest.fixture
async def distant(servers: EmbeddedServers, proxy: Proxy) -> AsyncIterator[Pool]:
    async with _distant(servers, proxy, **_QUICK) as pool:
        yield pool


@pytest.fixture
async def patient(servers: EmbeddedServers, proxy: Proxy) -> AsyncIterator[Pool]:
    """For tests in which the server answers: however busy the machine, no deadline of the pool passes."""
    async with _distant(servers, proxy, acquire_timeout_ms=PATIENCE_MS, statement_timeout_ms=PATIENCE_MS) as pool:
        yield pool


async def _answers(pool: Pool) -> None:
    """Return when the pool reaches its server: one try is short, and the machine may be busy."""
    async with asyncio.timeout(PATIENCE_S):
        while not await pool.ping():
            pass


async def _expect_no_answer(pool: Pool, tenant: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert not await pool.ping()
        with pytest.raises(NoAnswer) as failure:
            await EventKeys(pool).claim([make.claim(tenant, "e1", 1)])
    assert failure.value.code is Code.STORE_UNAVAILABLE
    assert failure.value.__cause__ is None


async def test_a_stopped_server_is_no_answer_and_its_return_is_noticed(spare: EmbeddedServers, tenant: str) -> None:
    pool = await Pool.open(settings(spare.postgres_dsn("worker"), **_QUICK))
    await _answers(pool)
    await spare.stop_one("postgres")
    await _expect_no_answer(pool, tenant)
    await spare.start_one("postgres")
    await _answers(pool)
    await DecisionLedger(pool).record([make.record(tenant, "e1")])
    await pool.close()


async def test_a_pool_opens_while_the_server_is_away(spare: EmbeddedServers, tenant: str) -> None:
    dsn = spare.postgres_dsn("worker")
    await spare.stop_one("postgres")
    pool = await Pool.open(settings(dsn, **_QUICK))
    await _expect_no_answer(pool, tenant)
    await spare.start_one("postgres")
    await _answers(pool)
    await pool.close()


async def test_a_silent_server_is_no_answer(proxy: Proxy, distant: Pool, tenant: str) -> None:
    await _answers(distant)
    proxy.hold()
    await _expect_no_answer(distant, tenant)
    proxy.restore()
    await _answers(distant)


async def test_a_connection_cut_inside_a_transaction_is_no_answer_and_leaves_nothing(
    proxy: Proxy, distant: Pool, edge: Pool, tenant: str
) -> None:
    with pytest.raises(NoAnswer):
        async with distant.tenant_transaction([tenant]) as connection:
            await connection.execute("INSERT INTO attempts VALUES ($1, 'e1', 's', 1, now(), now())", tenant)
            proxy.cut()
            await connection.execute("SELECT 1")
    proxy.restore()
    async with edge.tenant_transaction([tenant]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM attempts") == 0
    await _answers(distant)


async def test_a_server_that_ends_our_connections_is_only_away_for_that_call(
    superuser: asyncio.Future[None], patient: Pool
) -> None:
    assert await patient.ping()
    async with patient.lent() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    await superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)  # type: ignore[attr-defined]
    assert await patient.ping()


async def test_a_pool_whose_connections_are_all_taken_does_not_answer(servers: EmbeddedServers, proxy: Proxy) -> None:
    async with _distant(servers, proxy, acquire_timeout_ms=3_000) as pool:
        async with pool.lent(), pool.lent(), pool.lent(), pool.lent():
            async with asyncio.timeout(PATIENCE_S):
                assert not await pool.ping()
        await _answers(pool)


@pytest.mark.parametrize("waiting_for", ["SELECT pg_sleep(60)", "SELECT pg_advisory_xact_lock(1, 1)"])
async def test_a_statement_or_lock_that_takes_too_long_is_no_answer(
    distant: Pool, worker: Pool, tenant: str, waiting_for: str
) -> None:
    async with worker.tenant_transaction([tenant]) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(1, 1)")
        with pytest.raises(NoAnswer):
            async with asyncio.timeout(PATIENCE_S), distant.tenant_transaction([tenant]) as connection:
                await connection.execute(waiting_for)
    await _answers(distant)


async def test_a_cancelled_call_leaves_the_pool_whole(patient: Pool, tenant: str) -> None:
    for _ in range(6):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), patient.tenant_transaction([tenant]) as connection:
                await connection.execute("SELECT pg_sleep(60)")
    async with patient.lent(), patient.lent(), patient.lent(), patient.lent() as connection:
        assert await connection.fetchval("SELECT current_setting('app.tenants', true)") in {None, ""}


async def test_an_aborted_transaction_cannot_pass_for_a_committed_one(patient: Pool, tenant: str) -> None:
    with pytest.raises(UnexpectedAnswerError):
        async with patient.tenant_transaction([tenant]) as connection:
            with pytest.raises(Exception, match="division"):
                await connection.execute("SELECT 1/0")


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("SELECT 1/0", Refusal),
        ("SELECT 'x'::integer", Refusal),
        ("INSERT INTO attempts VALUES ('{}', 'e', 's', 0, now(), now())", Refusal),
        ("SELECT nothing", NotNow),
        ("SELECT nothing()", NotNow),
        ("SELECT * FROM nothing", NotNow),
        ("TRUNCATE decisions", NotNow),
        ("INSERT INTO attempts (tenant_id) VALUES ('{}')", UnexpectedAnswerError),
    ],
)
async def test_what_the_server_says_is_translated_and_not_quoted(
    worker: Pool, tenant: str, statement: str, answer: type[Exception]
) -> None:
    with pytest.raises(answer) as raised:
        async with worker.tenant_transaction([tenant]) as connection:
            await connection.execute(statement.replace("{}", tenant))
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    assert tenant not in str(raised.value)


@pytest.mark.parametrize(
    ("statement", "blameless"), [("SELECT pg_sleep(9)", False), ("INSERT INTO event_keys DEFAULT VALUES", True)]
)
async def test_a_lock_that_is_held_is_nobodys_fault_and_a_statement_that_takes_too_long_may_be_its_own(
    servers: EmbeddedServers, tenant: str, statement: str, blameless: bool
) -> None:
    operator = await Pool.open(settings(servers.postgres_dsn("admin")))
    pool = await Pool.open(settings(servers.postgres_dsn("worker"), **_QUICK))
    async with operator.connection() as holder, holder.transaction():
        await holder.execute("LOCK TABLE event_keys IN SHARE MODE")
        with pytest.raises(NoAnswer) as failure:
            async with pool.tenant_transaction([tenant]) as connection:
                await connection.execute(statement)
    assert isinstance(failure.value, NotNow) is blameless
    await pool.close()
    await operator.close()


@pytest.mark.parametrize("statement_cache_size", [0, 100])
async def test_calls_do_the_same_with_and_without_prepared_statements(
    servers: EmbeddedServers, tenant: str, statement_cache_size: int
) -> None:
    pool = await Pool.open(settings(servers.postgres_dsn("worker"), statement_cache_size=statement_cache_size))
    for _ in range(2):
        await EventKeys(pool).claim([make.claim(tenant, "e1", 1)])
        await DecisionLedger(pool).record([make.record(tenant, "e1")])
    async with pool.tenant_transaction([tenant]) as connection:
        assert await connection.fetchval("SELECT count(*) FROM decisions") == 1
    await pool.close()
