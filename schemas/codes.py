"""Every stable code an agent can meet, with its HTTP status and what to do about it.

The table has no default row: a code without a row is a programming error, and
`tests/unit/schemas/test_codes.py` holds both sides equal. Only this module may join a
code to a status.
"""

from enum import StrEnum
from typing import NamedTuple


class Code(StrEnum):
    TENANT_ID_REQUIRED = "TENANT_ID_REQUIRED"
    EVENT_ID_REQUIRED = "EVENT_ID_REQUIRED"
    TRACE_ID_REQUIRED = "TRACE_ID_REQUIRED"
    AGENT_ID_REQUIRED = "AGENT_ID_REQUIRED"
    SCHEMA_VERSION_REQUIRED = "SCHEMA_VERSION_REQUIRED"
    CREATED_AT_REQUIRED = "CREATED_AT_REQUIRED"
    SOURCE_REQUIRED = "SOURCE_REQUIRED"
    INTEGRITY_HASH_REQUIRED = "INTEGRITY_HASH_REQUIRED"
    PAYLOAD_REQUIRED = "PAYLOAD_REQUIRED"
    TENANT_ID_INVALID = "TENANT_ID_INVALID"
    EVENT_ID_INVALID = "EVENT_ID_INVALID"
    TRACE_ID_INVALID = "TRACE_ID_INVALID"
    AGENT_ID_INVALID = "AGENT_ID_INVALID"
    SCHEMA_VERSION_INVALID = "SCHEMA_VERSION_INVALID"
    CREATED_AT_INVALID = "CREATED_AT_INVALID"
    SOURCE_INVALID = "SOURCE_INVALID"
    INTEGRITY_HASH_INVALID = "INTEGRITY_HASH_INVALID"
    PAYLOAD_INVALID = "PAYLOAD_INVALID"
    REQUEST_ID_INVALID = "REQUEST_ID_INVALID"
    SCHEMA_VERSION_UNSUPPORTED = "SCHEMA_VERSION_UNSUPPORTED"
    INTEGRITY_HASH_MISMATCH = "INTEGRITY_HASH_MISMATCH"
    MALFORMED_JSON = "MALFORMED_JSON"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    JSON_TOO_DEEP = "JSON_TOO_DEEP"
    TRACE_ID_CONFLICT = "TRACE_ID_CONFLICT"
    EVENT_ID_CONFLICT = "EVENT_ID_CONFLICT"
    IDEMPOTENCY_KEY_CONFLICT = "IDEMPOTENCY_KEY_CONFLICT"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    AUTHENTICATION_REQUIRED = "AUTHENTICATION_REQUIRED"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    SIGNATURE_COMPONENTS_INVALID = "SIGNATURE_COMPONENTS_INVALID"
    REPLAY_DETECTED = "REPLAY_DETECTED"
    REPLAY_WINDOW_CLOSED = "REPLAY_WINDOW_CLOSED"
    TENANT_MISMATCH = "TENANT_MISMATCH"
    SCOPE_DENIED = "SCOPE_DENIED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    EVENT_IN_FLIGHT = "EVENT_IN_FLIGHT"
    EVENT_ID_PAYLOAD_MISMATCH = "EVENT_ID_PAYLOAD_MISMATCH"
    LENGTH_REQUIRED = "LENGTH_REQUIRED"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    INGEST_BACKPRESSURE_SHED = "INGEST_BACKPRESSURE_SHED"
    INGEST_BACKPRESSURE_HARDSTOP = "INGEST_BACKPRESSURE_HARDSTOP"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    RATE_LIMIT_BACKEND_UNAVAILABLE = "RATE_LIMIT_BACKEND_UNAVAILABLE"
    STREAM_UNAVAILABLE = "STREAM_UNAVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    DURABILITY_UNPROVEN = "DURABILITY_UNPROVEN"
    CLOCK_SKEW = "CLOCK_SKEW"
    EVIDENCE_UNVERIFIED = "EVIDENCE_UNVERIFIED"


class Retry(StrEnum):
    """What a sender should do with the same bytes."""

    NEVER = "never"
    SAME_BYTES = "same bytes"
    NEW_SIGNATURE = "same bytes under a new signature"


class Row(NamedTuple):
    status: int
    retry: Retry
    title: str


_NEVER, _SAME, _SIGN = Retry.NEVER, Retry.SAME_BYTES, Retry.NEW_SIGNATURE

TABLE: dict[Code, Row] = {
    Code.TENANT_ID_REQUIRED: Row(400, _NEVER, "the envelope names no tenant"),
    Code.EVENT_ID_REQUIRED: Row(400, _NEVER, "the envelope has no event_id"),
    Code.TRACE_ID_REQUIRED: Row(400, _NEVER, "the envelope has no trace_id"),
    Code.AGENT_ID_REQUIRED: Row(400, _NEVER, "the envelope has no agent_id"),
    Code.SCHEMA_VERSION_REQUIRED: Row(400, _NEVER, "the envelope has no schema_version"),
    Code.CREATED_AT_REQUIRED: Row(400, _NEVER, "the envelope has no created_at"),
    Code.SOURCE_REQUIRED: Row(400, _NEVER, "the envelope has no source"),
    Code.INTEGRITY_HASH_REQUIRED: Row(400, _NEVER, "integrity mode is on and the envelope has no integrity_hash"),
    Code.PAYLOAD_REQUIRED: Row(400, _NEVER, "the envelope has no payload"),
    Code.TENANT_ID_INVALID: Row(400, _NEVER, "tenant_id must be 1 to 63 letters, digits, '_' or '-'"),
    Code.EVENT_ID_INVALID: Row(400, _NEVER, "event_id must be 1 to 128 letters, digits, '.', '_', ':' or '-'"),
    Code.TRACE_ID_INVALID: Row(400, _NEVER, "trace_id must be a lower-case UUIDv7"),
    Code.AGENT_ID_INVALID: Row(400, _NEVER, "agent_id must be 1 to 128 letters, digits, '.', '_', ':' or '-'"),
    Code.SCHEMA_VERSION_INVALID: Row(400, _NEVER, "schema_version must be major.minor in plain digits"),
    Code.CREATED_AT_INVALID: Row(400, _NEVER, "created_at must be a recent RFC 3339 date-time with a zone"),
    Code.SOURCE_INVALID: Row(400, _NEVER, "source must be a string of 1 to 128 characters"),
    Code.INTEGRITY_HASH_INVALID: Row(400, _NEVER, "integrity_hash must be sha256: and 64 lower-case hex digits"),
    Code.PAYLOAD_INVALID: Row(
        400, _NEVER, "payload must be a JSON object of at most 64 KiB without NUL or huge numbers"
    ),
    Code.REQUEST_ID_INVALID: Row(400, _NEVER, "X-Request-Id must be 1 to 64 letters, digits, '.', '_', ':' or '-'"),
    Code.SCHEMA_VERSION_UNSUPPORTED: Row(400, _NEVER, "this schema_version is not accepted here"),
    Code.INTEGRITY_HASH_MISMATCH: Row(400, _NEVER, "integrity_hash does not match the envelope"),
    Code.MALFORMED_JSON: Row(400, _NEVER, "the body is not one JSON object in UTF-8"),
    Code.DUPLICATE_KEY: Row(400, _NEVER, "an object in the body has the same key twice"),
    Code.JSON_TOO_DEEP: Row(400, _NEVER, "the body has more than 32 levels, 2,000 nodes or 256 characters in a key"),
    Code.TRACE_ID_CONFLICT: Row(400, _NEVER, "the trace ids of headers and envelope differ"),
    Code.EVENT_ID_CONFLICT: Row(400, _NEVER, "X-Event-Id and the envelope's event_id differ"),
    Code.IDEMPOTENCY_KEY_CONFLICT: Row(400, _NEVER, "Idempotency-Key and the envelope's event_id differ"),
    Code.MALFORMED_REQUEST: Row(400, _NEVER, "the request is not well-formed HTTP for this endpoint"),
    Code.AUTHENTICATION_REQUIRED: Row(401, _NEVER, "a valid credential is required"),
    Code.SIGNATURE_INVALID: Row(401, _NEVER, "the request is not signed by a valid key of this agent"),
    Code.SIGNATURE_COMPONENTS_INVALID: Row(401, _NEVER, "the signature does not cover exactly what it must"),
    Code.REPLAY_DETECTED: Row(401, _SIGN, "this very signature was seen before; sign the same event again"),
    Code.REPLAY_WINDOW_CLOSED: Row(401, _SIGN, "the signature is too old, too new or older than the memory of replays"),
    Code.TENANT_MISMATCH: Row(403, _NEVER, "the credential belongs to another tenant or agent"),
    Code.SCOPE_DENIED: Row(403, _NEVER, "the credential lacks the scope for this endpoint"),
    Code.NOT_FOUND: Row(404, _NEVER, "nothing here"),
    Code.METHOD_NOT_ALLOWED: Row(405, _NEVER, "this path does not answer that method"),
    Code.REQUEST_TIMEOUT: Row(408, _SAME, "the request came too slowly; nothing was enqueued"),
    Code.EVENT_IN_FLIGHT: Row(409, _SAME, "the same event is being stored by another request"),
    Code.EVENT_ID_PAYLOAD_MISMATCH: Row(422, _NEVER, "this event_id is taken by another body"),
    Code.LENGTH_REQUIRED: Row(411, _NEVER, "Content-Length is required; Transfer-Encoding is not accepted"),
    Code.PAYLOAD_TOO_LARGE: Row(413, _NEVER, "the body is over the size limit"),
    Code.UNSUPPORTED_MEDIA_TYPE: Row(415, _NEVER, "the content type or content encoding is not accepted here"),
    Code.HEADERS_TOO_LARGE: Row(431, _NEVER, "too many header bytes or header fields"),
    Code.RATE_LIMITED: Row(429, _SAME, "the tenant's rate is used up; nothing was enqueued"),
    Code.QUOTA_EXCEEDED: Row(429, _SAME, "the tenant's events of this month are used up; nothing was enqueued"),
    Code.INGEST_BACKPRESSURE_SHED: Row(429, _SAME, "the tenant's queue is long; nothing was enqueued"),
    Code.INGEST_BACKPRESSURE_HARDSTOP: Row(503, _SAME, "the tenant's queue is full; nothing was enqueued"),
    Code.CIRCUIT_OPEN: Row(503, _SAME, "a dependency failed too often and is being spared; nothing was enqueued"),
    Code.RATE_LIMIT_BACKEND_UNAVAILABLE: Row(503, _SAME, "the coordination store did not answer; nothing was enqueued"),
    Code.STREAM_UNAVAILABLE: Row(503, _SAME, "the stream did not take the event; nothing was enqueued"),
    Code.STORE_UNAVAILABLE: Row(503, _SAME, "the database is needed for this request and did not answer"),
    Code.OUTCOME_UNKNOWN: Row(503, _SAME, "the event may or may not be stored; send the same event_id again"),
    Code.DURABILITY_UNPROVEN: Row(503, _SAME, "the stream's durability is not proven; nothing was enqueued"),
    Code.CLOCK_SKEW: Row(503, _SAME, "the clocks of this service disagree; nothing was enqueued"),
    Code.EVIDENCE_UNVERIFIED: Row(500, _NEVER, "the stored evidence is not what was signed; nothing of it is told"),
}


class PolicyCode(StrEnum):
    """How a decision was reached; only POLICY_ALLOW lets an event pass."""

    POLICY_ALLOW = "POLICY_ALLOW"
    POLICY_DENY = "POLICY_DENY"
    POLICY_NO_RULE_DENY = "POLICY_NO_RULE_DENY"
    POLICY_STALE_DENY = "POLICY_STALE_DENY"
    OPA_UNAVAILABLE_DENY = "OPA_UNAVAILABLE_DENY"


class DeadReason(StrEnum):
    """Why an accepted event ended in the dead-letter queue: a closed list."""

    RETRY_BUDGET_EXHAUSTED = "retry_budget_exhausted"
    SCHEMA_UNSUPPORTED = "schema_unsupported"
    INTEGRITY_MISMATCH = "integrity_mismatch"
    EVENT_ID_CONFLICT = "event_id_conflict"
    POLICY_ERROR = "policy_error"
    STORE_REFUSED = "store_refused"
    POISON = "poison"
