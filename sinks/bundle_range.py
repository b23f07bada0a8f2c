"""Which entries a bundle is to hold, and whether they are sealed and covered yet."""

from typing import NamedTuple

from schemas.subjects import partition_of
from sinks.bundle_source import WINDOW_ENTRIES, Range
from sinks.pg import Pool

_HEAD = "SELECT coalesce((SELECT seq FROM chain_heads WHERE tenant_id = $1), 0)"
# One text order: the moments are RFC 3339 in UTC with three digits of milliseconds, all of one length.
_FIRST = """
SELECT min(seq) FROM chain_entries
WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3 AND (entry::jsonb ->> 'ingest_ts') COLLATE "C" >= $4
"""
_LAST = """
SELECT max(seq) FROM chain_entries
WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3 AND (entry::jsonb ->> 'ingest_ts') COLLATE "C" <= $4
"""
_COVERED = "SELECT coalesce((SELECT size FROM chain_frontiers WHERE tenant_id = $1), 0)"
_SEALED = """
SELECT count(*) FROM chain_entries AS e
WHERE e.tenant_id = $1 AND e.seq BETWEEN $2 AND $3 AND EXISTS (
    SELECT FROM decision_evidence_artifacts AS a
    WHERE a.tenant_id = e.tenant_id AND a.event_id = e.event_id AND a.artifact_class = e.kind
)
"""
_REQUEST = "INSERT INTO checkpoint_requests (partition) VALUES ($1) ON CONFLICT DO NOTHING"


class NothingToExportError(Exception):
    """The tenant has no entry in that time."""


class Standing(NamedTuple):
    """How far a range has come."""

    entries: int
    sealed: int
    covered: int
    """How many of them the newest checkpoint covers."""

    @property
    def ready(self) -> bool:
        return self.sealed == self.covered == self.entries


async def range_of(pool: Pool, tenant_id: str, ingested_from: str, ingested_to: str) -> Range:
    """The entries committed by now, from the first of at least `ingested_from` to the last of at most `ingested_to`.

    Both as `schemas.units.format_rfc3339` writes them, empty for no bound. Raises NothingToExportError, NoAnswer.
    """
    async with pool.tenant_transaction([tenant_id]) as connection:
        head: int = await connection.fetchval(_HEAD, tenant_id)
    starts = range(1, head + 1, WINDOW_ENTRIES)
    first: int | None = 1 if head else None
    last: int | None = head or None
    if ingested_from:
        first = await _found(pool, _FIRST, tenant_id, starts, ingested_from)
    if ingested_to:
        last = await _found(pool, _LAST, tenant_id, starts[::-1], ingested_to)
    if first is None or last is None or first > last:
        raise NothingToExportError(tenant_id)
    return Range(tenant_id, first, min(last, head))


class RangeWatch:
    """Looks how far a range has come; what was seen to be sealed is not looked at again."""

    def __init__(self, pool: Pool, wanted: Range) -> None:
        self._pool = pool
        self._range = wanted
        self._sealed = 0
        """Windows known to be sealed whole, in entries."""

    async def look(self) -> Standing:
        """Raises NoAnswer."""
        tenant_id, first, last = self._range
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            covered: int = await connection.fetchval(_COVERED, tenant_id)
        found = 0
        while first + self._sealed <= last:
            start = first + self._sealed
            end = min(start + WINDOW_ENTRIES - 1, last)
            async with self._pool.tenant_transaction([tenant_id]) as connection:
                found = await connection.fetchval(_SEALED, tenant_id, start, end)
            if found < end - start + 1:
                break
            self._sealed, found = self._sealed + found, 0
        entries = last - first + 1
        return Standing(entries, self._sealed + found, min(max(covered - first + 1, 0), entries))


async def ask_for_checkpoint(pool: Pool, tenant_id: str) -> None:
    """On return the worker was asked to cover this tenant's entries now, not within seconds. Raises NoAnswer."""
    async with pool.connection() as connection:
        await connection.execute(_REQUEST, partition_of(tenant_id))


async def _found(pool: Pool, query: str, tenant_id: str, starts: range, moment: str) -> int | None:
    for start in starts:
        async with pool.tenant_transaction([tenant_id]) as connection:
            found: int | None = await connection.fetchval(query, tenant_id, start, start + WINDOW_ENTRIES - 1, moment)
        if found is not None:
            return found
    return None
