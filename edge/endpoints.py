"""POST /ingest and POST /ingest/batch: bytes in, receipts or refusals out."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from edge.admit import Admitted, Contract, Unfit
from edge.gate import Gate
from edge.headers import SAMPLED, conflicts, parent_trace, refused_body
from edge.ingest import Accepted, Ingest, Origin, Verdict
from edge.ports import EdgePorts
from edge.problem import Findings, finding, refused_line
from edge.refusals import correlation, refusal
from edge.settings import EdgeSettings
from edge.transport import JSON, NDJSON, Request, Response
from edge.watch import Watch
from schemas.codes import Code
from schemas.envelope import receipt
from schemas.principal import Principal, Scope
from schemas.units import UnixMs

TURN_BYTES = 16 * 1024
"""Of a batch, so much is checked in one turn of the event loop; then others get theirs."""
RECEIPT_STATUS = b'{"status":"accepted",'
REPLAYED = (b"idempotency-replayed", b"true")


class _Sent(NamedTuple):
    """Who sent it, and the whole body."""

    sender: Principal
    body: bytes


class IngestEndpoints:
    """The two ways in. A handler returns None when the sender went away before it had sent everything."""

    def __init__(self, settings: EdgeSettings, ports: EdgePorts, gate: Gate) -> None:
        self._settings = settings
        self._ports = ports
        self._gate = gate
        self._contract = Contract(settings)
        self._ingest = Ingest(ports)
        self._watch = Watch(ports.meter)
        self._checking = asyncio.Lock()
        """Batches are checked one after the other, so that many of them delay a single event no longer than one."""

    async def single(self, request: Request) -> Response | None:
        """One envelope: its receipt with 202, or a problem document."""
        sent = await self._receive(request, JSON, self._settings.body_bytes_max)
        if not isinstance(sent, _Sent):
            return sent
        sender = sent.sender
        trace = parent_trace(request.fields)
        origin = Origin(request.request_id, self._ports.new_span_id(), SAMPLED if trace is None else trace[1])
        envelope = self._admit(sent.body, sender, self._ports.clock.now_ms())
        if isinstance(envelope, Admitted):
            disagreements = tuple(conflicts(request.fields, envelope.trace_id, envelope.event_id))
            verdict = disagreements or (await self._ingest.settle((envelope,), origin))[0]
        else:
            verdict = envelope.findings
        headers = correlation(
            sender.tenant_id, envelope.event_id, envelope.trace_id, origin.span_id, origin.trace_flags
        )
        self._watch.took(request, sender, "total")
        if not isinstance(verdict, Accepted):
            self._watch.refused(request, sender, verdict, envelope.event_id, envelope.trace_id)
            return refusal(request, verdict, envelope.trace_id, headers)
        self._watch.accepted(sender, verdict)
        if verdict.replayed:
            headers.append(REPLAYED)
        return Response(202, JSON, receipt(verdict.key), headers)

    async def batch(self, request: Request) -> Response | None:
        """Up to `batch_lines_max` envelopes, one a line: 200 with one result a line, in order."""
        sent = await self._receive(request, NDJSON, self._settings.batch_bytes_max)
        if not isinstance(sent, _Sent):
            return sent
        lines = _lines(sent.body, self._settings.batch_lines_max)
        if isinstance(lines, Code):
            return self._refuse(request, sent.sender, finding(lines))
        checked = await self._check(lines, sent.sender)
        events = [one for one in checked if isinstance(one, Admitted)]
        origin = Origin(request.request_id, self._ports.new_span_id(), SAMPLED)
        settled = iter(await self._ingest.settle(events, origin) if events else ())
        verdicts = [next(settled) if isinstance(one, Admitted) else one.findings for one in checked]
        self._watch.took(request, sent.sender, "batch")
        self._watch.batch(request, sent.sender, verdicts)
        body = b"".join(_result(number, verdict) for number, verdict in enumerate(verdicts, start=1))
        return Response(200, NDJSON, body, [(b"x-tenant-id", sent.sender.tenant_id.encode())])

    async def _receive(self, request: Request, media_type: bytes, bytes_max: int) -> _Sent | Response | None:
        """The transport limits and the credential, then the body."""
        code = refused_body(request.fields, media_type, bytes_max)
        sender = finding(code) if code is not None else await self._gate.sender(request, Scope.INGEST)
        if not isinstance(sender, Principal):
            return self._refuse(request, None, sender)
        body = await request.body()
        return None if body is None else _Sent(sender, body)

    def _admit(self, body: bytes, sender: Principal, now_ms: UnixMs) -> Admitted | Unfit:
        """The contract, then whether the sender may speak for this tenant and agent."""
        envelope = self._contract.admit(body, now_ms)
        if isinstance(envelope, Unfit):
            return envelope
        if envelope.tenant_id != sender.tenant_id:
            return Unfit(finding(Code.TENANT_MISMATCH, "tenant_id"), envelope.event_id, envelope.trace_id)
        if sender.agent_id is not None and envelope.agent_id != sender.agent_id:
            return Unfit(finding(Code.TENANT_MISMATCH, "agent_id"), envelope.event_id, envelope.trace_id)
        return envelope

    async def _check(self, lines: Sequence[bytes], sender: Principal) -> list[Admitted | Unfit]:
        now_ms = self._ports.clock.now_ms()
        checked: list[Admitted | Unfit] = []
        turn_bytes = 0
        async with self._checking:
            for line in lines:
                if len(line) > self._settings.body_bytes_max:
                    checked.append(Unfit(finding(Code.PAYLOAD_TOO_LARGE), None, None))
                else:
                    checked.append(self._admit(line, sender, now_ms))
                turn_bytes += len(line)
                if turn_bytes > TURN_BYTES:
                    turn_bytes = 0
                    await asyncio.sleep(0)
        return checked

    def _refuse(self, request: Request, sender: Principal | None, findings: Findings) -> Response:
        """Refuse the request before any event was looked at."""
        self._watch.refused(request, sender, findings)
        return refusal(request, findings)


def _lines(body: bytes, lines_max: int) -> list[bytes] | Code:
    """The lines of a batch. What follows the last line's end is no line if it is blank."""
    if body.count(b"\n") > lines_max:
        return Code.PAYLOAD_TOO_LARGE
    lines = body.split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    if not lines:
        return Code.MALFORMED_REQUEST
    return lines if len(lines) <= lines_max else Code.PAYLOAD_TOO_LARGE


def _result(number: int, verdict: Verdict) -> bytes:
    """One line of the answer; the fields of a receipt are the very bytes of the single receipt."""
    if not isinstance(verdict, Accepted):
        return refused_line(number, verdict) + b"\n"
    fields = receipt(verdict.key)[len(RECEIPT_STATUS) : -1]
    replayed = b"true" if verdict.replayed else b"false"
    return b'{"line":%d,"status":202,%b,"replayed":%b}\n' % (number, fields, replayed)
