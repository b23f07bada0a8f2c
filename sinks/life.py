"""One event's whole life as it stands in the tables, for its tenant and for operators."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from schemas.codes import DeadReason
from schemas.evidence import EntryKind
from schemas.units import UnixMs, format_rfc3339
from sinks.pg import Connection, Pool

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The keys of the document are the names of the tables and of their columns.
_ONE = {
    "event_keys": "SELECT * FROM event_keys WHERE tenant_id = $1 AND event_id = $2",
    "ingest_events": "SELECT * FROM ingest_events WHERE tenant_id = $1 AND event_id = $2",
    "decisions": "SELECT * FROM decisions WHERE tenant_id = $1 AND event_id = $2",
}
_MANY = {
    "chain_entries": "SELECT * FROM chain_entries WHERE tenant_id = $1 AND event_id = $2 ORDER BY seq",
    "evidence_outbox": """
        SELECT * FROM evidence_outbox WHERE tenant_id = $1 AND seq = ANY (ARRAY(
            SELECT seq FROM chain_entries WHERE tenant_id = $1 AND event_id = $2
        )) ORDER BY seq
    """,
    "decision_evidence_artifacts": """
        SELECT * FROM decision_evidence_artifacts WHERE tenant_id = $1 AND event_id = $2 ORDER BY artifact_class
    """,
    "ingest_dlq": "SELECT * FROM ingest_dlq WHERE tenant_id = $1 AND event_id = $2 ORDER BY id",
}
_JSON_COLUMNS = frozenset({"body", "features", "contributions", "entry", "record", "payload_json"})

# A letter of event_id_conflict speaks of another message with the event's id, never of the event. A letter without a
# key is an event that died before it was claimed.
_COUNTS = """
SELECT
    (SELECT count(*) FROM event_keys WHERE tenant_id = $1) + (
        SELECT count(DISTINCT event_id) FROM ingest_dlq AS d
        WHERE d.tenant_id = $1 AND NOT EXISTS (
            SELECT FROM event_keys AS k WHERE k.tenant_id = d.tenant_id AND k.event_id = d.event_id
        )
    ) AS accepted,
    (SELECT count(*) FROM decisions WHERE tenant_id = $1) AS decided,
    (
        SELECT count(DISTINCT event_id) FROM ingest_dlq AS d
        WHERE d.tenant_id = $1 AND d.reason_code <> $2 AND NOT EXISTS (
            SELECT FROM decisions AS x WHERE x.tenant_id = d.tenant_id AND x.event_id = d.event_id
        )
    ) AS dead
"""


class _Sent(msgspec.Struct):
    agent_id: str | None = None


class _Bound(msgspec.Struct):
    body_sha256: str


class OutcomeCounts(NamedTuple):
    """A tenant's events as the tables know them; those still in the ingest stream are in neither count."""

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
            one = {table: await _rows(connection, query, tenant_id, event_id) for table, query in _ONE.items()}
            many = {table: await _rows(connection, query, tenant_id, event_id) for table, query in _MANY.items()}
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
            return OutcomeCounts(*await connection.fetchrow(_COUNTS, tenant_id, DeadReason.EVENT_ID_CONFLICT.value))


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


async def _rows(connection: Connection, query: str, tenant_id: str, event_id: str) -> list[dict[str, Any]]:
    rows = await connection.fetch(query, tenant_id, event_id)
    return [{column: _plain(column, value) for column, value in row.items()} for row in rows]


def _plain(column: str, value: Any) -> Any:
    if column in _JSON_COLUMNS:
        return msgspec.Raw(value)
    if isinstance(value, datetime):
        return format_rfc3339(UnixMs((value - EPOCH) // timedelta(milliseconds=1)))
    return value
