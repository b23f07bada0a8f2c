"""The ingest edge as an ASGI application: every request through the same head checks to one handler.

For uvicorn with httptools, which refuses ambiguous framing itself. Serve it with `lifespan="off"`:
whoever builds it opens and closes its ports.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from edge.authenticate import Authenticator
from edge.client_certificate import shown_uris
from edge.connection import refusal_bytes
from edge.endpoints import IngestEndpoints
from edge.evidence import CONTENT, EVIDENCE_PREFIX, EXPORTS, EvidenceEndpoints, ExportEndpoints
from edge.gate import Gate
from edge.headers import read_fields
from edge.openapi import openapi_document
from edge.ports import EdgePorts
from edge.problem import Findings, finding, status_of
from edge.reads import EVENTS_PREFIX, ReadEndpoints
from edge.refusals import not_found, refusal
from edge.settings import EdgeSettings
from edge.transport import Fields, Receive, Request, Response, Scope, Send, respond
from edge.watch import NOBODY
from schemas.codes import Code
from schemas.ids import REQUEST_ID
from schemas.metrics import INGEST_REJECTED

log = logging.getLogger("edge")


class Route(NamedTuple):
    """One path: its template, its only method, its handler."""

    template: str
    method: str
    handler: Callable[[Request], Awaitable[Response | None]]


class EdgeApp:
    """Build one per process and event loop."""

    def __init__(self, settings: EdgeSettings, ports: EdgePorts) -> None:
        self._settings = settings
        self._new_request_id = ports.new_request_id
        self._meter = ports.meter
        gate = Gate(Authenticator(ports.credentials, ports.clock, settings), ports.tls)
        ingest = IngestEndpoints(settings, ports, gate)
        reads = ReadEndpoints(settings, ports, gate, openapi_document(settings))
        self.stop = ingest.stop
        """To be called when the server begins to stop: requests that only wait are then answered at once."""
        evidence = EvidenceEndpoints(ports, gate)
        self._event = Route("/v1/events/{event_id}", "GET", reads.event)
        self._evidence = Route("/v1/evidence/{event_id}", "GET", evidence.event)
        exports = ExportEndpoints(ports, gate)
        self._export = Route("/v1/evidence/exports/{bundle_id}", "GET", exports.status)
        self._content = Route("/v1/evidence/exports/{bundle_id}/content", "GET", exports.content)
        self._routes: Mapping[bytes, Route] = {
            route.template.encode(): route
            for route in (
                Route("/ingest", "POST", ingest.single),
                Route("/ingest/batch", "POST", ingest.batch),
                Route("/v1/evidence/exports", "POST", exports.order),
                Route("/v1/limits", "GET", reads.limits),
                Route("/openapi.json", "GET", reads.openapi),
                Route("/livez", "GET", reads.livez),
                Route("/readyz", "GET", reads.readyz),
            )
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Nothing is sent to a sender that went away before the end of its body."""
        assert scope["type"] == "http", "serve with lifespan off and without websockets"
        started_s = time.perf_counter()
        path: bytes = scope["raw_path"]
        query: bytes = scope.get("query_string", b"")
        route = self._route(path)
        template = "" if route is None else route.template
        head = self._head(scope)
        if not isinstance(head, _Head):
            fields = dict(scope["headers"])
            request = Request(template, path, query, self._new_request_id(), fields, receive, started_s)
            await respond(request, refusal(request, head), send)
            return
        request = Request(template, path, query, head.request_id, head.fields, receive, started_s, shown_uris(scope))
        response = await _handle(route, request, scope["method"])
        if response is not None:
            await respond(request, response, send)

    def refused_unread(self, code: Code) -> bytes:
        """The whole response to a request that could not be read to its end (`edge/protocol.py`)."""
        request_id = self._new_request_id()
        self._meter.add(INGEST_REJECTED, 1, NOBODY, code.lower())
        line = {"request_id": request_id, "status_code": status_of(finding(code)), "error_code": code.value}
        log.info("refused while reading", extra=line)
        return refusal_bytes(code, request_id)

    def _route(self, path: bytes) -> Route | None:
        route = self._routes.get(path)
        if route is None and path.startswith(EVENTS_PREFIX):
            return self._event
        if route is None and path.startswith(EXPORTS + b"/"):
            return self._content if path.endswith(CONTENT) else self._export
        if route is None and path.startswith(EVIDENCE_PREFIX):
            return self._evidence
        return route

    def _head(self, scope: Scope) -> "_Head | Findings":
        fields = read_fields(scope["headers"], self._settings)
        if isinstance(fields, Code):
            return finding(fields)
        named = fields.get(b"x-request-id")
        if named is None:
            return _Head(fields, self._new_request_id())
        request_id = named.decode()
        if REQUEST_ID.fullmatch(request_id) is None:
            return finding(Code.REQUEST_ID_INVALID, "X-Request-Id")
        return _Head(fields, request_id)


class _Head(NamedTuple):
    fields: Fields
    request_id: str


async def _handle(route: Route | None, request: Request, method: str) -> Response | None:
    if route is None:
        return not_found(request)
    if method != route.method:
        return refusal(request, finding(Code.METHOD_NOT_ALLOWED), headers=[(b"allow", route.method.encode())])
    return await route.handler(request)
