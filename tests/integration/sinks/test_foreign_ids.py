"""Whoever asks for another tenant's event has the same work done as for an event there never was.

The time of an answer is not compared, for it says more of the machine. What makes it is: the statements, how each is
carried out, and how many rows each step of that looks at.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from sinks.decisions import Decisions
from sinks.event_keys import EventKeys
from sinks.life import Lives
from sinks.pg import Pool
from tests.integration.sinks.conftest import settings
from tests.integration.sinks.tenant_tables import SET_TENANTS

THEIRS, UNKNOWN = "e1", "never"
Ask = Callable[[Pool, str, str], Awaitable[object]]
LOOK_UPS: dict[str, Ask] = {
    "the life of an event": lambda pool, tenant, event: Lives(pool).life_of(tenant, event, None),
    "what is stored": lambda pool, tenant, event: EventKeys(pool).stored([(tenant, event)]),
    "what was decided": lambda pool, tenant, event: Decisions(pool).decided([(tenant, event)]),
}
_EXPLAIN = "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF)"


class Asked:
    """The edge's pool, and the statements that went over its one connection."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.statements: list[str] = []

    async def statements_of(self, look_up: Ask, tenant: str, event: str) -> list[str]:
        self.statements.clear()
        assert not await look_up(self.pool, tenant, event)
        return [*self.statements]


@pytest.fixture
async def asked(servers: EmbeddedServers) -> AsyncIterator[Asked]:
    pool = await Pool.open(settings(servers.postgres_dsn("edge"), pool_size=1))
    asked = Asked(pool)
    async with pool.lent() as connection:
        connection.add_query_logger(lambda record: asked.statements.append(record.query))
    yield asked
    await pool.close()


@pytest.fixture
async def edge_session(servers: EmbeddedServers) -> AsyncIterator[Any]:
    session = await asyncpg.connect(servers.postgres_dsn("edge"))
    yield session
    await session.close()


async def _carried_out(connection: Any, tenant: str, statement: str, event: str) -> list[str]:
    """What the server does for that statement, with the ids taken out: a tenant's is random and may hold an event's."""
    several = "$1::text[]" in statement
    values: list[object] = [[tenant], [event]] if several else [tenant, event]
    async with connection.transaction():
        if not several:  # those functions name their tenants themselves
            await connection.execute(SET_TENANTS, [tenant])
        rows = await connection.fetch(f"{_EXPLAIN} {statement}", *values)
    return [row[0].replace(tenant, "TENANT").replace(event, "ID") for row in rows]


@pytest.mark.parametrize("name", LOOK_UPS)
async def test_another_tenants_event_is_looked_for_as_one_that_never_was(
    asked: Asked, edge_session: Any, tenant: str, other: str, name: str
) -> None:
    look_up = LOOK_UPS[name]
    assert await look_up(asked.pool, other, THEIRS), "the other tenant has it"
    statements = await asked.statements_of(look_up, tenant, THEIRS)
    assert statements == await asked.statements_of(look_up, tenant, UNKNOWN)
    reading = [statement for statement in statements if "event_id" in statement]
    assert reading
    for statement in reading:
        theirs = await _carried_out(edge_session, tenant, statement, THEIRS)
        assert theirs == await _carried_out(edge_session, tenant, statement, UNKNOWN)


@pytest.mark.usefixtures("other")
async def test_what_would_tell_the_two_apart_is_told_apart_here(all_seeing: Any, tenant: str) -> None:
    """A look-up by the event's id alone, with the tenant's rows sorted out afterwards, does other work for the two."""
    statement = "SELECT FROM (SELECT * FROM event_keys WHERE event_id = $2 OFFSET 0) AS k WHERE tenant_id = $1"
    theirs = await _carried_out(all_seeing, tenant, statement, THEIRS)
    assert theirs != await _carried_out(all_seeing, tenant, statement, UNKNOWN)
