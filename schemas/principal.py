"""Who is asking: the meaning of a verified credential."""

from dataclasses import dataclass
from enum import StrEnum


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
