"""The edge's slice of the settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Limits of admission. Bytes are of the HTTP body as sent; ages are of `created_at`."""

    integrity_required: bool
    event_age_ms_max: int
    created_at_future_ms_max: int = 5_000
    body_bytes_max: int = 80 * 1024
    payload_bytes_max: int = 64 * 1024
    batch_bytes_max: int = 4 * 1024 * 1024
    batch_lines_max: int = 1_000
    header_bytes_max: int = 16 * 1024
    header_count_max: int = 64
    json_depth_max: int = 32
    json_nodes_max: int = 2_000
    redis_timeout_ms: int = 50
    hint_ttl_ms: int = 30_000
    key_fresh_ms: int = 2_000
    """A verified API key is used without asking Postgres again for this long, so a revocation binds within it."""
    key_stale_ms_max: int = 900_000
    """With Postgres away, a key verified within this time stays valid (DESIGN section 3)."""
    schema_versions: tuple[str, ...] = ("1.0",)
    """Versions whose reader is present; a higher minor of the same major is accepted when it reads as one of them."""

    def faults(self) -> list[str]:
        found = []
        if self.event_age_ms_max <= 0:
            found.append("FG_DP_EVENT_MAX_AGE_SEC must be at least 1")
        if not 0 < self.payload_bytes_max <= self.body_bytes_max <= self.batch_bytes_max:
            found.append("payload, body and batch limits must be positive and ascending")
        return found
