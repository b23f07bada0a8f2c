"""What the tests store: values of the shared types, complete but for what a test is about."""

import base64
import uuid

from schemas.decision import Contribution, DecisionRecord
from schemas.envelope import DeadLetter, EventKey
from schemas.rows import ArtifactRow, BuriedLetter, Claim
from schemas.units import UnixMs, parse_rfc3339

TRACE_ID = "0199d7a0-0000-7000-8000-000000000000"
INGEST_TS = "2026-01-31T23:59:59.120Z"
DECIDED_AT = "2026-01-31T23:59:59.370Z"
SEEN_AT = "2026-02-01T00:00:00.007Z"
SHA_A, SHA_B = "a" * 64, "b" * 64


def tenant_id() -> str:
    """A tenant nobody else uses."""
    return f"t-{uuid.uuid4().hex[:16]}"


def claim(
    tenant: str, event: str, seq: int, *, sha: str = SHA_A, body: bytes = b'{"k": 1}', ingest_ts: str = INGEST_TS
) -> Claim:
    key = EventKey(tenant, event, TRACE_ID, "req-1", ingest_ts, "FG_INGEST_0", seq, sha)
    return Claim(key, "agent-1", "unit/test", body)


def record(tenant: str, event: str, *, decided_at: str = DECIDED_AT, source: str = "unit/test") -> DecisionRecord:
    return DecisionRecord(
        v=1,
        tenant_id=tenant,
        event_id=event,
        trace_id=TRACE_ID,
        request_id="req-1",
        agent_id="agent-1",
        source=source,
        schema_version="1.0",
        created_at="2026-01-31T23:59:58Z",
        ingest_ts=INGEST_TS,
        decided_at=decided_at,
        stream="FG_INGEST_0",
        seq=7,
        body_sha256=SHA_A,
        body_bytes=300,
        verdict="deny",
        policy_code="POLICY_DENY",
        policy_reasons=('say "no"', "back\\slash, comma", "é"),
        policy_hash="p" * 64,
        config_hash="c" * 64,
        score=12,
        features={"has_secret": True, "name": "é\n"},
        contributions=(Contribution("has_secret", 12),),
    )


def letter(
    tenant: str, event: str, seq: int = 9, *, message: bytes = b'{"k": 1}', reason: str = "poison"
) -> BuriedLetter:
    """Of the message `seq`, in a letter with the same sequence."""
    encoded = base64.b64encode(message).decode()
    dead = DeadLetter(tenant, event, TRACE_ID, "req-1", reason, "decision", "FG_DECIDE", seq, encoded)
    return BuriedLetter(dead, seq, UnixMs(parse_rfc3339(SEEN_AT)))


def artifact(tenant: str, event: str, *, segment: str = "segment-1") -> ArtifactRow:
    return ArtifactRow(tenant, event, "decision", f"{tenant}/2026-01-31/{event}/x", SHA_B, 700, segment, 64, 1, SHA_A)
