"""Every subject, stream and consumer name, spelled once.

A tenant's partition is `fnv1a32(tenant_id) % PARTITIONS`, the same function as the server's
`partition()` subject transform, so the edge computes it without asking. PARTITIONS is fixed for
the life of the data: changing it would reorder tenants.
"""

from dataclasses import dataclass
from functools import lru_cache

from schemas.ids import is_tenant_id

PARTITIONS = 16
STREAM_DECIDE = "FG_DECIDE"
STREAM_EVENTS = "FG_EVENTS"
STREAM_RETRY = "FG_RETRY"
STREAM_DLQ = "FG_DLQ"
STREAM_ADVISORIES = "FG_ADV"
SUBJECT_ROOTS = {
    STREAM_DECIDE: "fg.decide",
    STREAM_EVENTS: "fg.events",
    STREAM_DLQ: "fg.dlq",
}


def fnv1a32(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


@lru_cache(maxsize=65_536)
def partition_of(tenant_id: str) -> int:
    return fnv1a32(tenant_id) % PARTITIONS


def ingest_stream(shard: int) -> str:
    return f"FG_INGEST_{shard}"


@dataclass(frozen=True, slots=True)
class Lane:
    """Where one tenant's messages travel. Raises ValueError for anything but a tenant id."""

    tenant_id: str

    def __post_init__(self) -> None:
        if not is_tenant_id(self.tenant_id):
            raise ValueError("not a tenant id")

    @property
    def partition(self) -> int:
        return partition_of(self.tenant_id)

    @property
    def ingest(self) -> str:
        return f"fg.in.{self.partition}.{self.tenant_id}"

    @property
    def decide(self) -> str:
        return f"fg.decide.{self.partition}.{self.tenant_id}"

    @property
    def events(self) -> str:
        return f"fg.events.{self.partition}.{self.tenant_id}"

    @property
    def dlq(self) -> str:
        return f"fg.dlq.{self.partition}.{self.tenant_id}"


@lru_cache(maxsize=65_536)
def lane(tenant_id: str) -> Lane:
    """The lane of a tenant, remembered: it is asked for once per event."""
    return Lane(tenant_id)


def tenant_of(subject: str) -> str:
    """The tenant token of a four-token subject of ours. Raises ValueError for any other subject."""
    tokens = subject.split(".")
    if len(tokens) != 4 or tokens[0] != "fg" or not is_tenant_id(tokens[3]):
        raise ValueError("not a tenant subject")
    return tokens[3]


def consumer_name(stage: str, partition: int) -> str:
    return f"{stage}-p{partition:02d}"


def message_id(tenant_id: str, event_id: str) -> str:
    """The Nats-Msg-Id of an event. The slash is in neither alphabet, so two pairs never collide."""
    return f"{tenant_id}/{event_id}"
