"""Who is asking: the meaning of a verified credential, and the keys agents sign with."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.units import UnixMs


class Scope(StrEnum):
    INGEST = "ingest"
    EVENTS_READ = "events:read"
    EVIDENCE_READ = "evidence:read"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified API key. `agent_id` None means any agent of the tenant."""

    key_id: str
    tenant_id: str
    agent_id: str | None
    scopes: frozenset[str]
    plan_tier: str


class SigningKey(NamedTuple):
    """An agent's Ed25519 key: 32 raw bytes. Times are Unix milliseconds, None where there is no bound."""

    key_id: str
    tenant_id: str
    agent_id: str
    public_key: bytes
    not_before_ms: UnixMs
    not_after_ms: UnixMs | None
    revoked_ms: UnixMs | None
