"""The proofs of one event, as `GET /v1/evidence/{event_id}` tells them (docs/evidence.md)."""

import msgspec

from schemas.checkpoint import Leaf


class Checkpoint(msgspec.Struct, frozen=True):
    """A line of `checkpoints.jsonl`: the leaf, and its way into its round's note."""

    index: int
    leaf: Leaf
    note: str
    path: tuple[str, ...]
    tree_size: int


class Inclusion(msgspec.Struct, frozen=True):
    """The way of leaf `index` to `root`, that of the tenant's tree of `size` leaves."""

    index: int
    size: int
    path: tuple[str, ...]
    root: str


class ProvenEntry(msgspec.Struct, frozen=True):
    """One entry. What is None is still being made: the artifact is sealed and the round signed within seconds."""

    entry: str
    chain_hash: str
    artifact: str | None
    inclusion: Inclusion | None
    checkpoint: Checkpoint | None


class EventEvidence(msgspec.Struct, frozen=True):
    """Everything that proves one event to somebody with the root key's fingerprint."""

    tenant_id: str
    event_id: str
    pending: bool
    entries: tuple[ProvenEntry, ...]
    tenant_key: str
    keyring: str
