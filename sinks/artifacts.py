"""The index of sealed artifacts: where each lies."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from schemas.rows import ArtifactRow
from sinks import meters
from sinks.columns import column
from sinks.meters import MeterName, TenantDay
from sinks.pg import Pool

# LATERAL with LIMIT is a look-up per key. A plain join is free to read a whole tenant when the statistics are stale.
_INDEXED = """
SELECT a.tenant_id, a.event_id, a.artifact_class
FROM unnest(string_to_array($1, E'\\x1f'), string_to_array($2, E'\\x1f'), string_to_array($3, E'\\x1f'))
    AS a (tenant_id, event_id, artifact_class)
CROSS JOIN LATERAL (
    SELECT FROM decision_evidence_artifacts AS i
    WHERE i.tenant_id = a.tenant_id AND i.event_id = a.event_id AND i.artifact_class = a.artifact_class LIMIT 1
) AS found
"""
# The rows come sorted, so two transactions that index the same artifacts wait for each other in one order.
_INDEX = """
INSERT INTO decision_evidence_artifacts (
    tenant_id, event_id, artifact_class, artifact_id, artifact_sha256, artifact_bytes, segment_id, segment_offset,
    chain_seq, trace_hash, stored_at
)
SELECT a.*, now()
FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, E'\\x1f'), string_to_array($3, E'\\x1f'),
    string_to_array($4, E'\\x1f'), string_to_array($5, E'\\x1f'), string_to_array($6, E'\\x1f')::bigint[],
    string_to_array($7, E'\\x1f'), string_to_array($8, E'\\x1f')::bigint[], string_to_array($9, E'\\x1f')::bigint[],
    string_to_array($10, E'\\x1f')
) AS a (
    tenant_id, event_id, artifact_class, artifact_id, artifact_sha256, artifact_bytes, segment_id, segment_offset,
    chain_seq, trace_hash
)
ON CONFLICT DO NOTHING
RETURNING tenant_id, to_char(stored_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, artifact_bytes
"""


class ArtifactKey(NamedTuple):
    """What an artifact is of."""

    tenant_id: str
    event_id: str
    artifact_class: str


class ArtifactIndex:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def missing(self, keys: Sequence[ArtifactKey]) -> list[ArtifactKey]:
        """Those that have no artifact indexed, in the order given. Raises NoAnswer."""
        async with self._pool.tenant_transaction(sorted({key.tenant_id for key in keys})) as connection:
            rows = await connection.fetch(_INDEXED, *map(column, zip(*keys, strict=True)))
        indexed = {tuple(row) for row in rows}
        return [key for key in keys if key not in indexed]

    async def index(self, rows: Sequence[ArtifactRow]) -> None:
        """Commit where these artifacts lie, and their bytes on the meter; one indexed before stays where it was.

        Raises NoAnswer: indexing again has the effect of once.
        """
        ordered = sorted(rows)
        tenant_ids = sorted({row.tenant_id for row in rows})
        async with self._pool.writing(tenant_ids, "decision_evidence_artifacts", "insert") as connection:
            added = await connection.fetch(_INDEX, *map(column, zip(*ordered, strict=True)))
            if added:
                sizes: Counter[TenantDay] = Counter()
                for row in added:
                    sizes[TenantDay(row["tenant_id"], row["day"])] += row["artifact_bytes"]
                await meters.add(connection, MeterName.ARTIFACT_BYTES, sizes)
