"""What is measured and logged about every offered event. Never what was sent, never a key."""

import logging
import time
from collections import Counter
from collections.abc import Iterable

from edge.ingest import Accepted, Verdict
from edge.problem import Findings, status_of
from edge.transport import Request
from schemas.codes import Code
from schemas.meter import Meter
from schemas.metrics import INGEST_LATENCY_MS, INGEST_REJECTED, INGEST_REQUESTS
from schemas.principal import Principal

log = logging.getLogger("edge")

NOBODY = "_other"
"""The tenant and plan of a request without a valid credential; not a legal tenant id."""


class Watch:
    """Counts and logs on behalf of the endpoints."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def accepted(self, sender: Principal, accepted: Accepted) -> None:
        outcome = "replayed" if accepted.replayed else "accepted"
        self._meter.add(INGEST_REQUESTS, 1, sender.tenant_id, sender.plan_tier, outcome)

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
        log.info("refused", extra=_log_line(request, sender, findings) | {"event_id": event_id, "trace_id": trace_id})

    def batch(self, request: Request, sender: Principal, verdicts: Iterable[Verdict]) -> None:
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
            log.info("batch lines refused: %d", count, extra=_log_line(request, sender, findings))

    def took(self, request: Request, sender: Principal, phase: str) -> None:
        """The request is answered as soon as this returns."""
        self._meter.add(INGEST_LATENCY_MS, _elapsed_ms(request), phase, sender.tenant_id)

    def _count_refused(self, sender: Principal | None, code: Code, count: int) -> None:
        tenant_id, plan = (NOBODY, NOBODY) if sender is None else (sender.tenant_id, sender.plan_tier)
        self._meter.add(INGEST_REQUESTS, count, tenant_id, plan, "refused")
        self._meter.add(INGEST_REJECTED, count, tenant_id, code.lower())


def _log_line(request: Request, sender: Principal | None, findings: Findings) -> dict[str, object]:
    return {
        "request_id": request.request_id,
        "tenant_id": None if sender is None else sender.tenant_id,
        "route": request.route,
        "status_code": status_of(findings),
        "latency_ms": round(_elapsed_ms(request), 3),
        "error_code": findings[0].error_code.value,
    }


def _elapsed_ms(request: Request) -> float:
    return (time.perf_counter() - request.started_s) * 1000
