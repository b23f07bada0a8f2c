"""The header fields of the HTTP contract, in and out, as OpenAPI has them."""

from typing import Any

from schemas.ids import EVENT_ID, REQUEST_ID, SPAN_ID, TENANT_ID, TRACEPARENT, UUID7


def _in(name: str, description: str, pattern: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", "pattern": pattern},
    }


def _out(description: str, pattern: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", "pattern": pattern}}


_ANYTHING = "^[ -~]*$"
_REQUEST_ID = _in("X-Request-Id", "Comes back, in the receipt too; made here where absent", f"^{REQUEST_ID.pattern}$")
_TENANT_ID = _in("X-Tenant-Id", "Must be the tenant of the credential", f"^{TENANT_ID.pattern}$")
_SIGNED = [
    _in("Content-Digest", "sha-256 of the body (RFC 9530); part of a signed request", _ANYTHING),
    _in("Signature-Input", "What is signed (RFC 9421)", _ANYTHING),
    _in("Signature", "Ed25519, by a key of the agent (RFC 9421)", _ANYTHING),
]

READ_FIELDS = [_REQUEST_ID, _TENANT_ID]
BATCH_FIELDS = [*READ_FIELDS, *_SIGNED]
OFFER_FIELDS = [
    *BATCH_FIELDS,
    _in("X-Event-Id", "Must be the envelope's", f"^{EVENT_ID.pattern}$"),
    _in("X-Trace-Id", "Must be the envelope's", f"^{UUID7.pattern}$"),
    _in("traceparent", "W3C Trace Context; its trace id must be the envelope's", f"^{TRACEPARENT.pattern}$"),
    _in("Idempotency-Key", "Must be the envelope's event_id, in quotes or not", _ANYTHING),
    _in("Prefer", "`wait=N`: the decision instead of the receipt, if it comes within N <= 10 seconds", _ANYTHING),
]

ANSWER_FIELDS = {
    "X-Request-Id": _out("The request's id", f"^{REQUEST_ID.pattern}$"),
    "X-Tenant-Id": _out("The tenant of the credential", f"^{TENANT_ID.pattern}$"),
    "X-Event-Id": _out("The event's id, where it is sound", f"^{EVENT_ID.pattern}$"),
    "X-Trace-Id": _out("The event's trace, where it is sound", f"^{UUID7.pattern}$"),
    "X-Span-Id": _out("The span of this request", f"^{SPAN_ID.pattern}$"),
    "traceparent": _out("Trace and span as W3C Trace Context", f"^{TRACEPARENT.pattern}$"),
    "RateLimit-Policy": _out("Events at once, and seconds to earn them all", r'^"tenant";q=[0-9]+;w=[0-9]+$'),
    "RateLimit": _out("Events left, and seconds until all are", r'^"tenant";r=[0-9]+;t=[0-9]+$'),
    "Idempotency-Replayed": _out("There when this is the answer of an earlier request", "^true$"),
    "X-Retry-Budget-Remaining": _out("Tries left of an event that was offered again; advisory", "^[0-9]+$"),
    "Preference-Applied": _out("There when the answer waited for the decision", "^wait=[0-9]+$"),
    "Location": _out("Where the bundle will be", "^/v1/evidence/exports/[0-9a-f-]+$"),
    "Retry-After": _out("Seconds until the same event may pass", "^[1-9][0-9]*$"),
    "WWW-Authenticate": _out("The scheme of the credential", "^Bearer$"),
}
OF_A_LIMIT = ("RateLimit-Policy", "RateLimit")
OF_AN_EVENT = ("X-Tenant-Id", "X-Event-Id", "X-Trace-Id", "X-Span-Id", "traceparent", *OF_A_LIMIT)
OF_A_RECEIPT = (*OF_AN_EVENT, "Idempotency-Replayed", "X-Retry-Budget-Remaining")


def named(*names: str) -> dict[str, Any]:
    """References to fields of an answer; the request's id is in every one."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}
