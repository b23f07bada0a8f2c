"""Dead letters that no operator has taken yet."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from schemas.ids import is_tenant_id
from sinks.pg import Pool
from sinks.tenants import UnknownTenantError

TENANTS_AT_ONCE = 500
SHOWN_MAX = 1_000

_TENANTS = "SELECT tenant_id FROM tenants ORDER BY tenant_id"
_COUNT = """
SELECT count(*), count(*) FILTER (WHERE first_seen_at < now() - make_interval(secs => $1))
FROM ingest_dlq WHERE taken_at IS NULL
"""
_LIST = """
SELECT tenant_id, event_id, reason_code, stage, retry_count, first_seen_at, last_seen_at
FROM app.waiting_letters($1::text[], now() - $2::interval, $3)
"""
_TAKE = """
UPDATE ingest_dlq SET taken_at = now(), taken_by = $3
WHERE tenant_id = $1 AND event_id = $2 AND taken_at IS NULL RETURNING reason_code
"""
_NOTE = """
INSERT INTO operator_actions (tenant_id, action_id, operator, action, details) VALUES (
    $1, gen_random_uuid()::text, $2, 'dlq.take',
    jsonb_build_object('event_id', $3::text, 'reason_codes', $4::text[], 'reason', $5::text)
)
"""


class WaitingLetter(NamedTuple):
    """One dead letter: an event and the reason it ended for."""

    tenant_id: str
    event_id: str
    reason_code: str
    stage: str
    retry_count: int
    first_seen_at: str
    last_seen_at: str


class Waiting(NamedTuple):
    """Letters that wait, and those of them that have waited for too long."""

    letters: int
    aged: int


class WaitingLetters:
    """Every method raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def count(self, age_seconds_max: int) -> Waiting:
        """Over all tenants: how many wait, and how many for longer than that. For the worker."""
        letters, aged = 0, 0
        async with self._pool.connection() as connection:
            tenant_ids = [row[0] for row in await connection.fetch(_TENANTS)]
        for begin in range(0, len(tenant_ids), TENANTS_AT_ONCE):
            async with self._pool.tenant_transaction(tenant_ids[begin : begin + TENANTS_AT_ONCE]) as connection:
                row = await connection.fetchrow(_COUNT, age_seconds_max)
            letters, aged = letters + row[0], aged + row[1]
        return Waiting(letters, aged)

    async def oldest(self, tenant_ids: Sequence[str], older_than: timedelta) -> list[WaitingLetter]:
        """Those of these tenants that have waited for so long: of each the oldest 1,000. For the operator."""
        found: list[WaitingLetter] = []
        for begin in range(0, len(tenant_ids), TENANTS_AT_ONCE):
            asking = tenant_ids[begin : begin + TENANTS_AT_ONCE]
            async with self._pool.lent() as connection, connection.transaction():
                rows = await connection.fetch(_LIST, asking, older_than, SHOWN_MAX)
            found += [WaitingLetter(*row) for row in rows]
        return found

    async def take(self, tenant_id: str, event_id: str, operator: str, reason: str) -> list[str]:
        """On return no letter of the event waits, and operator_actions says who took them and why.

        Returns the reason codes of those taken; none waited when there are none. For the operator.
        Raises UnknownTenantError for what cannot be a tenant.
        """
        if not is_tenant_id(tenant_id):
            raise UnknownTenantError(tenant_id)
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            taken = sorted(row[0] for row in await connection.fetch(_TAKE, tenant_id, event_id, operator))
            if taken:
                await connection.execute(_NOTE, tenant_id, operator, event_id, taken, reason)
        return taken
