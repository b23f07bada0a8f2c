"""Appending to the tenants' chains: the one place where links are made.

The caller's transaction names every tenant of the drafts. Each tenant's head row is locked from
here to the commit, so the sequence has no gap and no fork however many processes append.
"""

from collections.abc import Sequence
from typing import NamedTuple

from schemas.canonical import sha256_hex
from schemas.evidence import ChainEntry, EntryKind, genesis_hash, seal
from schemas.subjects import partition_of
from sinks.columns import column
from sinks.pg import Connection

ENTRY_VERSION = 1

# Missing heads are made before any head is locked, and both in one order, so two transactions cannot wait for each
# other in a circle.
_MAKE_HEADS = """
INSERT INTO chain_heads (tenant_id, seq, chain_hash)
SELECT tenant_id, 0, chain_hash FROM unnest($1::text[], $2::text[]) AS h (tenant_id, chain_hash)
ON CONFLICT DO NOTHING
"""
_LOCK_HEADS = """
SELECT tenant_id, seq, chain_hash FROM chain_heads WHERE tenant_id = ANY ($1::text[]) ORDER BY tenant_id FOR UPDATE
"""
# LATERAL with LIMIT is a look-up per draft. A plain join is free to read a whole tenant when the statistics are stale.
_CHAINED = """
SELECT d.tenant_id, d.event_id
FROM unnest($2::text[], $3::text[]) AS d (tenant_id, event_id)
CROSS JOIN LATERAL (
    SELECT FROM chain_entries AS c
    WHERE c.tenant_id = d.tenant_id AND c.event_id = d.event_id AND c.kind = $1 LIMIT 1
) AS found
"""
_APPEND = """
WITH link AS (
    SELECT $1 AS kind, l.*
    FROM unnest(
        string_to_array($2, E'\\x1f'), string_to_array($3, E'\\x1f')::bigint[], string_to_array($4, E'\\x1f'),
        string_to_array($5, E'\\x1f'), string_to_array($6, E'\\x1f'), string_to_array($7, E'\\x1f'), $8::text[]
    ) AS l (tenant_id, seq, entry, prev_hash, chain_hash, record, event_id)
), chained AS (
    INSERT INTO chain_entries (tenant_id, seq, kind, event_id, entry, prev_hash, chain_hash)
    SELECT tenant_id, seq, kind, event_id, entry, prev_hash, chain_hash FROM link
)
INSERT INTO evidence_outbox (tenant_id, seq, kind, event_id, chain_hash, entry, record)
SELECT tenant_id, seq, kind, event_id, chain_hash, entry, record FROM link
"""
_MOVE_HEADS = """
WITH head AS (
    SELECT * FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::text[])
        AS h (tenant_id, partition, seq, chain_hash)
), moved AS (
    UPDATE chain_heads AS c SET seq = head.seq, chain_hash = head.chain_hash, updated_at = now()
    FROM head WHERE c.tenant_id = head.tenant_id
)
INSERT INTO outbox_tenants (tenant_id, partition, seq) SELECT tenant_id, partition, seq FROM head
ON CONFLICT (tenant_id) DO UPDATE SET seq = EXCLUDED.seq
"""


class Draft(NamedTuple):
    """An entry to be: everything but its place in the chain. `artifact` is canonical JSON."""

    tenant_id: str
    event_id: str
    ingest_ts: str
    trace_id: str
    request_id: str
    policy_hash: str
    config_hash: str
    body_sha256: str
    body_bytes: int
    artifact: bytes
    break_glass: str = ""


class Link(NamedTuple):
    """Where a draft came to stand."""

    seq: int
    prev_hash: str
    chain_hash: str


class _Head(NamedTuple):
    seq: int
    chain_hash: str


async def append(
    connection: Connection, kind: EntryKind, drafts: Sequence[Draft], *, looking: bool
) -> list[Link | None]:
    """Chain the drafts in the order given, each with its outbox row.

    One answer per draft: None where this kind of entry of this event is already chained, so nothing
    was done. All of it takes effect with the caller's commit. Without `looking`, entries that are
    already there make the transaction fail with TakenError instead: nothing is chained.
    """
    heads = await lock(connection, sorted({draft.tenant_id for draft in drafts}))
    chained: set[tuple[str, str]] = await _already_chained(connection, kind, drafts) if looking else set()
    links: list[Link | None] = []
    rows: list[tuple[str, int, str, str, str, str]] = []
    event_ids: list[str] = []
    moved: dict[str, _Head] = {}
    for draft in drafts:
        identity = (draft.tenant_id, draft.event_id)
        if identity in chained:
            links.append(None)
            continue
        chained.add(identity)
        head = moved.get(draft.tenant_id) or heads[draft.tenant_id]
        entry, chain_hash = seal(_entry(kind, draft, head))
        link = Link(head.seq + 1, head.chain_hash, chain_hash)
        links.append(link)
        moved[draft.tenant_id] = _Head(link.seq, chain_hash)
        rows.append((draft.tenant_id, link.seq, entry.decode(), link.prev_hash, chain_hash, draft.artifact.decode()))
        event_ids.append(draft.event_id)
    if rows:
        await connection.execute(_APPEND, kind, *map(column, zip(*rows, strict=True)), event_ids)
        tenant_ids = sorted(moved)
        await connection.execute(
            _MOVE_HEADS,
            tenant_ids,
            [partition_of(tenant_id) for tenant_id in tenant_ids],
            [moved[tenant_id].seq for tenant_id in tenant_ids],
            [moved[tenant_id].chain_hash for tenant_id in tenant_ids],
        )
    return links


def _entry(kind: EntryKind, draft: Draft, head: _Head) -> ChainEntry:
    return ChainEntry(
        v=ENTRY_VERSION,
        tenant_id=draft.tenant_id,
        seq=head.seq + 1,
        kind=kind,
        event_id=draft.event_id,
        ingest_ts=draft.ingest_ts,
        trace_id=draft.trace_id,
        request_id=draft.request_id,
        policy_hash=draft.policy_hash,
        config_hash=draft.config_hash,
        body_sha256=draft.body_sha256,
        body_bytes=draft.body_bytes,
        artifact_sha256=sha256_hex(draft.artifact),
        artifact_bytes=len(draft.artifact),
        prev_hash=head.chain_hash,
        break_glass=draft.break_glass,
    )


async def lock(connection: Connection, tenant_ids: list[str]) -> dict[str, _Head]:
    """On return nobody else appends to these tenants' chains until the caller's commit; their heads, made if missing.

    Two calls that name tenants in the same order do not wait for each other in a circle.
    """
    await connection.execute(_MAKE_HEADS, tenant_ids, [genesis_hash(tenant_id) for tenant_id in tenant_ids])
    rows = await connection.fetch(_LOCK_HEADS, tenant_ids)
    return {row["tenant_id"]: _Head(row["seq"], row["chain_hash"]) for row in rows}


async def _already_chained(connection: Connection, kind: EntryKind, drafts: Sequence[Draft]) -> set[tuple[str, str]]:
    rows = await connection.fetch(
        _CHAINED, kind, [draft.tenant_id for draft in drafts], [draft.event_id for draft in drafts]
    )
    return {(row["tenant_id"], row["event_id"]) for row in rows}
