"""The OpenAPI 3.1 document, made of the published envelope, the wire types and the table of codes: it cannot drift."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from edge.limits_document import Limits
from edge.openapi_evidence import BUNDLE, BUNDLE_ID_IN_PATH, EXPORT_FIELDS
from edge.openapi_fields import (
    ANSWER_FIELDS,
    BATCH_FIELDS,
    OF_A_LIMIT,
    OF_A_RECEIPT,
    OFFER_FIELDS,
    READ_FIELDS,
    named,
)
from edge.problem import Problem, RefusedLine
from edge.reads import Ready
from edge.settings import EdgeSettings
from schemas.codes import TABLE, Code, Retry
from schemas.envelope import Receipt
from schemas.event_evidence import EventEvidence
from schemas.registry import PUBLISHED

OF_READS = frozenset({Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED, Code.EVIDENCE_UNVERIFIED})
OF_EVERY_REQUEST = (
    Code.MALFORMED_REQUEST,
    Code.REQUEST_ID_INVALID,
    Code.REQUEST_TIMEOUT,
    Code.LENGTH_REQUIRED,
    Code.HEADERS_TOO_LARGE,
)
OF_A_CREDENTIAL = (Code.AUTHENTICATION_REQUIRED, Code.SCOPE_DENIED, Code.TENANT_MISMATCH, Code.STORE_UNAVAILABLE)
OF_COORDINATION = (Code.RATE_LIMIT_BACKEND_UNAVAILABLE, Code.CIRCUIT_OPEN)
EVENT_ID_IN_PATH = {"name": "event_id", "in": "path", "required": True, "schema": {"type": "string"}}
REFERENCE = "#/components/schemas/{name}"


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


class Decided(msgspec.Struct, tag_field="status", tag="decided"):
    """What became of an event whose sender preferred to wait: its decision, and its place in the tenant's chain."""

    tenant_id: str
    event_id: str
    trace_id: str
    verdict: str
    policy_code: str
    policy_reasons: list[str]
    score: int
    decided_at: str
    chain_seq: int
    chain_hash: str


class Dead(msgspec.Struct, tag_field="status", tag="dead"):
    """An accepted event that could not be decided."""

    tenant_id: str
    event_id: str
    trace_id: str
    reason_code: Annotated[str, msgspec.Meta(description="Why it ended in the dead-letter queue")]


def openapi_document(settings: EdgeSettings) -> bytes:
    """The document as JSON; `settings` give the limits that are in the text."""
    types = (Receipt, Decided, Dead, AcceptedLine, RefusedLine, Problem, Limits, Ready, EventEvidence)
    _, schemas = msgspec.json.schema_components(types, ref_template=REFERENCE)
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
                "schemas": schemas | {"Envelope": _envelope(settings)},
                "headers": ANSWER_FIELDS,
                "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _envelope(settings: EdgeSettings) -> dict[str, Any]:
    """The published schema of the newest version that is read."""
    newest = max(settings.schema_versions, key=lambda version: [int(part) for part in version.split(".")])
    schema = dict(PUBLISHED[newest])
    if settings.integrity_required:
        schema["required"] = [*schema["required"], "integrity_hash"]
    return schema


def _paths(settings: EdgeSettings) -> dict[str, Any]:
    reads = (*OF_EVERY_REQUEST, *OF_A_CREDENTIAL)
    return {
        "/ingest": {"post": _single(settings)},
        "/ingest/batch": {"post": _batch(settings)},
        "/v1/events/{event_id}": {
            "get": _operation(
                "The whole life of one event",
                {"200": _answer("What became of it", "application/json", {"type": "object"})},
                (*reads, Code.NOT_FOUND, Code.RATE_LIMITED),
                [EVENT_ID_IN_PATH, *READ_FIELDS],
            ),
        },
        **_evidence(reads),
        "/v1/limits": {
            "get": _operation(
                "The limits in force for the sender's tenant",
                {"200": _answer("The limits", "application/json", _reference("Limits"))},
                (*reads, *OF_COORDINATION),
                READ_FIELDS,
            )
        },
        "/livez": {"get": _open("The process serves", {"200": _answer("Alive", "application/json", {})})},
        "/readyz": {
            "get": _open(
                "Whether this edge should get traffic",
                {
                    "200": _answer("Ready", "application/json", _reference("Ready")),
                    "503": _answer("Not ready, with the reasons", "application/json", _reference("Ready")),
                },
            )
        },
        "/openapi.json": {"get": _open("This document", {"200": _answer("OpenAPI 3.1", "application/json", {})})},
    }


def _evidence(reads: tuple[Code, ...]) -> dict[str, Any]:
    return {
        "/v1/evidence/{event_id}": {
            "get": _operation(
                "What proves one event: chain entries, artifacts, inclusion in signed checkpoints",
                {"200": _answer("The evidence", "application/json", _reference("EventEvidence"))},
                (*reads, Code.NOT_FOUND, Code.RATE_LIMITED, Code.EVIDENCE_UNVERIFIED),
                [EVENT_ID_IN_PATH, *READ_FIELDS],
            ),
        },
        "/v1/evidence/exports": {
            "post": _operation(
                "Order a bundle of the tenant's evidence",
                {"202": _answer("Ordered; see Location", "application/json", BUNDLE) | {"headers": named("Location")}},
                (*reads, Code.RATE_LIMITED),
                EXPORT_FIELDS,
            ),
        },
        "/v1/evidence/exports/{bundle_id}": {
            "get": _operation(
                "How a bundle stands",
                {"200": _answer("Pending, ready or failed", "application/json", BUNDLE)},
                (*reads, Code.NOT_FOUND, Code.RATE_LIMITED),
                [BUNDLE_ID_IN_PATH, *READ_FIELDS],
            ),
        },
        "/v1/evidence/exports/{bundle_id}/content": {
            "get": _operation(
                "A bundle that is ready (docs/evidence.md)",
                {"200": _answer("The archive", "application/x-tar", {})},
                (*reads, Code.NOT_FOUND, Code.RATE_LIMITED),
                [BUNDLE_ID_IN_PATH, *READ_FIELDS],
            ),
        },
    }


def _offers() -> tuple[Code, ...]:
    return tuple(code for code in Code if code not in OF_READS)


def _single(settings: EdgeSettings) -> dict[str, Any]:
    outcome = {"oneOf": [_reference("Decided"), _reference("Dead")]}
    waited = _answer("What became of it, in time for who prefers to wait", "application/json", outcome)
    stored = _answer("Stored durably, now or by an earlier request", "application/json", _reference("Receipt"))
    answers = {
        "200": waited | {"headers": named(*OF_A_RECEIPT, "Preference-Applied")},
        "202": stored | {"headers": named(*OF_A_RECEIPT)},
    }
    return _operation("Offer one event", answers, _offers(), OFFER_FIELDS, OF_A_RECEIPT) | _body(
        "application/json", _reference("Envelope"), f"At most {settings.body_bytes_max} bytes"
    )


def _batch(settings: EdgeSettings) -> dict[str, Any]:
    text = f"Up to {settings.batch_lines_max} envelopes, one a line, {settings.batch_bytes_max} bytes together"
    line = {"oneOf": [_reference("AcceptedLine"), _reference("RefusedLine")]}
    results = _answer("One result a line, in order", "application/x-ndjson", line)
    answers = {"200": results | {"headers": named("X-Tenant-Id", *OF_A_LIMIT)}}
    return _operation("Offer many events; one bad line harms no other", answers, _offers(), BATCH_FIELDS) | _body(
        "application/x-ndjson", _reference("Envelope"), text
    )


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(name=name)}


def _answer(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": named(), "content": {media_type: {"schema": schema}}}


def _body(media_type: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _open(summary: str, answers: dict[str, Any]) -> dict[str, Any]:
    return {"security": []} | _operation(summary, answers, OF_EVERY_REQUEST, READ_FIELDS[:1])


def _operation(
    summary: str,
    answers: dict[str, Any],
    codes: tuple[Code, ...],
    fields: Sequence[dict[str, Any]],
    told: tuple[str, ...] = (),
) -> dict[str, Any]:
    """An operation with its answers and a problem document for every status its codes have.

    `told` are the fields of an answer that a refusal may have too.
    """
    by_status: dict[int, list[Code]] = {}
    for code in codes:
        by_status.setdefault(TABLE[code].status, []).append(code)
    problems = {
        str(status): _answer(
            "\n".join(f"- `{code}`: {TABLE[code].title}" for code in members),
            "application/problem+json",
            _reference("Problem"),
        )
        | {"headers": named(*told, *_of_a_refusal(status, members))}
        for status, members in sorted(by_status.items())
    }
    return {"summary": summary, "parameters": list(fields), "responses": answers | problems}


def _of_a_refusal(status: int, codes: Sequence[Code]) -> list[str]:
    again = ["Retry-After"] if any(TABLE[code].retry is not Retry.NEVER for code in codes) else []
    return [*again, "WWW-Authenticate"] if status == 401 else again
