"""What the stores hold of a tenant, read with the administrator's eyes; and what another tenant can see of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from schemas.codes import DeadReason
from schemas.envelope import EventKey, receipt
from schemas.evidence import ChainEntry
from sinks.pg import Connection, Pool
from sinks.segments import EvidenceError, read_artifact
from sinks.settings import PostgresSettings
from sinks.worm import Worm

_KEYS = """
SELECT tenant_id, event_id, trace_id, request_id, app.rfc3339(ingest_ts) AS ingest_ts, stream, seq, body_sha256
FROM event_keys WHERE tenant_id = $1
"""
_CHAIN = """
SELECT seq, kind, event_id, entry, prev_hash, chain_hash FROM chain_entries WHERE tenant_id = $1 ORDER BY seq
"""
_LETTERS = "SELECT DISTINCT event_id FROM ingest_dlq WHERE tenant_id = $1 AND reason_code <> $2"
_METERS = "SELECT meter, sum(value)::bigint AS value FROM usage_meters WHERE tenant_id = $1 GROUP BY meter"
# As the chain binds them: an index row with no entry, or with more bytes than its entry, must not agree with the meter.
_BYTES = """
SELECT coalesce(sum((e.entry::jsonb ->> 'artifact_bytes')::bigint), 0)::bigint
FROM decision_evidence_artifacts AS a
JOIN chain_entries AS e ON e.tenant_id = a.tenant_id AND e.seq = a.chain_seq
    AND e.event_id = a.event_id AND e.kind = a.artifact_class
WHERE a.tenant_id = $1
"""
# The chain says what an artifact must be, the index only where it lies.
_ARTIFACTS = """
SELECT a.event_id, a.artifact_class, a.segment_id, a.segment_offset, a.artifact_sha256, a.artifact_bytes, e.entry
FROM decision_evidence_artifacts AS a
LEFT JOIN chain_entries AS e ON e.tenant_id = a.tenant_id AND e.event_id = a.event_id AND e.kind = a.artifact_class
WHERE a.tenant_id = $1 AND (a.event_id, a.artifact_class) > ($2, $3)
ORDER BY a.event_id, a.artifact_class LIMIT $4
"""
ARTIFACTS_AT_ONCE = 32
"""So many are held in memory, however many a tenant has."""
_TENANT_TABLES = """
SELECT c.relname AS name FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND c.relnamespace = 'public'::regnamespace
    AND has_table_privilege(c.oid, 'SELECT')
ORDER BY 1
"""


class Link(NamedTuple):
    seq: int
    kind: str
    event_id: str
    entry: str
    prev_hash: str
    chain_hash: str


class TenantState(NamedTuple):
    """A tenant's rows. Counters are by event id."""

    tenant_id: str
    receipts: dict[str, str]
    """Event id to the receipt that its key makes."""
    decided: Counter[str]
    dead: frozenset[str]
    chain: tuple[Link, ...]
    artifacts: Counter[str]
    """Of decisions."""
    artifact_bytes: int
    meters: dict[str, int]
    outbox_rows: int


async def state_of(admin_dsn: str, tenant_id: str) -> TenantState:
    """One consistent view of the tenant's rows."""
    async with _connected(admin_dsn) as pool, pool.lent() as connection:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            keys = [EventKey(*row) for row in await connection.fetch(_KEYS, tenant_id)]
            return TenantState(
                tenant_id,
                {key.event_id: receipt(key).decode() for key in keys},
                await _count(connection, "SELECT event_id FROM decisions WHERE tenant_id = $1", tenant_id),
                frozenset(
                    row["event_id"]
                    for row in await connection.fetch(_LETTERS, tenant_id, DeadReason.EVENT_ID_CONFLICT.value)
                ),
                tuple(Link(*row) for row in await connection.fetch(_CHAIN, tenant_id)),
                await _count(
                    connection,
                    "SELECT event_id FROM decision_evidence_artifacts"
                    " WHERE tenant_id = $1 AND artifact_class = 'decision'",
                    tenant_id,
                ),
                await connection.fetchval(_BYTES, tenant_id),
                {row["meter"]: row["value"] for row in await connection.fetch(_METERS, tenant_id)},
                await connection.fetchval("SELECT count(*) FROM evidence_outbox WHERE tenant_id = $1", tenant_id),
            )
        finally:
            await connection.execute("ROLLBACK")


async def unsealed(admin_dsn: str, tenant_id: str, worm: Worm) -> list[str]:
    """Every indexed artifact of the tenant that the WORM store does not hold as its chain binds it.

    Each one is read and hashed. Raises NoAnswer when a store is away.
    """
    found: list[str] = []
    event_id = artifact_class = ""
    async with _connected(admin_dsn) as pool, pool.connection() as connection:
        while rows := await connection.fetch(_ARTIFACTS, tenant_id, event_id, artifact_class, ARTIFACTS_AT_ONCE):
            found += filter(None, await asyncio.gather(*(_unsealed(worm, row) for row in rows)))
            event_id, artifact_class = rows[-1]["event_id"], rows[-1]["artifact_class"]
    return found


async def _unsealed(worm: Worm, row: Any) -> str:
    """What is wrong with one artifact, empty when it is what its entry binds."""
    name = f"{row['event_id']} ({row['artifact_class']})"
    if row["entry"] is None:
        return f"{name}: an artifact of nothing in the chain"
    entry = msgspec.json.decode(row["entry"], type=ChainEntry)
    if (row["artifact_sha256"], row["artifact_bytes"]) != (entry.artifact_sha256, entry.artifact_bytes):
        return f"{name}: the index names another artifact than the chain"
    place = row["segment_id"], row["segment_offset"], entry.artifact_bytes
    try:
        await read_artifact(worm, *place, entry.artifact_sha256)
    except (EvidenceError, ValueError) as fault:  # ValueError: the index names no segment
        return f"{name}: {fault}"
    return ""


async def foreign_rows(service_dsn: str, tenant_id: str) -> list[str]:
    """The tables in which a service's login, naming this tenant alone, sees rows of another."""
    async with _connected(service_dsn) as pool, pool.tenant_transaction([tenant_id]) as connection:
        found = []
        for table in [row["name"] for row in await connection.fetch(_TENANT_TABLES)]:
            # The name is the catalog's own, quoted by no one else's hand.
            count = f'SELECT count(*) FROM "{table}" WHERE tenant_id IS DISTINCT FROM $1'  # noqa: S608
            if await connection.fetchval(count, tenant_id):
                found.append(table)
        return found


async def unfinished(admin_dsn: str, tenant_ids: Sequence[str], accepted: int) -> list[str]:
    """What still moves: events accepted and neither decided nor dead, rows not relayed, records not sealed."""
    async with _connected(admin_dsn) as pool, pool.connection() as connection:
        row = await connection.fetchrow(
            """
            SELECT (SELECT count(*) FROM decisions WHERE tenant_id = ANY ($1)) AS decided,
                (SELECT count(*) FROM event_keys WHERE tenant_id = ANY ($1)) AS keys,
                (SELECT count(*) FROM evidence_outbox WHERE tenant_id = ANY ($1)) AS waiting,
                (SELECT count(*) FROM chain_entries WHERE tenant_id = ANY ($1)) AS links,
                (SELECT count(*) FROM decision_evidence_artifacts WHERE tenant_id = ANY ($1)) AS sealed,
                (SELECT count(DISTINCT (tenant_id, event_id)) FROM ingest_dlq
                    WHERE tenant_id = ANY ($1) AND reason_code <> $2) AS dead
            """,
            list(tenant_ids),
            DeadReason.EVENT_ID_CONFLICT.value,
        )
    done = row["decided"] + row["dead"]
    found = {
        f"{done} of at least {max(accepted, row['keys'])} events decided or dead": done < max(accepted, row["keys"]),
        f"{row['waiting']} rows wait in the outbox": row["waiting"] > 0,
        f"{row['sealed']} of {row['links']} records sealed": row["sealed"] < row["links"],
    }
    return [words for words, holds in found.items() if holds]


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Pool]:
    pool = await Pool.open(PostgresSettings(dsn=dsn, pool_size=1, statement_cache_size=0, acquire_timeout_ms=5_000))
    try:
        yield pool
    finally:
        await pool.close()


async def _count(connection: Connection, query: str, tenant_id: str) -> Counter[str]:
    return Counter(row["event_id"] for row in await connection.fetch(query, tenant_id))
