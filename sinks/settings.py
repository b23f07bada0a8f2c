"""The sinks' slices of the settings."""

from dataclasses import dataclass
from pathlib import Path


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSettings:
    """Where sealed segments go and which key seals them."""

    worm_dir: Path
    signing_key_file: Path
