"""Keeping evidence: each record sealed into a segment of the WORM store, then indexed.

The order is the promise: an index row exists only for bytes that lie in the store, signed. A crash
in between leaves a segment nobody refers to, and the next delivery seals the record again.
"""

from collections.abc import Sequence

import msgspec

from schemas.answers import Refusal
from schemas.canonical import sha256_hex
from schemas.codes import DeadReason
from schemas.evidence import ChainEntry, EvidenceEvent, artifact_id
from schemas.evidence import seal as seal_entry
from schemas.rows import ArtifactRow
from schemas.units import Clock
from sinks.artifacts import ArtifactIndex, ArtifactKey
from sinks.retention_plans import RetentionPlans
from sinks.segments import SealedInput, Segment, portions, seal
from sinks.signing import Signer
from sinks.worm import Worm


class _Traced(msgspec.Struct):
    """What a record knows of its spans; the bytes are canonical, as the whole record is."""

    spans: msgspec.Raw = msgspec.Raw(b"[]")


_entry = msgspec.json.Decoder(ChainEntry)
_traced = msgspec.json.Decoder(_Traced)


class EvidenceKeeper:
    """Seals and indexes the records of one events stream."""

    def __init__(self, worm: Worm, index: ArtifactIndex, plans: RetentionPlans, signer: Signer, clock: Clock) -> None:
        self._worm = worm
        self._index = index
        self._plans = plans
        self._signer = signer
        self._clock = clock

    async def ping(self) -> bool:
        """Whether the WORM store takes writes."""
        return await self._worm.ping()

    async def keep(self, partition: int, events: Sequence[EvidenceEvent]) -> None:
        """Return once every record is sealed and indexed; those indexed before are left as they are.

        Raises Refusal when an event's record or entry is not what its hash says, NoAnswer when a
        store is away: keeping again has the effect of once.
        """
        entries = {ArtifactKey(event.tenant_id, event.event_id, event.kind): _verified(event) for event in events}
        records = {ArtifactKey(e.tenant_id, e.event_id, e.kind): bytes(e.record) for e in events}
        missing = await self._index.missing(list(entries))
        inputs = [SealedInput(*key, entries[key].seq, records[key], entries[key].artifact_sha256) for key in missing]
        for retention_class, of_class in (await self._by_class(inputs)).items():
            retain_days = self._plans.days(retention_class)
            for portion in portions(of_class):
                segment = seal(self._signer, partition, retention_class, portion, self._clock.now_ms())
                await self._worm.put(segment.key, segment.data, retain_days=retain_days)
                await self._index.index(_rows(segment, entries, records))

    async def _by_class(self, inputs: Sequence[SealedInput]) -> dict[str, list[SealedInput]]:
        """The artifacts by the retention class of their tenants, each in the order given."""
        if not inputs:
            return {}
        classes = await self._plans.classes(sorted({each.tenant_id for each in inputs}))
        found: dict[str, list[SealedInput]] = {}
        for each in inputs:
            found.setdefault(classes[each.tenant_id], []).append(each)
        return found


def _verified(event: EvidenceEvent) -> ChainEntry:
    """The event's entry, once entry, record and hashes agree. Raises Refusal(INTEGRITY_MISMATCH)."""
    try:
        entry = _entry.decode(event.entry)
    except msgspec.MsgspecError:
        raise Refusal(DeadReason.INTEGRITY_MISMATCH) from None
    named = (event.tenant_id, event.seq, event.kind, event.event_id)
    agrees = (
        (entry.tenant_id, entry.seq, entry.kind, entry.event_id) == named
        and seal_entry(entry) == (bytes(event.entry), event.chain_hash)
        and sha256_hex(bytes(event.record)) == entry.artifact_sha256
    )
    if not agrees:
        raise Refusal(DeadReason.INTEGRITY_MISMATCH)
    return entry


def _rows(
    segment: Segment, entries: dict[ArtifactKey, ChainEntry], records: dict[ArtifactKey, bytes]
) -> list[ArtifactRow]:
    rows = []
    for placed in segment.placements:
        key = ArtifactKey(placed.tenant_id, placed.event_id, placed.artifact_class)
        entry = entries[key]
        rows.append(
            ArtifactRow(
                placed.tenant_id,
                placed.event_id,
                placed.artifact_class,
                artifact_id(entry.tenant_id, entry.ingest_ts, entry.event_id, placed.artifact_sha256),
                placed.artifact_sha256,
                placed.length,
                segment.segment_id,
                placed.offset,
                entry.seq,
                sha256_hex(bytes(_traced.decode(records[key]).spans)),
            )
        )
    return rows
