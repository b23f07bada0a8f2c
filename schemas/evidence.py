"""The tamper-evident chain: one entry per decision or dead letter, linked per tenant.

`chain_hash = SHA256(0x00 || canonical entry)` is the link and the RFC 6962 Merkle leaf in one.
The genesis link binds the tenant, so a chain cannot be spliced from another tenant's.
"""

import hashlib
from enum import StrEnum

import msgspec

from schemas.canonical import canonical_plain


class EntryKind(StrEnum):
    DECISION = "decision"
    DEAD_LETTER = "dead_letter"
    REPLAY = "replay"
    BREAK_GLASS = "break_glass"
    KEY_ROTATION = "key_rotation"


class ChainEntry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One link. Strings and ints below 2**53 only, ASCII keys.

    `break_glass` is a member only of events accepted under an emergency override, so no other entry's hash knows of it.
    """

    v: int
    tenant_id: str
    seq: int
    kind: str
    event_id: str
    ingest_ts: str
    trace_id: str
    request_id: str
    policy_hash: str
    config_hash: str
    body_sha256: str
    body_bytes: int
    artifact_sha256: str
    artifact_bytes: int
    prev_hash: str
    break_glass: str = ""


class EvidenceEvent(msgspec.Struct, frozen=True, gc=False):
    """A message of FG_EVENTS: a chain entry, its hash, and the record the entry binds, all as canonical text."""

    tenant_id: str
    seq: int
    kind: str
    event_id: str
    chain_hash: str
    entry: msgspec.Raw
    record: msgspec.Raw


def genesis_hash(tenant_id: str) -> str:
    """The `prev_hash` of a tenant's first entry."""
    return hashlib.sha256(f"fg-chain-v1\n{tenant_id}\nmain".encode()).hexdigest()


def seal(entry: ChainEntry) -> tuple[bytes, str]:
    """Return the canonical bytes of the entry and its chain hash."""
    data = canonical_plain(entry)
    return data, hashlib.sha256(b"\x00" + data).hexdigest()


def artifact_id(tenant_id: str, ingest_ts: str, event_id: str, artifact_sha256: str) -> str:
    """`tenant/date/event/hash`: unique, deterministic, and no part can hold a slash."""
    return f"{tenant_id}/{ingest_ts[:10]}/{event_id}/{artifact_sha256}"
