"""The sinks' slices of the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

SHARED_IN_TWOS_FROM = 8
PLAN_TIERS = ("free", "pro", "enterprise")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """One process's way to Postgres: its own role, its own budget of connections and time."""

    dsn: str
    pool_size: int
    statement_cache_size: int
    """0 is safe behind any PgBouncer; below PgBouncer 1.21 anything else fails (research, 100 of 180 transactions)."""
    acquire_timeout_ms: int = 1_000
    statement_timeout_ms: int = 5_000
    lock_timeout_ms: int = 2_000

    def faults(self) -> list[str]:
        return [] if self.pool_size > 0 else ["FG_POSTGRES_POOL_SIZE must be at least 1"]


class EdgeShares(NamedTuple):
    """How an edge's connections are shared out among its kinds of questions."""

    lookups: int
    limits: int
    credentials: int
    reads: int
    checks: int


def edge_shares(pool_size: int) -> EdgeShares:
    """One for the limits of tenants, one for the standing checks, what is left for the look-ups of ingest.

    Credentials and reads (lives and decisions) get two each, or one each of fewer than 8. None gets
    less than one, so an edge has at least 5.
    """
    each = 2 if pool_size >= SHARED_IN_TWOS_FROM else 1
    return EdgeShares(lookups=max(1, pool_size - 2 * each - 2), limits=1, credentials=each, reads=each, checks=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStore:
    """A bucket with Object Lock, `https://HOST/BUCKET`. Without a URL the evidence goes to a directory."""

    url: str
    region: str
    access_key_id: str
    secret_access_key: str

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).path.strip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSettings:
    """Where sealed evidence goes, which keys sign it, who watches, and how long each plan's evidence is locked."""

    worm_dir: Path
    worm_s3: ObjectStore
    signing_key_file: Path
    keyring_file: Path
    checkpoint_secret_file: Path
    witness_url: str
    witness_public_key_file: str
    reports_dir: Path
    retention_days_by_tier: tuple[tuple[str, int], ...]

    def faults(self) -> list[str]:
        found = []
        store = self.worm_s3
        if store.url and not (store.access_key_id and store.secret_access_key):
            found.append("FG_WORM_S3_ACCESS_KEY_ID and FG_WORM_S3_SECRET_ACCESS_KEY must be set with FG_WORM_S3_URL")
        if store.url and (not store.bucket or "/" in store.bucket):
            found.append("FG_WORM_S3_URL must name one bucket, as https://HOST/BUCKET")
        if bool(self.witness_url) != bool(self.witness_public_key_file):
            found.append("FG_WITNESS_URL and FG_WITNESS_PUBLIC_KEY_FILE must be set together")
        missing = [tier for tier in PLAN_TIERS if tier not in dict(self.retention_days_by_tier)]
        if missing:
            found.append(f"FG_DP_RETENTION_DAYS_TIER_JSON must name {', '.join(missing)}")
        return found
