"""The outbox: committed chain entries leave for the events stream, each tenant's in the order of its chain."""

from collections.abc import Awaitable, Callable, Sequence

from schemas.rows import OutboxRow
from sinks.pg import Pool

RELAY_LOCK_CLASS = 0x4647
"""First half of the advisory lock's key; the partition is the other."""

# The tenants after the last one served come first, so a busy tenant cannot keep the others waiting.
_WAITING = """
SELECT tenant_id, partition, seq FROM outbox_tenants
WHERE partition = ANY ($1::int[]) ORDER BY tenant_id <= $2, tenant_id LIMIT $3
"""
_LOCK = "SELECT partition FROM unnest($2::int[]) AS partition WHERE pg_try_advisory_xact_lock($1, partition)"
# Taken rows are gone with the commit, after they were published; a rollback brings them back. LATERAL with LIMIT goes
# through the tenants in the order given, and through each from its oldest row on.
_TAKE = """
DELETE FROM evidence_outbox WHERE ctid = ANY (ARRAY(
    SELECT o.ctid FROM unnest($1::text[]) AS w (tenant_id)
    CROSS JOIN LATERAL (
        SELECT e.ctid FROM evidence_outbox AS e WHERE e.tenant_id = w.tenant_id ORDER BY e.seq LIMIT $2
    ) AS o
    LIMIT $2
))
RETURNING tenant_id, seq, kind, event_id, chain_hash, entry, record
"""
# A tenant row somebody is writing is being announced anew: it is passed over, so the relay waits for nobody.
_FORGET_TENANTS = """
DELETE FROM outbox_tenants WHERE tenant_id = ANY (ARRAY(
    SELECT w.tenant_id FROM outbox_tenants AS w
    JOIN unnest($1::text[], $2::bigint[]) AS s (tenant_id, seq) ON w.tenant_id = s.tenant_id AND w.seq <= s.seq
    FOR UPDATE OF w SKIP LOCKED
))
"""


class Outbox:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._served = ""

    async def relay(
        self, partitions: Sequence[int], publish: Callable[[Sequence[OutboxRow]], Awaitable[None]], rows_max: int
    ) -> int:
        """Publish up to `rows_max` rows of those partitions together, then forget them; return how many.

        Rows of a tenant leave in the order of its chain and only one relay works on a partition at
        a time: what another holds is left out. A row is forgotten only after `publish` returned, so
        after NoAnswer or whatever `publish` raises, some may be published a second time.
        """
        async with self._pool.connection() as connection:
            found = await connection.fetch(_WAITING, list(partitions), self._served, rows_max)
        if not found:
            return 0
        async with self._pool.tenant_transaction([row["tenant_id"] for row in found]) as connection:
            asked = sorted({row["partition"] for row in found})  # in one order, like every relay
            ours = {row["partition"] for row in await connection.fetch(_LOCK, RELAY_LOCK_CLASS, asked)}
            waiting = {row["tenant_id"]: row["seq"] for row in found if row["partition"] in ours}
            if not waiting:
                return 0
            turn = {tenant_id: place for place, tenant_id in enumerate(waiting)}
            rows = [OutboxRow(*row) for row in await connection.fetch(_TAKE, list(waiting), rows_max)]
            rows.sort(key=lambda row: (turn[row.tenant_id], row.seq))
            if rows:
                await publish(rows)
                self._served = rows[-1].tenant_id
            # The head lock lets a tenant's entries commit in the order of seq, so nothing older can still appear.
            emptied = {} if len(rows) == rows_max else waiting
            reached = emptied | {row.tenant_id: row.seq for row in rows}
            await connection.execute(_FORGET_TENANTS, list(reached), list(reached.values()))
        return len(rows)
