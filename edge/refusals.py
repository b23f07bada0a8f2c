"""Refusals as HTTP answers, and the headers by which a sender joins an answer to its event."""

import math

from edge.headers import traceparent
from edge.problem import Findings, finding, problem, retry_after_ms, status_of
from edge.transport import PROBLEM, Request, Response
from schemas.codes import Code


def correlation(
    tenant_id: str | None, event_id: str | None, trace_id: str | None, span_id: str, flags: str
) -> list[tuple[bytes, bytes]]:
    """The ids of the event as headers, as far as they are known and sound."""
    headers = [(b"x-span-id", span_id.encode())]
    if tenant_id is not None:
        headers.append((b"x-tenant-id", tenant_id.encode()))
    if event_id is not None:
        headers.append((b"x-event-id", event_id.encode()))
    if trace_id is not None:
        headers.append((b"x-trace-id", trace_id.encode()))
        headers.append((b"traceparent", traceparent(trace_id, span_id, flags).encode()))
    return headers


def refusal(
    request: Request, findings: Findings, trace_id: str | None = None, headers: list[tuple[bytes, bytes]] | None = None
) -> Response:
    """The answer to a refused request. A body announced as too large is not waited for."""
    code = findings[0].error_code
    all_headers = [] if headers is None else headers
    wait_ms = retry_after_ms(findings)
    if wait_ms is not None:
        all_headers.append((b"retry-after", b"%d" % math.ceil(wait_ms / 1000)))
    if code is Code.AUTHENTICATION_REQUIRED:
        all_headers.append((b"www-authenticate", b"Bearer"))
    body = problem(findings, request.request_id, trace_id)
    closes = code is Code.PAYLOAD_TOO_LARGE and request.unread
    return Response(status_of(findings), PROBLEM, body, all_headers, closes)


def not_found(request: Request) -> Response:
    """The one answer to whatever is not there or not the sender's."""
    return refusal(request, finding(Code.NOT_FOUND))
