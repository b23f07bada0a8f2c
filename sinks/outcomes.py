"""An event ends once: decided or dead, whichever is committed first under the lock of its tenant's chain head.

Both ends are reached by messages that can be delivered again, or that an operator terminates while a
worker has them in hand, so each asks for the other before it takes effect.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.codes import DeadReason
from schemas.evidence import EntryKind
from sinks.columns import column
from sinks.pg import Connection

# LATERAL with LIMIT is a look-up per event. A plain join is free to read a whole tenant when the statistics are stale.
_DECIDED = """
SELECT d.tenant_id, d.event_id, found.entry
FROM unnest($2::text[], $3::text[]) AS d (tenant_id, event_id)
CROSS JOIN LATERAL (
    SELECT c.entry FROM chain_entries AS c
    WHERE c.tenant_id = d.tenant_id AND c.event_id = d.event_id AND c.kind = $1 LIMIT 1
) AS found
"""
_DEAD = """
SELECT a.tenant_id, a.event_id, a.stream, a.seq
FROM unnest(
    string_to_array($2, E'\\x1f'), $3::text[], $4::text[], string_to_array($5, E'\\x1f')::bigint[]
) AS a (tenant_id, event_id, stream, seq)
CROSS JOIN LATERAL (
    SELECT FROM ingest_dlq AS l
    WHERE l.tenant_id = a.tenant_id AND l.event_id = a.event_id
        AND l.reason_code <> $1 AND l.accepted_stream = a.stream AND l.accepted_seq >= a.seq LIMIT 1
) AS found
"""


class Acceptance(NamedTuple):
    """An event as it was accepted: its id, and where its message was stored first."""

    tenant_id: str
    event_id: str
    stream: str
    seq: int


class _Bound(msgspec.Struct):
    """What is asked of an entry."""

    body_sha256: str


async def decided_bodies(connection: Connection, events: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Of those of these events that are decided, the hash of the body it was about, as the entry binds it."""
    rows = await connection.fetch(_DECIDED, EntryKind.DECISION, *zip(*events, strict=True))
    return {
        (row["tenant_id"], row["event_id"]): msgspec.json.decode(row["entry"], type=_Bound).body_sha256 for row in rows
    }


async def dead(connection: Connection, accepted: Sequence[Acceptance]) -> set[Acceptance]:
    """Those of them that ended dead: what was stored no later than the latest message of the event that did.

    Of an event of which two messages exist one death is enough, whichever of them it came to. What was stored later
    is accepted anew. A conflict speaks of another message with the event's id, never of the event.
    """
    tenant_ids, event_ids, streams, seqs = zip(*accepted, strict=True)
    conflict = DeadReason.EVENT_ID_CONFLICT.value
    rows = await connection.fetch(_DEAD, conflict, column(tenant_ids), event_ids, streams, column(seqs))
    return {Acceptance(*row) for row in rows}
