"""The way to Postgres: a pool that outlives the server, and transactions that name their tenants.

Safe behind PgBouncer's transaction pooling. Everything a transaction needs is set inside of it with
`set_config(.., true)`: a session's SET or a startup parameter would reach other clients or be
refused. Without a statement cache every call is a transaction, because the driver then prepares and
executes in two messages that the pooler could hand to two servers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import asyncpg

from schemas.answers import NoAnswer
from sinks.faults import DeniedError, UnexpectedAnswerError, translated
from sinks.settings import PostgresSettings

Connection = Any
"""An asyncpg connection; the driver publishes no types."""

CLOSE_TIMEOUT_S = 5.0
GRACE_MS = 1_000
"""How much longer than the server's own statement timeout a call waits before it gives the server up."""
IDLE_IN_TRANSACTION_MS_MAX = "30000"
"""After this the server ends the transaction of a process that has stopped, and with it the locks it holds."""

# Plans are made for each call: one kept from when a table was small would read it whole for ever.
_ENTER = """
SELECT app.set_tenants($1::text[]),
    set_config('statement_timeout', $2, true),
    set_config('lock_timeout', $3, true),
    set_config('idle_in_transaction_session_timeout', $4, true),
    set_config('plan_cache_mode', 'force_custom_plan', true)
"""


async def _leave_as_it_is(_connection: Connection) -> None:
    """No session state is ever set, so nothing has to be reset, and each release saves a round trip."""


def uncounted() -> None:
    """For programs that end by themselves and have nobody to tell how many statements they were denied."""


def untimed(table: str, operation: str, elapsed_ms: float) -> None:
    """For programs that end by themselves and have nobody to tell how long a write took."""
    del table, operation, elapsed_ms


Wrote = Callable[[str, str, float], None]


class Pool:
    """Connections of one role. Its context managers raise what `sinks.faults.translated` says.

    `denied` is called for each statement the server refused for want of a tenant or a right, `wrote`
    with the table, the operation and the milliseconds of each write.
    """

    def __init__(self, pool: Any, settings: PostgresSettings, denied: Callable[[], None], wrote: Wrote) -> None:
        self._pool = pool
        self._denied = denied
        self._wrote = wrote
        self.size = settings.pool_size
        self._acquire_timeout_s = settings.acquire_timeout_ms / 1000
        self._limits = (str(settings.statement_timeout_ms), str(settings.lock_timeout_ms), IDLE_IN_TRANSACTION_MS_MAX)
        self._prepares_by_name = settings.statement_cache_size > 0

    @classmethod
    async def open(
        cls, settings: PostgresSettings, denied: Callable[[], None] = uncounted, wrote: Wrote = untimed
    ) -> Self:
        """A pool that connects on first use, so it opens, and later recovers, whatever the server does."""
        pool = await asyncpg.create_pool(
            settings.dsn,
            min_size=0,
            max_size=settings.pool_size,
            timeout=settings.acquire_timeout_ms / 1000,
            command_timeout=(settings.statement_timeout_ms + GRACE_MS) / 1000,
            statement_cache_size=settings.statement_cache_size,
            server_settings={"application_name": "frostgate"},
            reset=_leave_as_it_is,
        )
        return cls(pool, settings, denied, wrote)

    async def close(self) -> None:
        """On return no connection is open; calls still running after the grace period have lost theirs."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pool.close(), CLOSE_TIMEOUT_S)

    async def ping(self) -> bool:
        """Whether the database answers."""
        try:
            async with self.connection() as connection:
                return bool(await connection.fetchval("SELECT true"))
        except NoAnswer:
            return False

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Connection]:
        """A bare connection, which the caller leaves outside of any transaction."""
        with self._counted(), translated():
            connection = await self._pool.acquire(timeout=self._acquire_timeout_s)
            try:
                yield connection
            except (OSError, asyncio.CancelledError):
                # No answer has come, and one that comes late must not meet the next caller.
                connection.terminate()
                raise
            finally:
                await self._pool.release(connection, timeout=self._acquire_timeout_s)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except DeniedError:
            self._denied()
            raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """For the tables without a tenant context: each statement stands for itself."""
        async with self.lent() as connection:
            if self._prepares_by_name:
                yield connection
            else:
                async with _committed(connection):
                    yield connection

    @asynccontextmanager
    async def tenant_transaction(self, tenant_ids: Sequence[str]) -> AsyncIterator[Connection]:
        """A transaction that sees and writes the rows of these tenants alone.

        On leaving the block without an exception the commit has been acknowledged. NoAnswer can mean
        that it took effect all the same.
        """
        async with self.lent() as connection, _committed(connection):
            await connection.execute(_ENTER, tenant_ids, *self._limits)
            yield connection

    @asynccontextmanager
    async def writing(self, tenant_ids: Sequence[str], table: str, operation: str) -> AsyncIterator[Connection]:
        """As `tenant_transaction`; told to `wrote` once its commit has been acknowledged, by the table it is for."""
        began_s = time.perf_counter()
        async with self.tenant_transaction(tenant_ids) as connection:
            yield connection
        self._wrote(table, operation, (time.perf_counter() - began_s) * 1000)


@asynccontextmanager
async def _committed(connection: Connection) -> AsyncIterator[None]:
    await connection.execute("BEGIN")
    try:
        yield
        await _commit(connection)
    except OSError:
        raise  # a connection that does not answer is ended by its lender, not asked again
    except Exception:
        await connection.execute("ROLLBACK")
        raise


async def _commit(connection: Connection) -> None:
    """Postgres answers the commit of an aborted transaction with ROLLBACK, and no error."""
    if await connection.execute("COMMIT") != "COMMIT":
        raise UnexpectedAnswerError("an aborted transaction was to be committed")
