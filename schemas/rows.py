"""What the stages hand to the sinks and get back: plain rows, so that neither package knows the other."""

from enum import StrEnum
from typing import NamedTuple

from schemas.envelope import DeadLetter, EventKey
from schemas.units import UnixMs


class Claim(NamedTuple):
    """One delivery asking to be the event: its identity, and the body to keep when it is."""

    key: EventKey
    agent_id: str
    source: str
    body: bytes


class ClaimOutcome(StrEnum):
    CLAIMED = "claimed"
    """New: the key and the body were stored in this transaction."""
    RESUMED = "resumed"
    """The same stored message as before: an earlier delivery stopped half-way."""
    DUPLICATE = "duplicate"
    """Another stored message with the same body."""
    CONFLICT = "conflict"
    """Another stored message with another body."""


class BuriedLetter(NamedTuple):
    """A dead letter, where it stands in FG_DLQ, and when the dlq stage saw it."""

    letter: DeadLetter
    seq: int
    seen_at_ms: UnixMs


class OutboxRow(NamedTuple):
    """A committed chain entry waiting to be published; `entry` and `record` are canonical JSON."""

    tenant_id: str
    seq: int
    kind: str
    event_id: str
    chain_hash: str
    entry: str
    record: str


class ArtifactRow(NamedTuple):
    """Where one artifact lies: byte `segment_offset` of the segment `segment_id`.

    `trace_hash` is the sha256 of its canonical list of spans.
    """

    tenant_id: str
    event_id: str
    artifact_class: str
    artifact_id: str
    artifact_sha256: str
    artifact_bytes: int
    segment_id: str
    segment_offset: int
    chain_seq: int
    trace_hash: str
