"""POST /ingest and POST /ingest/batch: bytes in, receipts or refusals out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from edge.admit import Admitted, Contract, Unfit
from edge.bodies import Bodies
from edge.gate import Gate, narrowed
from edge.headers import SAMPLED, conflicts, parent_trace, refused_body
from edge.ingest import Accepted, Ingest, Origin, Settled, Verdict
from edge.ports import EdgePorts, Nonce
from edge.problem import Findings, finding, refused_line, status_of
from edge.refusals import correlation, refusal
from edge.refused_events import RefusedEvents
from edge.settings import EdgeSettings
from edge.signature import SignatureCheck, Signed
from edge.standing import standing_headers
from edge.transport import JSON, NDJSON, Request, Response
from edge.waiting import DecisionWaits, prefer_wait_s
from edge.watch import Watch
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import receipt
from schemas.principal import Principal, Scope
from schemas.units import UnixMs

TURN_BYTES = 16 * 1024
TURN_LINES = 32
"""Of a batch, no more is checked or answered in one turn of the event loop; then others get theirs."""
RECEIPT_STATUS = b'{"status":"accepted",'
REPLAYED = (b"idempotency-replayed", b"true")
UNAUTHORIZED = 401


class _Sent(NamedTuple):
    """Who sent it, and the whole body."""

    sender: Principal
    body: bytes


class _Speaker(NamedTuple):
    """The sender as its signature narrows it, and the signature's nonce, None where it did not sign."""

    sender: Principal
    nonce: Nonce | None


class IngestEndpoints:
    """The two ways in. A handler returns None when the sender went away before it had sent everything."""

    def __init__(self, settings: EdgeSettings, ports: EdgePorts, gate: Gate) -> None:
        self._settings = settings
        self._ports = ports
        self._gate = gate
        self._contract = Contract(settings)
        self._signatures = SignatureCheck(ports.signatures, ports.clock, settings)
        self._ingest = Ingest(ports, settings)
        self._waits = DecisionWaits(ports.decisions)
        self._watch = Watch(ports, settings.tries_max)
        self._bodies = Bodies()
        self._refused_events = RefusedEvents(ports.clock)
        self._checking = asyncio.Lock()
        """Batches are checked one after the other, so that many of them delay a single event no longer than one."""

    async def single(self, request: Request) -> Response | None:
        """One envelope: its receipt with 202, its decision with 200 for who waits for it, or a problem document."""
        return await self._received(request, JSON, self._settings.body_bytes_max, self._single)

    async def batch(self, request: Request) -> Response | None:
        """Up to `batch_lines_max` envelopes, one a line: 200 with one result a line, in order."""
        return await self._received(request, NDJSON, self._settings.batch_bytes_max, self._batch)

    def stop(self) -> None:
        """Whoever waits for a decision gets its receipt, from now on at once."""
        self._waits.stop()

    async def _single(self, request: Request, sent: _Sent) -> Response:
        sender = sent.sender
        trace = parent_trace(request.fields)
        origin = Origin(request.request_id, self._ports.new_span_id(), SAMPLED if trace is None else trace[1])
        envelope = self._contract.admit(sent.body, self._ports.clock.now_ms())
        headers = correlation(
            sender.tenant_id, envelope.event_id, envelope.trace_id, origin.span_id, origin.trace_flags
        )
        settled = await self._settle(request, sent, envelope, origin)
        verdict: Verdict = settled.verdicts[0] if isinstance(settled, Settled) else settled
        break_glass = ""
        if isinstance(settled, Settled):
            headers += standing_headers(settled.standing)
            headers += self._watch.tried(sender, settled)
            break_glass = settled.standing.break_glass
        self._watch.took(request, sender, "total", 1)
        if not isinstance(verdict, Accepted):
            self._watch.refused(request, sender, verdict, envelope.event_id, envelope.trace_id)
            return refusal(request, verdict, envelope.trace_id, headers)
        self._watch.accepted(request, sender, verdict, break_glass)
        if verdict.replayed:
            headers.append(REPLAYED)
        return await self._answer(request, verdict, headers)

    async def _batch(self, request: Request, sent: _Sent) -> Response:
        speaker = await self._speaker(request, sent, batch=True)
        if not isinstance(speaker, _Speaker):
            return self._refuse(request, sent.sender, speaker)
        sender = speaker.sender
        lines = _lines(sent.body, self._settings.batch_lines_max)
        if isinstance(lines, Code):
            return self._refuse(request, sender, finding(lines))
        checked = await self._check(lines, sender)
        if not isinstance(checked, list):
            return self._refuse(request, sender, checked)
        events = [one for one in checked if isinstance(one, Admitted)]
        origin = Origin(request.request_id, self._ports.new_span_id(), SAMPLED)
        headers = [(b"x-tenant-id", sender.tenant_id.encode())]
        settled: Settled | Findings = ()
        if events:
            settled = await self._ingest.settle(events, sender, origin, speaker.nonce)
        if isinstance(settled, Settled):
            headers += standing_headers(settled.standing)
            headers += self._watch.tried(sender, settled)
        elif settled and status_of(settled) == UNAUTHORIZED:
            return self._refuse(request, sender, settled)
        verdicts = _merged(checked, settled)
        self._watch.took(request, sender, "batch", len(verdicts))
        self._watch.batch(request, sender, verdicts, settled)
        return Response(200, NDJSON, await _results(verdicts), headers)

    async def _settle(
        self, request: Request, sent: _Sent, envelope: Admitted | Unfit, origin: Origin
    ) -> Settled | Findings:
        """The contract's findings, the sender's right to speak for this tenant and agent, then the flow."""
        event = _fit(request, sent.sender, envelope)
        if not isinstance(event, Admitted):
            self._refused_events.add(sent.sender.tenant_id, 1)
            return event
        speaker = await self._speaker(request, sent, batch=False)
        if not isinstance(speaker, _Speaker):
            return speaker
        if speaker.sender.agent_id not in {None, event.agent_id}:
            self._refused_events.add(sent.sender.tenant_id, 1)
            return finding(Code.TENANT_MISMATCH, "agent_id")
        return await self._ingest.settle((event,), speaker.sender, origin, speaker.nonce)

    async def _speaker(self, request: Request, sent: _Sent, *, batch: bool) -> _Speaker | Findings:
        """Who speaks, once the signature was looked at."""
        try:
            signed = await self._signatures.verify(request, sent.body, sent.sender, method="POST", batch=batch)
        except NoAnswer as failure:
            return finding(failure.code)
        if signed is None:
            return _Speaker(sent.sender, None)
        sender = narrowed(sent.sender, signed.agent_id) if isinstance(signed, Signed) else None
        if isinstance(signed, Signed) and sender is not None:
            return _Speaker(sender, signed.nonce)
        self._refused_events.add(sent.sender.tenant_id, 1)  # a verification costs more than a contract
        return finding(Code.SIGNATURE_INVALID) if isinstance(signed, Signed) else signed

    async def _received(
        self,
        request: Request,
        media_type: bytes,
        bytes_max: int,
        handle: Callable[[Request, _Sent], Awaitable[Response]],
    ) -> Response | None:
        """The transport limits, the credential and room for the body, then the body, then `handle`."""
        code = refused_body(request.fields, media_type, bytes_max)
        sender = finding(code) if code is not None else await self._gate.sender(request, Scope.INGEST)
        if not isinstance(sender, Principal):
            return self._refuse(request, None, sender)
        unwelcome = self._unwelcome(sender)
        if unwelcome:
            return self._refuse(request, sender, unwelcome)
        with self._bodies.held(sender.tenant_id, int(request.fields[b"content-length"])) as held:
            if not held:
                return self._refuse(request, sender, finding(Code.RATE_LIMITED))
            body = await request.body()
            if body is None:
                return None
            try:
                return await handle(request, _Sent(sender, body))
            except asyncio.CancelledError:
                # Only the server cancels, what does not end in time when it stops: it may have been sent to the stream.
                return self._refuse(request, sender, finding(Code.OUTCOME_UNKNOWN))

    def _unwelcome(self, sender: Principal) -> Findings:
        """Why nothing of the sender's tenant is looked at now; empty when it is."""
        wait_ms = self._refused_events.wait_ms(sender.tenant_id)
        return finding(Code.RATE_LIMITED, retry_after_ms=wait_ms) if wait_ms else ()

    async def _answer(self, request: Request, accepted: Accepted, headers: list[tuple[bytes, bytes]]) -> Response:
        """The receipt, or the decision when the sender prefers to wait and it comes in time (RFC 7240)."""
        wait_s = prefer_wait_s(request.fields)
        if wait_s is not None:
            decision = await self._waits.wait(accepted.key.tenant_id, accepted.key.event_id, wait_s)
            if decision is not None:
                headers.append((b"preference-applied", b"wait=%d" % wait_s))
                return Response(200, JSON, decision, headers)
        return Response(202, JSON, receipt(accepted.key), headers)

    def _line(self, line: bytes, sender: Principal, now_ms: UnixMs) -> Admitted | Unfit:
        """The contract, then whether the sender may speak for this tenant and agent."""
        if len(line) > self._settings.body_bytes_max:
            return Unfit(finding(Code.PAYLOAD_TOO_LARGE), None, None)
        envelope = self._contract.admit(line, now_ms)
        if isinstance(envelope, Unfit):
            return envelope
        if envelope.tenant_id != sender.tenant_id:
            return Unfit(finding(Code.TENANT_MISMATCH, "tenant_id"), envelope.event_id, envelope.trace_id)
        if sender.agent_id not in {None, envelope.agent_id}:
            return Unfit(finding(Code.TENANT_MISMATCH, "agent_id"), envelope.event_id, envelope.trace_id)
        return envelope

    async def _check(self, lines: Sequence[bytes], sender: Principal) -> list[Admitted | Unfit] | Findings:
        """One item a line; findings when the sender's batches before this one had too much refused."""
        now_ms = self._ports.clock.now_ms()
        checked: list[Admitted | Unfit] = []
        turn_bytes = 0
        async with self._checking:
            unwelcome = self._unwelcome(sender)
            if unwelcome:
                return unwelcome
            for number, line in enumerate(lines, start=1):
                checked.append(self._line(line, sender, now_ms))
                turn_bytes += len(line)
                if turn_bytes > TURN_BYTES or number % TURN_LINES == 0:
                    turn_bytes = 0
                    await asyncio.sleep(0)
            self._refused_events.add(sender.tenant_id, sum(isinstance(one, Unfit) for one in checked))
        return checked

    def _refuse(self, request: Request, sender: Principal | None, findings: Findings) -> Response:
        """Refuse the request before any event was looked at."""
        self._watch.refused(request, sender, findings)
        return refusal(request, findings)


def _fit(request: Request, sender: Principal, envelope: Admitted | Unfit) -> Admitted | Findings:
    """The event, or the contract's findings, that of a foreign tenant, or where the headers disagree."""
    if isinstance(envelope, Unfit):
        return envelope.findings
    if envelope.tenant_id != sender.tenant_id:
        return finding(Code.TENANT_MISMATCH, "tenant_id")
    return tuple(conflicts(request.fields, envelope.trace_id, envelope.event_id)) or envelope


def _merged(checked: Sequence[Admitted | Unfit], settled: Settled | Findings) -> list[Verdict]:
    """One verdict a line: the contract's findings where there are any, else what became of the event."""
    if not isinstance(settled, Settled):
        return [settled if isinstance(one, Admitted) else one.findings for one in checked]
    verdicts = iter(settled.verdicts)
    return [next(verdicts) if isinstance(one, Admitted) else one.findings for one in checked]


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


async def _results(verdicts: Sequence[Verdict]) -> bytes:
    """The answer to a batch, one line a verdict."""
    results: list[bytes] = []
    for number, verdict in enumerate(verdicts, start=1):
        results.append(_result(number, verdict))
        if number % TURN_LINES == 0:
            await asyncio.sleep(0)
    return b"".join(results)


def _result(number: int, verdict: Verdict) -> bytes:
    """One line of the answer; the fields of a receipt are the very bytes of the single receipt."""
    if not isinstance(verdict, Accepted):
        return refused_line(number, verdict) + b"\n"
    fields = receipt(verdict.key)[len(RECEIPT_STATUS) : -1]
    replayed = b"true" if verdict.replayed else b"false"
    return b'{"line":%d,"status":202,%b,"replayed":%b}\n' % (number, fields, replayed)
