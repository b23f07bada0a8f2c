"""The OpenAPI 3.1 document, generated from the wire types and the table of codes, so that it cannot drift."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge.problem import Problem, RefusedLine
from edge.reads import Limits, Ready
from edge.settings import EdgeSettings
from schemas.codes import TABLE, Code
from schemas.envelope import Receipt
from schemas.ids import EVENT_ID, INTEGRITY_HASH, SCHEMA_VERSION, TENANT_ID, UUID7

OF_PATHS = frozenset({Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED})
OF_EVERY_REQUEST = (Code.MALFORMED_REQUEST, Code.REQUEST_ID_INVALID, Code.HEADERS_TOO_LARGE)
OF_A_CREDENTIAL = (Code.AUTHENTICATION_REQUIRED, Code.SCOPE_DENIED, Code.TENANT_MISMATCH, Code.STORE_UNAVAILABLE)
REFERENCE = "#/components/schemas/{name}"

_TenantId = Annotated[str, Meta(pattern=f"^{TENANT_ID.pattern}$")]
_EventId = Annotated[str, Meta(pattern=f"^{EVENT_ID.pattern}$")]
_TraceId = Annotated[str, Meta(pattern=f"^{UUID7.pattern}$", description="UUIDv7")]

_IntegrityHash = Annotated[
    str,
    Meta(
        pattern=f"^{INTEGRITY_HASH.pattern}$",
        description="sha256 over the RFC 8785 form of the envelope without this field",
    ),
]


class Envelope(msgspec.Struct):
    """What an agent sends. Unknown fields are kept; the same key twice anywhere is refused."""

    tenant_id: _TenantId
    event_id: Annotated[_EventId, Meta(description="Stable for the logical event: sending it again is safe")]
    trace_id: _TraceId
    agent_id: _EventId
    schema_version: Annotated[str, Meta(pattern=f"^{SCHEMA_VERSION.pattern}$")]
    created_at: Annotated[str, Meta(description="RFC 3339 with a zone", extra_json_schema={"format": "date-time"})]
    source: Annotated[str, Meta(min_length=1, max_length=128)]
    payload: Annotated[dict[str, Any], Meta(description="At most 64 KiB as sent; no NUL, no int of 2**53 or more")]
    integrity_hash: _IntegrityHash | None = None


class AcceptedLine(msgspec.Struct):
    """The result of an accepted line; from `tenant_id` to `body_sha256` the bytes of the single receipt."""

    line: int
    status: int
    tenant_id: str
    event_id: str
    trace_id: str
    request_id: str
    ingest_ts: str
    stream: str
    seq: int
    body_sha256: str
    replayed: bool


def openapi_document(settings: EdgeSettings) -> bytes:
    """The document as JSON; `settings` give the limits that are in the text."""
    types = (Envelope, Receipt, AcceptedLine, RefusedLine, Problem, Limits, Ready)
    _, schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)
    if settings.integrity_required:
        schemas["Envelope"]["required"].append("integrity_hash")
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "FrostGate ingest edge",
                "version": "1",
                "description": "A 2xx means stored durably. Every refusal means no effect, except OUTCOME_UNKNOWN.",
            },
            "security": [{"apiKey": []}],
            "paths": _paths(settings),
            "components": {
                "schemas": schemas,
                "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _paths(settings: EdgeSettings) -> dict[str, Any]:
    reads = (*OF_EVERY_REQUEST, *OF_A_CREDENTIAL)
    offers = tuple(code for code in Code if code not in OF_PATHS)
    batches = f"Up to {settings.batch_lines_max} envelopes, one a line, {settings.batch_bytes_max} bytes together"
    line = {"oneOf": [_reference("AcceptedLine"), _reference("RefusedLine")]}
    receipt = _answer("Stored durably, now or by an earlier request", "application/json", _reference("Receipt"))
    receipt["headers"] = {
        "Idempotency-Replayed": {"description": "true on a replay", "schema": {"type": "string", "const": "true"}}
    }
    return {
        "/ingest": {
            "post": _operation("Offer one event", {"202": receipt}, offers)
            | _body("application/json", _reference("Envelope"), f"At most {settings.body_bytes_max} bytes")
        },
        "/ingest/batch": {
            "post": _operation(
                "Offer many events; one bad line harms no other",
                {"200": _answer("One result a line, in order", "application/x-ndjson", line)},
                offers,
            )
            | _body("application/x-ndjson", _reference("Envelope"), batches)
        },
        "/v1/events/{event_id}": {
            "get": _operation(
                "The whole life of one event",
                {"200": _answer("What became of it", "application/json", {"type": "object"})},
                (*reads, Code.NOT_FOUND),
            )
            | {"parameters": [{"name": "event_id", "in": "path", "required": True, "schema": {"type": "string"}}]}
        },
        "/v1/limits": {
            "get": _operation(
                "The limits in force for the sender's tenant",
                {"200": _answer("The limits", "application/json", _reference("Limits"))},
                reads,
            )
        },
        "/livez": {"get": _open("The process serves", {"200": {"description": "Alive"}})},
        "/readyz": {
            "get": _open(
                "Whether this edge should get traffic",
                {
                    "200": _answer("Ready", "application/json", _reference("Ready")),
                    "503": _answer("Not ready, with the reasons", "application/json", _reference("Ready")),
                },
            )
        },
        "/openapi.json": {"get": _open("This document", {"200": {"description": "OpenAPI 3.1"}})},
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(name=name)}


def _answer(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _body(media_type: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _open(summary: str, answers: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": answers}


def _operation(summary: str, answers: dict[str, Any], codes: tuple[Code, ...]) -> dict[str, Any]:
    """An operation with its answers and a problem document for every status its codes have."""
    by_status: dict[int, list[Code]] = {}
    for code in codes:
        by_status.setdefault(TABLE[code].status, []).append(code)
    problems = {
        str(status): _answer(
            "\n".join(f"- `{code}`: {TABLE[code].title}" for code in members),
            "application/problem+json",
            _reference("Problem"),
        )
        for status, members in sorted(by_status.items())
    }
    return {"summary": summary, "responses": answers | problems}
