"""The edge's slice of the settings."""

from dataclasses import dataclass

from schemas.registry import PUBLISHED


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
    signature_required: bool = False
    tries_max: int = 5
    """Tries of one event within `tries_window_ms` that an agent is told about; advisory."""
    tries_window_ms: int = 900_000

    def faults(self) -> list[str]:
        found = []
        if self.event_age_ms_max <= 0:
            found.append("FG_DP_EVENT_MAX_AGE_SEC must be at least 1")
        if not 0 < self.payload_bytes_max <= self.body_bytes_max <= self.batch_bytes_max:
            found.append("payload, body and batch limits must be positive and ascending")
        unpublished = [version for version in self.schema_versions if version not in PUBLISHED]
        if unpublished:
            found.append(f"FG_DP_SCHEMA_READERS names {', '.join(unpublished)}: published are {', '.join(PUBLISHED)}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSettings:
    """Ingest fairness, in events per second of one tenant."""

    rps_base: int
    rps_burst: int
    rps_by_tier: tuple[tuple[str, int], ...]
    events_per_month_by_tier: tuple[tuple[str, int], ...]
    """A tier that is not named has no such quota."""
    latency_p95_ms_hard: int
    """Above it, the tenants that cause it are throttled."""

    def faults(self) -> list[str]:
        ordered = self.rps_base <= self.rps_burst
        return [] if ordered else ["FG_DP_INGEST_RPS_BURST must be at least FG_DP_INGEST_RPS_BASE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Thresholds of one tenant's queue depth, in messages."""

    depth_warn: int
    depth_shed: int
    depth_hardstop: int
    key_template: str

    def faults(self) -> list[str]:
        ordered = 0 < self.depth_warn < self.depth_shed < self.depth_hardstop
        names = ("WARN", "SHED", "HARDSTOP")
        ascending = " < ".join(f"FG_DP_REDIS_QUEUE_{name}_DEPTH" for name in names)
        return [] if ordered else [f"the queue depths must ascend: 0 < {ascending}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a circuit opens and how it is tried again."""

    error_rate_threshold: float
    latency_p95_ms: int
    open_seconds: int
    half_open_probes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Paths of PEM files, empty where there is none; with a client CA every client must show a certificate of it."""

    cert_file: str
    key_file: str
    client_ca_file: str
    trust_domain: str
    """Of the client certificates' names: spiffe://<trust_domain>/tenant/<tenant>/agent/<agent>."""

    @property
    def served(self) -> bool:
        return bool(self.cert_file)

    def faults(self) -> list[str]:
        found = []
        if bool(self.cert_file) != bool(self.key_file):
            found.append("FG_TLS_CERT_FILE and FG_TLS_KEY_FILE must be set together")
        if self.client_ca_file and not self.cert_file:
            found.append("FG_TLS_CLIENT_CA_FILE needs FG_TLS_CERT_FILE")
        if self.client_ca_file and not self.trust_domain:
            found.append("FG_TLS_CLIENT_CA_FILE needs FG_TLS_TRUST_DOMAIN")
        return found
