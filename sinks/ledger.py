"""The decision ledger: decision, chain entry, outbox row and meters of an event in one transaction."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from schemas.canonical import canonical_plain
from schemas.decision import DecisionRecord
from schemas.evidence import EntryKind
from sinks import chain, meters
from sinks.chain import Draft, Link
from sinks.columns import column
from sinks.faults import TakenError
from sinks.meters import MeterName, TenantDay
from sinks.pg import Connection, Pool

_INSERT = """
INSERT INTO decisions (
    tenant_id, decision_id, event_id, trace_id, request_id, agent_id, source, verdict, policy_code, policy_reasons,
    policy_hash, config_hash, score, features, contributions, ingest_ts, decided_at, ingest_latency_ms, prev_hash,
    chain_hash
)
SELECT
    tenant_id, decision_id, event_id, trace_id, request_id, agent_id, source, verdict, policy_code,
    policy_reasons::text[], policy_hash, config_hash, score, features, contributions, ingest_ts, decided_at,
    CASE WHEN latency_ms BETWEEN 0 AND 2147483647 THEN latency_ms::integer END, prev_hash, chain_hash
FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, E'\\x1f')::bigint[], string_to_array($3, E'\\x1f'),
    string_to_array($4, E'\\x1f'), string_to_array($5, E'\\x1f'), string_to_array($6, E'\\x1f'),
    string_to_array($7, E'\\x1f'), string_to_array($8, E'\\x1f'), string_to_array($9, E'\\x1f'),
    string_to_array($10, E'\\x1f'), string_to_array($11, E'\\x1f')::integer[],
    string_to_array($12, E'\\x1f')::jsonb[], string_to_array($13, E'\\x1f')::jsonb[],
    string_to_array($14, E'\\x1f')::timestamptz[], string_to_array($15, E'\\x1f')::timestamptz[],
    string_to_array($16, E'\\x1f'), string_to_array($17, E'\\x1f'), $18::text[], $19::text[]
) AS d (
    tenant_id, decision_id, event_id, trace_id, request_id, agent_id, verdict, policy_code, policy_hash, config_hash,
    score, features, contributions, ingest_ts, decided_at, prev_hash, chain_hash, source, policy_reasons
)
CROSS JOIN LATERAL (SELECT extract(epoch FROM decided_at - ingest_ts) * 1000) AS elapsed (latency_ms)
"""
# LATERAL with LIMIT is a look-up per event. A plain join is free to read a whole tenant when the statistics are stale.
_DECIDED = """
SELECT d.tenant_id, d.event_id, found.entry
FROM unnest($2::text[], $3::text[]) AS d (tenant_id, event_id)
CROSS JOIN LATERAL (
    SELECT c.entry FROM chain_entries AS c
    WHERE c.tenant_id = d.tenant_id AND c.event_id = d.event_id AND c.kind = $1 LIMIT 1
) AS found
"""
_json = msgspec.json.Encoder()


class DecisionLedger:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, records: Sequence[DecisionRecord]) -> list[bool]:
        """Commit everything about these decisions; an event that has been decided before is left as it is.

        True for each record whose event is decided with another body: its key had gone, so its id was
        accepted once more. Raises NoAnswer when the database is away: the commit may have taken effect, and recording
        again has the effect of once. Raises Refusal when a record can never be stored: none was.
        """
        drafts = [_draft(record) for record in records]
        # Redeliveries are rare, and looking for them costs what chaining costs (20 ms for 213 rows while the statistics
        # are young): the unique key finds them as well.
        try:
            return await self._record(records, drafts, looking=False)
        except TakenError:
            return await self._record(records, drafts, looking=True)

    async def _record(self, records: Sequence[DecisionRecord], drafts: Sequence[Draft], *, looking: bool) -> list[bool]:
        tenant_ids = sorted({record.tenant_id for record in records})
        async with self._pool.writing(tenant_ids, "decisions", "insert") as connection:
            links = await chain.append(connection, EntryKind.DECISION, drafts, looking=looking)
            fresh = [(record, link) for record, link in zip(records, links, strict=True) if link is not None]
            if fresh:
                named = zip(*(_row(record, link) for record, link in fresh), strict=True)
                sources = [record.source for record, _ in fresh]
                reasons = [_array_literal(record.policy_reasons) for record, _ in fresh]
                await connection.execute(_INSERT, *map(column, named), sources, reasons)
                await _meter(connection, [record for record, _ in fresh])
            known = [record for record, link in zip(records, links, strict=True) if link is None]
            bodies = await _decided_bodies(connection, known) if known else {}
        return [bodies.get(_identity(record), record.body_sha256) != record.body_sha256 for record in records]


class _Bound(msgspec.Struct):
    """What is asked of an entry."""

    body_sha256: str


async def _decided_bodies(connection: Connection, records: Sequence[DecisionRecord]) -> dict[tuple[str, str], str]:
    """The hash of the body with which each of these events was decided, as its entry binds it."""
    rows = await connection.fetch(_DECIDED, EntryKind.DECISION, *zip(*map(_identity, records), strict=True))
    return {
        (row["tenant_id"], row["event_id"]): msgspec.json.decode(row["entry"], type=_Bound).body_sha256 for row in rows
    }


def _identity(record: DecisionRecord) -> tuple[str, str]:
    return record.tenant_id, record.event_id


def _draft(record: DecisionRecord) -> Draft:
    return Draft(
        tenant_id=record.tenant_id,
        event_id=record.event_id,
        ingest_ts=record.ingest_ts,
        trace_id=record.trace_id,
        request_id=record.request_id,
        policy_hash=record.policy_hash,
        config_hash=record.config_hash,
        body_sha256=record.body_sha256,
        body_bytes=record.body_bytes,
        artifact=canonical_plain(record),
        break_glass=record.break_glass,
    )


def _row(record: DecisionRecord, link: Link) -> tuple[str | int, ...]:
    """All but the free texts."""
    return (
        record.tenant_id,
        link.seq,
        record.event_id,
        record.trace_id,
        record.request_id,
        record.agent_id,
        record.verdict,
        record.policy_code,
        record.policy_hash,
        record.config_hash,
        record.score,
        _json.encode(record.features).decode(),
        _json.encode(record.contributions).decode(),
        record.ingest_ts,
        record.decided_at,
        link.prev_hash,
        link.chain_hash,
    )


def _array_literal(texts: Sequence[str]) -> str:
    """The texts as one Postgres array: unnest would flatten an array of arrays."""
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return "{" + ",".join(quoted) + "}"


async def _meter(connection: Connection, records: Sequence[DecisionRecord]) -> None:
    sizes: Counter[TenantDay] = Counter()
    days = [TenantDay(record.tenant_id, record.ingest_ts[:10]) for record in records]
    for day, record in zip(days, records, strict=True):
        sizes[day] += record.body_bytes
    await meters.add(connection, MeterName.INGEST_EVENTS, Counter(days))
    await meters.add(connection, MeterName.INGEST_BYTES, sizes)
