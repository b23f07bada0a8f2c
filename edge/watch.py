"""What is measured and logged about every offered event. Never what was sent, never a key."""

import logging
import time
from collections import Counter
from collections.abc import Iterable

from edge.ingest import Accepted, Settled, Verdict
from edge.ports import EdgePorts
from edge.problem import Findings, status_of
from edge.transport import Request
from schemas.codes import Code
from schemas.metrics import (
    BREAK_GLASS_EVENTS,
    INGEST_LATENCY_MS,
    INGEST_REJECTED,
    INGEST_REQUESTS,
    RETRY_BUDGET_REMAINING,
)
from schemas.principal import Principal

log = logging.getLogger("edge")

NOBODY = "_other"
"""The tenant and plan of a request without a valid credential; not a legal tenant id."""
DEPTH_CODES = frozenset({Code.INGEST_BACKPRESSURE_SHED, Code.INGEST_BACKPRESSURE_HARDSTOP})
REASONS = {
    Code.RATE_LIMITED: "rate_limit",
    Code.INGEST_BACKPRESSURE_HARDSTOP: "queue_hardstop",
    Code.CIRCUIT_OPEN: "cb_open",
}
"""The specification's words for these three (phase 2.1 B)."""


class Watch:
    """Counts and logs on behalf of the endpoints."""

    def __init__(self, ports: EdgePorts, tries_max: int) -> None:
        self._meter = ports.meter
        self._throttle = ports.throttle
        self._depths = ports.depths
        self._tries_max = tries_max

    def accepted(self, request: Request, sender: Principal, accepted: Accepted, break_glass: str) -> None:
        outcome = "replayed" if accepted.replayed else "accepted"
        self._meter.add(INGEST_REQUESTS, 1, sender.tenant_id, sender.plan_tier, outcome)
        if break_glass and not accepted.replayed:
            self._broken_glass(request, sender, break_glass, 1)

    def tried(self, sender: Principal, settled: Settled) -> list[tuple[bytes, bytes]]:
        """The header that tells a sender how many tries its event has left, where it is known to be tried again.

        Of a batch, those of the event that has the fewest.
        """
        tries = max(settled.tries.values(), default=0)
        if not tries:
            return []
        remaining = max(0, self._tries_max - tries)
        event_class = "stored" if all(isinstance(one, Accepted) for one in settled.verdicts) else "refused"
        self._meter.add(RETRY_BUDGET_REMAINING, remaining, sender.tenant_id, event_class)
        return [(b"x-retry-budget-remaining", b"%d" % remaining)]

    def refused(
        self,
        request: Request,
        sender: Principal | None,
        findings: Findings,
        event_id: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        """One event or one whole request was refused."""
        self._count_refused(sender, findings[0].error_code, 1)
        ids = {"event_id": event_id, "trace_id": trace_id}
        log.info("refused", extra=self._log_line(request, sender, findings) | ids)

    def batch(
        self, request: Request, sender: Principal, verdicts: Iterable[Verdict], settled: Settled | Findings
    ) -> None:
        """All lines of a batch: one log line per code, however many lines were refused with it."""
        outcomes: Counter[str] = Counter()
        refused: Counter[Findings] = Counter()
        for verdict in verdicts:
            if isinstance(verdict, Accepted):
                outcomes["replayed" if verdict.replayed else "accepted"] += 1
            else:
                refused[verdict[:1]] += 1
        for outcome, count in outcomes.items():
            self._meter.add(INGEST_REQUESTS, count, sender.tenant_id, sender.plan_tier, outcome)
        for findings, count in refused.items():
            self._count_refused(sender, findings[0].error_code, count)
            log.info("batch lines refused: %d", count, extra=self._log_line(request, sender, findings))
        if isinstance(settled, Settled) and settled.standing.break_glass and outcomes["accepted"]:
            self._broken_glass(request, sender, settled.standing.break_glass, outcomes["accepted"])

    def took(self, request: Request, sender: Principal, phase: str, events: int) -> None:
        """The request is answered as soon as this returns."""
        elapsed_ms = _elapsed_ms(request)
        self._meter.add(INGEST_LATENCY_MS, elapsed_ms, phase, sender.tenant_id)
        self._throttle.took(sender.tenant_id, events, elapsed_ms)

    def _broken_glass(self, request: Request, sender: Principal, document: str, events: int) -> None:
        self._meter.add(BREAK_GLASS_EVENTS, events, sender.tenant_id)
        line = {"request_id": request.request_id, "tenant_id": sender.tenant_id, "route": request.route}
        log.warning("%d events accepted under the emergency override", events, extra=line | {"break_glass": document})

    def _count_refused(self, sender: Principal | None, code: Code, count: int) -> None:
        tenant_id, plan = (NOBODY, NOBODY) if sender is None else (sender.tenant_id, sender.plan_tier)
        self._meter.add(INGEST_REQUESTS, count, tenant_id, plan, "refused")
        self._meter.add(INGEST_REJECTED, count, tenant_id, REASONS.get(code) or code.lower())

    def _log_line(self, request: Request, sender: Principal | None, findings: Findings) -> dict[str, object]:
        code = findings[0].error_code
        line: dict[str, object] = {
            "request_id": request.request_id,
            "tenant_id": None if sender is None else sender.tenant_id,
            "route": request.route,
            "status_code": status_of(findings),
            "latency_ms": round(_elapsed_ms(request), 3),
            "error_code": code.value,
        }
        if code is Code.CIRCUIT_OPEN:
            line["cb_state"] = "open"
        if code in DEPTH_CODES and sender is not None:
            depth = self._depths.of(sender.tenant_id)
            line["queue_depth"] = None if depth is None else depth.messages
        return line


def _elapsed_ms(request: Request) -> float:
    """The edge's own time: how long a sender takes for its body says nothing about the edge."""
    return (time.perf_counter() - request.started_s - request.awaited_s) * 1000
