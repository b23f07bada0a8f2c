"""The decision ledger: decision, chain entry, outbox row and meters of an event in one transaction."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from schemas.canonical import canonical_plain
from schemas.decision import DecisionRecord
from schemas.evidence import EntryKind
from sinks import chain, meters, outcomes
from sinks.chain import Draft, Link
from sinks.columns import column
from sinks.faults import TakenError
from sinks.meters import MeterName, TenantDay
from sinks.outcomes import Acceptance
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
_json = msgspec.json.Encoder()


class DecisionLedger:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, records: Sequence[DecisionRecord]) -> list[bool]:
        """Commit everything about these decisions; an event that has been decided before, or is dead, is left as it is.

        True for each record whose event is decided with another body: its key had gone, so its id was
        accepted once more. Raises NoAnswer when the database is away: the commit may have taken effect, and recording
        again has the effect of once. Raises Refusal when a record can never be stored: none was.
        """
        conflicts = [False] * len(records)
        living = list(range(len(records)))
        while living:
            try:
                answers = await self._record_living([records[position] for position in living])
            except _DeadError as error:  # found under the lock, and nothing was chained
                living = [position for position in living if _acceptance(records[position]) not in error.dead]
            else:
                for position, conflict in zip(living, answers, strict=True):
                    conflicts[position] = conflict
                break
        return conflicts

    async def _record_living(self, records: Sequence[DecisionRecord]) -> list[bool]:
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
            dead = await outcomes.dead(connection, [_acceptance(record) for record in records])
            if dead:
                raise _DeadError(dead)
            fresh = [(record, link) for record, link in zip(records, links, strict=True) if link is not None]
            if fresh:
                named = zip(*(_row(record, link) for record, link in fresh), strict=True)
                sources = [record.source for record, _ in fresh]
                reasons = [_array_literal(record.policy_reasons) for record, _ in fresh]
                await connection.execute(_INSERT, *map(column, named), sources, reasons)
                await _meter(connection, [record for record, _ in fresh])
            known = [_identity(record) for record, link in zip(records, links, strict=True) if link is None]
            bodies = await outcomes.decided_bodies(connection, known) if known else {}
        return [bodies.get(_identity(record), record.body_sha256) != record.body_sha256 for record in records]


class _DeadError(Exception):
    """Some of the records are of events that ended dead. Nothing of the transaction took effect."""

    def __init__(self, dead: set[Acceptance]) -> None:
        super().__init__()
        self.dead = dead


def _acceptance(record: DecisionRecord) -> Acceptance:
    return Acceptance(record.tenant_id, record.event_id, record.stream, record.seq)


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
