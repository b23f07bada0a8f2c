"""One event's whole life as it stands in the tables, for its tenant and for operators."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from schemas.codes import DeadReason
from schemas.evidence import EntryKind
from schemas.units import UnixMs, format_rfc3339
from sinks.pg import Pool

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The keys of the document are the names of the tables and of their columns. A column that is added is nobody's until it
# is named here: numbers that count over all tenants and the names of operators are not the tenant's to read.
_KEY = """
SELECT tenant_id, event_id, trace_id, request_id, ingest_ts, stream, seq, body_sha256
FROM event_keys WHERE tenant_id = $1 AND event_id = $2
"""
# The body lies in the partition of its day: with its moment the look-up touches one partition, not all of them.
_BODY = """
SELECT tenant_id, event_id, ingest_ts, agent_id, source, body, body_bytes
FROM ingest_events WHERE tenant_id = $1 AND event_id = $2 AND ingest_ts = $3
"""
_DECISION = """
SELECT tenant_id, decision_id, event_id, trace_id, request_id, agent_id, source, verdict, policy_code, policy_reasons,
    policy_hash, config_hash, score, features, contributions, ingest_ts, decided_at, ingest_latency_ms, prev_hash,
    chain_hash
FROM decisions WHERE tenant_id = $1 AND event_id = $2
"""
_MANY = {
    "chain_entries": """
        SELECT tenant_id, seq, kind, event_id, entry, prev_hash, chain_hash
        FROM chain_entries WHERE tenant_id = $1 AND event_id = $2 ORDER BY seq
    """,
    "evidence_outbox": """
        SELECT tenant_id, seq, kind, event_id, chain_hash, entry, record
        FROM evidence_outbox WHERE tenant_id = $1 AND seq = ANY (ARRAY(
            SELECT seq FROM chain_entries WHERE tenant_id = $1 AND event_id = $2
        )) ORDER BY seq
    """,
    "decision_evidence_artifacts": """
        SELECT tenant_id, event_id, artifact_class, artifact_id, artifact_sha256, artifact_bytes, segment_id,
            segment_offset, trace_hash, chain_seq, stored_at
        FROM decision_evidence_artifacts WHERE tenant_id = $1 AND event_id = $2 ORDER BY artifact_class
    """,
    "ingest_dlq": """
        SELECT tenant_id, event_id, reason_code, trace_id, stage, stream, seq, payload_json, retry_count, first_seen_at,
            last_seen_at, taken_at
        FROM ingest_dlq WHERE tenant_id = $1 AND event_id = $2 ORDER BY first_seen_at, reason_code
    """,
}
_JSON_COLUMNS = frozenset({"body", "features", "contributions", "entry", "record", "payload_json"})

# A letter of event_id_conflict speaks of another message with the event's id, never of the event; `own` are the others.
# A letter without a key is an event that died before it was claimed. Keys and letters leave by the tenant's plan, and
# the decision and the chain's entry stay: what they tell of an event holds after its key or its letter has gone.
_COUNTS = """
WITH own AS (
    SELECT DISTINCT event_id FROM ingest_dlq AS d
    WHERE d.tenant_id = $1 AND d.reason_code <> $2 AND NOT EXISTS (
        SELECT FROM decisions AS x WHERE x.tenant_id = $1 AND x.event_id = d.event_id
    )
), letters_gone AS (
    SELECT FROM event_keys AS k
    JOIN chain_entries AS c ON c.tenant_id = $1 AND c.event_id = k.event_id AND c.kind = $3
    WHERE k.tenant_id = $1
        AND NOT EXISTS (SELECT FROM decisions AS x WHERE x.tenant_id = $1 AND x.event_id = k.event_id)
        AND NOT EXISTS (SELECT FROM ingest_dlq AS d WHERE d.tenant_id = $1 AND d.event_id = k.event_id)
)
SELECT
    (SELECT count(*) FROM event_keys WHERE tenant_id = $1) + (
        SELECT count(*) FROM decisions AS x WHERE x.tenant_id = $1 AND NOT EXISTS (
            SELECT FROM event_keys AS k WHERE k.tenant_id = $1 AND k.event_id = x.event_id
        )
    ) + (
        SELECT count(*) FROM own WHERE NOT EXISTS (
            SELECT FROM event_keys AS k WHERE k.tenant_id = $1 AND k.event_id = own.event_id
        )
    ) AS accepted,
    (SELECT count(*) FROM decisions WHERE tenant_id = $1) AS decided,
    (SELECT count(*) FROM own) + (SELECT count(*) FROM letters_gone) AS dead
"""


class _Sent(msgspec.Struct):
    agent_id: str | None = None


class _Bound(msgspec.Struct):
    body_sha256: str


class OutcomeCounts(NamedTuple):
    """A tenant's events as the tables know them; those still in the ingest stream are in neither count.

    Accepted are the events whose key, decision or own letter is there. Retention lets a dead one go out of all counts
    when it has taken key and letter; a decided one stays.
    """

    accepted: int
    decided: int
    dead: int

    @property
    def in_flight(self) -> int:
        return self.accepted - self.decided - self.dead


class Lives:
    """For `fg_edge` and `fg_admin`. Every method raises NoAnswer when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def life_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        """The life as one JSON document, None when this tenant has no such event.

        With `agent_id`, also None for an event of another agent, or of one that cannot be told.
        """
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            keys = await connection.fetch(_KEY, tenant_id, event_id)
            bodies = [await connection.fetchrow(_BODY, tenant_id, event_id, key["ingest_ts"]) for key in keys]
            decisions = await connection.fetch(_DECISION, tenant_id, event_id)
            found = {table: await connection.fetch(query, tenant_id, event_id) for table, query in _MANY.items()}
        one = {
            "event_keys": _plain(keys),
            "ingest_events": _plain(body for body in bodies if body is not None),
            "decisions": _plain(decisions),
        }
        many = {table: _plain(rows) for table, rows in found.items()}
        if not any((*one.values(), *many.values())) or (agent_id is not None and not _is_of(agent_id, one)):
            return None
        return msgspec.json.encode(
            {
                "tenant_id": tenant_id,
                "event_id": event_id,
                "outcome": _outcome(one, many),
                **{table: rows[0] if rows else None for table, rows in one.items()},
                **many,
            }
        )

    async def count_by_outcome(self, tenant_id: str) -> OutcomeCounts:
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            conflict, dead = DeadReason.EVENT_ID_CONFLICT.value, EntryKind.DEAD_LETTER.value
            return OutcomeCounts(*await connection.fetchrow(_COUNTS, tenant_id, conflict, dead))


def _is_of(agent_id: str, one: dict[str, list[dict[str, Any]]]) -> bool:
    bodies = [msgspec.json.decode(row["body"], type=_Sent) for row in one["ingest_events"]]
    return any(body.agent_id == agent_id for body in bodies)


def _outcome(one: dict[str, list[dict[str, Any]]], many: dict[str, list[dict[str, Any]]]) -> str:
    """What became of the message the key names. One that took the id of a decided event, whose key had gone, is dead
    of that: the decision is of another body."""
    reused = _is_reused(one["event_keys"], many["chain_entries"])
    if one["decisions"] and not reused:
        return "decided"
    own = any(reused or letter["reason_code"] != DeadReason.EVENT_ID_CONFLICT for letter in many["ingest_dlq"])
    return "dead" if own else "in_flight"


def _is_reused(keys: list[dict[str, Any]], entries: list[dict[str, Any]]) -> bool:
    decided = [entry["entry"] for entry in entries if entry["kind"] == EntryKind.DECISION]
    return any(
        msgspec.json.decode(entry, type=_Bound).body_sha256 != key["body_sha256"] for entry in decided for key in keys
    )


def _plain(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [{column: _value(column, value) for column, value in row.items()} for row in rows]


def _value(column: str, value: Any) -> Any:
    if column in _JSON_COLUMNS:
        return msgspec.Raw(value)
    if isinstance(value, datetime):
        return format_rfc3339(UnixMs((value - EPOCH) // timedelta(milliseconds=1)))
    return value
