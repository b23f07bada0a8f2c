"""The streams' slice of the settings."""

from dataclasses import dataclass

ACK_PENDING_MAX = 50_000
"""As nats.conf allows a consumer at most."""
TENANT_MESSAGES_MAX = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How to reach JetStream and what it must promise.

    `tenant_messages_max` is C: the broker refuses a tenant's message beyond it (DESIGN decision 6).
    """

    url: str
    system_url: str
    """A user of the system account that may ask for `/jsz` and `/varz`: the durability proof reads them."""
    replicas: int
    shards: int
    """Number of ingest streams: the node count (1 embedded, 3 clustered)."""
    tenant_messages_max: int
    duplicate_window_ms: int = 120_000
    publish_timeout_ms: int = 2_000
    batch_messages_max: int = 1_000
    batches_in_flight_max: int = 8
    """A stream takes 50 atomic batches at once over all publishers."""
    linger_ms: float = 1.0
    ack_wait_ms: int = 60_000
    """Only what is lost waits for it: after a crash the next owner starts again by itself (streams/pin.py)."""
    pull_messages: int = 256
    pull_bytes_max: int = 512 * 1024
    buffer_messages_max: int = 1_024
    """Of one consumer. After a crash everything buffered is suspect, so more would delay the next owner."""
    buffer_bytes_max: int = 96 * 1024 * 1024
    """Of all consumers of a process together."""
    message_bytes_max: int = 128 * 1024

    @property
    def ack_pending_max(self) -> int:
        """W = min(2C, 50,000): above C while C is below 50,000, so that one hot tenant cannot fill a window.

        With a larger C it can, and then its neighbours in the partition wait behind it.
        """
        return min(2 * self.tenant_messages_max, ACK_PENDING_MAX)

    def faults(self) -> list[str]:
        found = []
        if not 1 <= self.tenant_messages_max <= TENANT_MESSAGES_MAX:
            found.append(f"FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH must be at most {TENANT_MESSAGES_MAX}")
        if self.replicas not in {1, 3, 5}:
            found.append("FG_NATS_REPLICAS must be 1, 3 or 5")
        if not 1 <= self.shards <= 16:
            found.append("FG_NATS_SHARDS must lie between 1 and 16")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """An event's own budget of failures, and how long, how many and how fast events may end dead."""

    attempts_max: int
    window_seconds: int
    dlq_age_seconds_max: int
    dlq_alert_depth: int
    dlq_storm_ratio: float
