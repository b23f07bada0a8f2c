"""The meters worked out once more from the chain, for the artifacts that are indexed: they must agree exactly."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from sinks.meters import MeterName
from sinks.pg import Connection, Pool

PAGE_ROWS = 20_000
UNCHAINED = "artifacts_without_chain_entry"
"""Stands for a meter where artifacts are indexed that no entry of the chain binds: how many, as if they were billed."""

_NAME = "SELECT app.set_tenants($1::text[]), set_config('plan_cache_mode', 'force_custom_plan', true)"
# A page of the chain at a time keeps every statement short, whatever the length of the chain.
_DECIDED = """
WITH page AS (
    SELECT seq, kind, entry FROM chain_entries WHERE tenant_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
)
SELECT NULL AS day, max(seq) AS last, 0 AS events, 0 AS bytes FROM page
UNION ALL
SELECT left(ingest_ts, 10), NULL, count(*), sum(body_bytes)
FROM page CROSS JOIN LATERAL jsonb_to_record(entry::jsonb) AS e (ingest_ts text, body_bytes bigint)
WHERE kind = 'decision' GROUP BY 1
"""
# The index says when an artifact was stored, and the chain how many bytes of it: an entry binds them with its hash.
# LATERAL with LIMIT is a look-up per artifact. A plain join is free to read a whole chain when statistics are stale.
_STORED = """
WITH page AS (
    SELECT event_id, artifact_class, chain_seq, stored_at FROM decision_evidence_artifacts
    WHERE tenant_id = $1 AND (event_id, artifact_class) > ($2, $3)
    ORDER BY event_id, artifact_class LIMIT $4
), last AS (
    SELECT event_id, artifact_class FROM page ORDER BY event_id DESC, artifact_class DESC LIMIT 1
)
SELECT NULL AS day, event_id, artifact_class, 0 AS bytes, 0 AS unchained FROM last
UNION ALL
SELECT to_char(stored_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), NULL, NULL, coalesce(sum(bound.bytes), 0),
    count(*) FILTER (WHERE bound.bytes IS NULL)
FROM page LEFT JOIN LATERAL (
    SELECT (c.entry::jsonb ->> 'artifact_bytes')::bigint AS bytes FROM chain_entries AS c
    WHERE c.tenant_id = $1 AND c.seq = page.chain_seq AND c.event_id = page.event_id AND c.kind = page.artifact_class
    LIMIT 1
) AS bound ON true
GROUP BY 1
"""
_BILLED = "SELECT meter, to_char(day, 'YYYY-MM-DD'), value FROM usage_meters WHERE tenant_id = $1"


class MeterDay(NamedTuple):
    """One row of the meters, `day` as `YYYY-MM-DD`, UTC."""

    meter: str
    day: str


class Difference(NamedTuple):
    """A meter that does not say what the chain does, or artifacts of a day (UNCHAINED) that the chain does not know."""

    tenant_id: str
    meter: str
    day: str
    billed: int
    from_chain: int


class MetersAudit:
    """For `fg_admin`. Raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool, page_rows: int = PAGE_ROWS) -> None:
        self._pool = pool
        self._page_rows = page_rows

    async def differences(self, tenant_id: str) -> list[Difference]:
        """Where the tenant's meters differ, all as they were at one moment; empty means that they agree exactly."""
        async with (
            self._pool.lent() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute(_NAME, [tenant_id])
            billed = Counter(
                {MeterDay(meter, day): value for meter, day, value in await connection.fetch(_BILLED, tenant_id)}
            )
            counted = await self._decided(connection, tenant_id)
            stored, unchained = await self._stored(connection, tenant_id)
        counted.update(stored)
        billed.update(unchained)
        return list(_differing(tenant_id, billed, counted))

    async def _decided(self, connection: Connection, tenant_id: str) -> Counter[MeterDay]:
        counted: Counter[MeterDay] = Counter()
        last: int | None = 0
        while last is not None:
            first, *days = await connection.fetch(_DECIDED, tenant_id, last, self._page_rows)
            last = first["last"]
            for row in days:
                counted[MeterDay(MeterName.INGEST_EVENTS, row["day"])] += row["events"]
                counted[MeterDay(MeterName.INGEST_BYTES, row["day"])] += int(row["bytes"])
        return counted

    async def _stored(self, connection: Connection, tenant_id: str) -> tuple[Counter[MeterDay], Counter[MeterDay]]:
        """The bytes that the chain binds of the indexed artifacts; and how many of them it does not know."""
        stored: Counter[MeterDay] = Counter()
        unchained: Counter[MeterDay] = Counter()
        last = ("", "")
        while rows := await connection.fetch(_STORED, tenant_id, *last, self._page_rows):
            for row in rows:
                if row["day"] is None:
                    last = (row["event_id"], row["artifact_class"])
                else:
                    stored[MeterDay(MeterName.ARTIFACT_BYTES, row["day"])] += int(row["bytes"])
                    unchained[MeterDay(UNCHAINED, row["day"])] += row["unchained"]
        return stored, unchained


def _differing(tenant_id: str, billed: Counter[MeterDay], counted: Counter[MeterDay]) -> Iterator[Difference]:
    for key in sorted(billed.keys() | counted.keys()):
        if billed[key] != counted[key]:
            yield Difference(tenant_id, *key, billed[key], counted[key])
