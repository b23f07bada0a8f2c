"""The one question to the coordination store, with everything that answers in its place when it is away."""

from collections.abc import Sequence
from typing import NamedTuple

from edge.ports import (
    Admission,
    Ask,
    Budget,
    CircuitOpen,
    Component,
    EdgePorts,
    Nonce,
    TenantLimits,
)
from edge.problem import Findings, finding
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.principal import Principal


class Standing(NamedTuple):
    """How the tenant stands: its limits, the budget made of them, and the store's answer.

    `break_glass` is the id of the document that stood in for the store, empty when the store answered.
    """

    limits: TenantLimits
    budget: Budget
    admission: Admission
    break_glass: str = ""


class Admissions:
    """Asks for leave to go on, event by event."""

    def __init__(self, ports: EdgePorts, settings: EdgeSettings) -> None:
        self._ports = ports
        self._timeout_ms = float(settings.redis_timeout_ms)

    async def of(self, sender: Principal, event_ids: Sequence[str], nonce: Nonce | None) -> Standing | Findings:
        """How the events stand; findings when none of them may go on, as when the tenant's limits are not known.

        Redis away is a refusal in every profile, unless an emergency override is armed: that waives the
        rate and the nonce, and nothing else (DESIGN decision 7).
        """
        try:
            limits = await self._ports.limits.of(sender.tenant_id, sender.plan_tier)
        except NoAnswer as failure:
            return finding(failure.code)
        factor = self._ports.throttle.factor(sender.tenant_id)
        budget = Budget(limits.rps * factor, limits.burst)
        try:
            admission = await self._ask(Ask(sender.tenant_id, event_ids, budget, nonce))
        except NoAnswer as failure:
            document = self._ports.break_glass.armed()
            if document is not None:
                return Standing(limits, budget, _waived(event_ids), document)
            wait_ms = failure.retry_after_ms if isinstance(failure, CircuitOpen) else 0
            return finding(failure.code, retry_after_ms=wait_ms)
        if admission.refused is not None:
            return finding(admission.refused, retry_after_ms=admission.retry_after_ms)
        return Standing(limits, budget, admission)

    async def _ask(self, ask: Ask) -> Admission:
        if not self._ports.redis_proven():
            raise NoAnswer(Code.RATE_LIMIT_BACKEND_UNAVAILABLE)
        circuits = self._ports.circuits
        ticket = await circuits.enter(Component.REDIS)
        try:
            admission = await self._ports.coordination.admit(ask)
        except NoAnswer:
            circuits.record(Component.REDIS, None, ticket, failed=True, elapsed_ms=self._timeout_ms)
            raise
        # An answer within the deadline is a success; our own wait for our turn is not the store's latency.
        circuits.record(Component.REDIS, None, ticket, failed=False, elapsed_ms=0.0)
        return admission


def _waived(event_ids: Sequence[str]) -> Admission:
    count = len(event_ids)
    return Admission([None] * count, [True] * count, [0] * count, 0, 0)
