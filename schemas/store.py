"""What the stages hand to the stores, and what the stores answer."""

from enum import StrEnum
from typing import NamedTuple

from schemas.envelope import DeadLetter, EventKey
from schemas.units import UnixMs


class Claim(NamedTuple):
    """A stored message that says it is the first of its event. `body` is the envelope as sent."""

    key: EventKey
    agent_id: str
    source: str
    body: bytes


class ClaimOutcome(StrEnum):
    """What the store knows about a claim once it has committed."""

    CLAIMED = "claimed"
    """The first message of its event: the key and the body are stored now."""
    RESUMED = "resumed"
    """This very message claimed the event before: a redelivery, whose work goes on."""
    DUPLICATE = "duplicate"
    """Another message with the same body was first."""
    CONFLICT = "conflict"
    """Another message with another body was first."""


class BuriedLetter(NamedTuple):
    """A dead letter and when it was taken from the queue."""

    letter: DeadLetter
    seen_at_ms: UnixMs


class OutboxRow(NamedTuple):
    """A chain entry on its way to the events stream. `entry` and `record` are canonical JSON."""

    tenant_id: str
    seq: int
    kind: str
    event_id: str
    chain_hash: str
    entry: bytes
    record: bytes


class ArtifactKey(NamedTuple):
    """What an artifact is of."""

    tenant_id: str
    event_id: str
    artifact_class: str


class ArtifactRow(NamedTuple):
    """Where a sealed artifact lies. `stored_at` is RFC 3339; `trace_hash` is None where no trace is bound."""

    key: ArtifactKey
    artifact_id: str
    artifact_sha256: str
    artifact_bytes: int
    segment_id: str
    segment_offset: int
    trace_hash: str | None
    chain_seq: int
    stored_at: str
