"""The decision ledger: decision, chain entry, outbox row and meters of an event in one transaction."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from schemas.canonical import canonical_plain
from schemas.decision import DecisionRecord
from schemas.evidence import EntryKind
from sinks import chain, meters
from sinks.chain import Draft, Link
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
    $1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::integer[], $14::text[]::jsonb[], $15::text[]::jsonb[],
    $16::text[]::timestamptz[], $17::text[]::timestamptz[], $18::text[], $19::text[]
) AS d (
    tenant_id, decision_id, event_id, trace_id, request_id, agent_id, source, verdict, policy_code, policy_reasons,
    policy_hash, config_hash, score, features, contributions, ingest_ts, decided_at, prev_hash, chain_hash
)
CROSS JOIN LATERAL (SELECT extract(epoch FROM decided_at - ingest_ts) * 1000) AS elapsed (latency_ms)
"""
_json = msgspec.json.Encoder()


class DecisionLedger:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, records: Sequence[DecisionRecord]) -> None:
        """Commit everything about these decisions; an event that has been decided before is left as it is.

        Raises NoAnswer when the database is away: the commit may have taken effect, and recording
        again has the effect of once. Raises Refusal when a record can never be stored: none was.
        """
        drafts = [_draft(record) for record in records]
        # Redeliveries are rare, and looking for them costs what chaining costs (20 ms for 213 rows while the statistics
        # are young): the unique key finds them as well.
        try:
            await self._record(records, drafts, looking=False)
        except TakenError:
            await self._record(records, drafts, looking=True)

    async def _record(self, records: Sequence[DecisionRecord], drafts: Sequence[Draft], *, looking: bool) -> None:
        tenant_ids = sorted({record.tenant_id for record in records})
        async with self._pool.writing(tenant_ids, "decisions", "insert") as connection:
            links = await chain.append(connection, EntryKind.DECISION, drafts, looking=looking)
            fresh = [(record, link) for record, link in zip(records, links, strict=True) if link is not None]
            if fresh:
                await connection.execute(_INSERT, *zip(*(_row(record, link) for record, link in fresh), strict=True))
                await _meter(connection, [record for record, _ in fresh])


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


def _row(record: DecisionRecord, link: Link) -> tuple[str | int | None, ...]:
    return (
        record.tenant_id,
        link.seq,
        record.event_id,
        record.trace_id,
        record.request_id,
        record.agent_id,
        record.source,
        record.verdict,
        record.policy_code,
        _array_literal(record.policy_reasons),
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
