"""What a bundle is made of, read in pages and verified: entries from the chain, artifacts from the sealed segments."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.canonical import sha256_hex
from schemas.evidence import ChainEntry, genesis_hash, seal
from sinks.pg import Pool
from sinks.segments import EvidenceError, read_part
from sinks.worm import Worm

PAGE_ENTRIES = 200
WINDOW_ENTRIES = 20_000
"""So many entries are summed up, or searched, by one statement."""

_PAGE = """
SELECT seq, entry, chain_hash FROM chain_entries WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq
"""
# LATERAL with LIMIT is a look-up per entry. A plain join is free to read a whole tenant for each page.
_PLACED = """
SELECT e.seq, e.entry, a.segment_id, a.segment_offset FROM chain_entries AS e
LEFT JOIN LATERAL (
    SELECT segment_id, segment_offset FROM decision_evidence_artifacts AS i
    WHERE i.tenant_id = e.tenant_id AND i.event_id = e.event_id AND i.artifact_class = e.kind LIMIT 1
) AS a ON true
WHERE e.tenant_id = $1 AND e.seq BETWEEN $2 AND $3 ORDER BY e.seq
"""
_SIZES = """
SELECT coalesce(sum(octet_length(entry) + 1), 0)::bigint,
    coalesce(sum((entry::jsonb ->> 'artifact_bytes')::bigint + 1), 0)::bigint
FROM chain_entries WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3
"""
_entry = msgspec.json.Decoder(ChainEntry)


class Range(NamedTuple):
    """The entries of a tenant from `first` to `last`, both with it."""

    tenant_id: str
    first: int
    last: int


class Sizes(NamedTuple):
    """The bytes of a range's entries and artifacts as lines."""

    entries: int
    artifacts: int


class Kept(NamedTuple):
    """An entry and its artifact, as the entry binds it."""

    entry: ChainEntry
    artifact: bytes


class BundleSource:
    """The evidence of one range. Every method raises NoAnswer, and EvidenceError when it is not what was signed."""

    def __init__(self, pool: Pool, worm: Worm, wanted: Range) -> None:
        self._pool = pool
        self._worm = worm
        self._range = wanted

    async def sizes(self) -> Sizes:
        """Entries are never changed, so what is summed up now is what will be read."""
        entries = artifacts = 0
        for start, end in self._spans(WINDOW_ENTRIES):
            async with self._pool.tenant_transaction([self._range.tenant_id]) as connection:
                row = await connection.fetchrow(_SIZES, self._range.tenant_id, start, end)
            entries, artifacts = entries + row[0], artifacts + row[1]
        return Sizes(entries, artifacts)

    async def entries(self) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """Pages of entries with their hashes, each held to its hash, its place and the one before it."""
        tenant_id, first, _ = self._range
        before = genesis_hash(tenant_id) if first == 1 else ""
        for start, end in self._spans(PAGE_ENTRIES):
            page = []
            for seq, row in enumerate(await self._rows(_PAGE, start, end), start):
                entry = _decoded(seq, row["entry"])
                data, chain_hash = seal(entry)
                sound = (entry.seq, entry.tenant_id, chain_hash) == (seq, tenant_id, row["chain_hash"])
                if not sound or data != row["entry"].encode() or before not in {"", entry.prev_hash}:
                    raise EvidenceError(f"entry {seq} is not what was chained")
                before = chain_hash
                page.append((data, bytes.fromhex(chain_hash)))
            yield page

    async def artifacts(self) -> AsyncIterator[list[Kept]]:
        """Pages of entries with their artifacts, each hashed anew."""
        for start, end in self._spans(PAGE_ENTRIES):
            rows = await self._rows(_PLACED, start, end)
            entries = [_decoded(row["seq"], row["entry"]) for row in rows]
            found = await self._read(rows, entries)
            yield [Kept(entry, found[entry.seq]) for entry in entries]

    async def _read(self, rows: Sequence[Any], entries: Sequence[ChainEntry]) -> dict[int, bytes]:
        """The artifacts by seq. Of each segment the part that holds them is read once, and one segment at a time."""
        by_segment: dict[str, list[tuple[int, ChainEntry]]] = {}
        for row, entry in zip(rows, entries, strict=True):
            if row["segment_id"] is None:
                raise EvidenceError(f"the artifact of entry {entry.seq} is not sealed yet")
            by_segment.setdefault(row["segment_id"], []).append((row["segment_offset"], entry))
        found: dict[int, bytes] = {}
        for segment_id, members in by_segment.items():
            start = min(offset for offset, _ in members)
            end = max(offset + entry.artifact_bytes for offset, entry in members)
            data = await read_part(self._worm, segment_id, start, end - start)
            for offset, entry in members:
                artifact = data[offset - start : offset - start + entry.artifact_bytes]
                if sha256_hex(artifact) != entry.artifact_sha256:
                    raise EvidenceError(f"the artifact of entry {entry.seq} does not match its hash")
                found[entry.seq] = artifact
        return found

    async def _rows(self, query: str, start: int, end: int) -> Sequence[Any]:
        async with self._pool.tenant_transaction([self._range.tenant_id]) as connection:
            rows: Sequence[Any] = await connection.fetch(query, self._range.tenant_id, start, end)
        for seq, row in enumerate(rows, start):
            if row["seq"] != seq:
                raise EvidenceError(f"entry {seq} is gone")
        if len(rows) != end - start + 1:
            raise EvidenceError(f"entry {start + len(rows)} is gone")
        return rows

    def _spans(self, entries: int) -> list[tuple[int, int]]:
        _, first, last = self._range
        return [(start, min(start + entries - 1, last)) for start in range(first, last + 1, entries)]


def _decoded(seq: int, text: str) -> ChainEntry:
    try:
        return _entry.decode(text)
    except msgspec.DecodeError:
        raise EvidenceError(f"entry {seq} is not what was chained") from None
