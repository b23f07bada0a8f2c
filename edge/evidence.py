"""What proves events to somebody who trusts nobody here: single ones, and whole chains as bundles."""

import re
from urllib.parse import parse_qsl, unquote_to_bytes

from edge.gate import Gate
from edge.ports import EdgePorts
from edge.problem import Findings, finding
from edge.refusals import not_found, refusal
from edge.transport import JSON, Pieces, Request, Response
from edge.turns import TenantTurns
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.ids import is_event_id
from schemas.principal import Principal, Scope
from schemas.units import format_rfc3339, parse_rfc3339

EVIDENCE_PREFIX = b"/v1/evidence/"
EXPORTS = b"/v1/evidence/exports"
CONTENT = b"/content"
TAR = b"application/x-tar"
QUERY_FIELDS_MAX = 3
_BUNDLE_ID = re.compile(r"[0-9a-f][0-9a-f-]{0,63}", re.ASCII)
READS_AT_ONCE = 1
"""Of one tenant at one edge."""


class EvidenceEndpoints:
    """The proofs of single events."""

    def __init__(self, ports: EdgePorts, gate: Gate) -> None:
        self._evidence = ports.evidence
        self._gate = gate
        self._turns = TenantTurns(READS_AT_ONCE)

    async def event(self, request: Request) -> Response:
        """The entries of one event with their artifacts and proofs. Foreign and unknown ids are answered alike."""
        sender = await self._gate.sender(request, Scope.EVIDENCE_READ)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        event_id = unquote_to_bytes(request.path[len(EVIDENCE_PREFIX) :]).decode("latin-1")
        if not is_event_id(event_id):
            return not_found(request)
        try:
            async with self._turns.of(sender.tenant_id).one():
                found = await self._evidence.evidence_of(sender.tenant_id, event_id, sender.agent_id)
        except NoAnswer as failure:
            return refusal(request, finding(failure.code))
        return not_found(request) if found is None else Response(200, JSON, found)


class ExportEndpoints:
    """Bundles: `POST` orders one, and it is fetched when a worker has built it.

    A bundle holds the evidence of all of a tenant's agents, so a key of one agent gets none.
    """

    def __init__(self, ports: EdgePorts, gate: Gate) -> None:
        self._exports = ports.exports
        self._new_bundle_id = ports.new_request_id
        self._gate = gate
        self._turns = TenantTurns(READS_AT_ONCE)

    async def order(self, request: Request) -> Response:
        """202 once the order is committed."""
        sender = await self._sender(request)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        wanted = _wanted(request.query)
        if wanted is None:
            return refusal(request, finding(Code.MALFORMED_REQUEST))
        bundle_id = self._new_bundle_id()
        try:
            async with self._turns.of(sender.tenant_id).one():
                wait_ms = await self._exports.order(sender.tenant_id, bundle_id, wanted, sender.key_id)
                status = None if wait_ms else await self._exports.status(sender.tenant_id, bundle_id)
        except NoAnswer as failure:
            return refusal(request, finding(failure.code))
        if status is None:
            return refusal(request, finding(Code.RATE_LIMITED, retry_after_ms=wait_ms))
        location = EXPORTS + b"/" + bundle_id.encode()
        return Response(202, JSON, status, [(b"location", location)])

    async def status(self, request: Request) -> Response:
        """How a bundle stands. Foreign and unknown ids are answered alike."""
        sender = await self._sender(request)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        bundle_id = _bundle_id(request.path)
        try:
            async with self._turns.of(sender.tenant_id).one():
                found = await self._exports.status(sender.tenant_id, bundle_id) if bundle_id else None
        except NoAnswer as failure:
            return refusal(request, finding(failure.code))
        return not_found(request) if found is None else Response(200, JSON, found)

    async def content(self, request: Request) -> Response:
        """The bundle itself, once it is ready."""
        sender = await self._sender(request)
        if not isinstance(sender, Principal):
            return refusal(request, sender)
        bundle_id = _bundle_id(request.path.removesuffix(CONTENT))
        try:
            async with self._turns.of(sender.tenant_id).one():
                found = await self._exports.content(sender.tenant_id, bundle_id) if bundle_id else None
        except NoAnswer as failure:
            return refusal(request, finding(failure.code))
        return not_found(request) if found is None else Response(200, TAR, b"", pieces=Pieces(*found))

    async def _sender(self, request: Request) -> Principal | Findings:
        sender = await self._gate.sender(request, Scope.EVIDENCE_READ)
        if isinstance(sender, Principal) and sender.agent_id is not None:
            return finding(Code.SCOPE_DENIED)
        return sender


def _bundle_id(path: bytes) -> str:
    """The id at the end of the path, empty where there is none."""
    found = _BUNDLE_ID.fullmatch(path[len(EXPORTS) + 1 :].decode("latin-1"))
    return "" if found is None else found[0]


def _wanted(query: bytes) -> tuple[str, str, bool] | None:
    """From, to, and whether with traces; None for a query that asks for anything else."""
    try:
        text = query.decode("ascii")
        fields = (
            parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=QUERY_FIELDS_MAX)
            if text
            else []
        )
        named = dict(fields)
        bounds = [format_rfc3339(parse_rfc3339(named.pop(name))) if name in named else "" for name in ("from", "to")]
    except (ValueError, OverflowError):
        return None
    include_trace = named.pop("include_trace", "false")
    if named or len(fields) != len(dict(fields)) or include_trace not in {"true", "false"}:
        return None
    return bounds[0], bounds[1], include_trace == "true"
