"""May a new event be published now? Every reason against it, the cheapest question first."""

from datetime import UTC, datetime
from typing import NamedTuple

from edge.admit import Admitted
from edge.backpressure import refusal
from edge.ports import CircuitOpen, Component, EdgePorts, TenantLimits, Ticket
from edge.problem import Findings, finding
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.subjects import lane
from schemas.units import UnixMs

BROKER_MEMORY_MARGIN_MS = 15_000
"""Between an event's creation and the broker's certain memory: agents' clocks are not ours."""


class Doubt(NamedTuple):
    """Whether an unknown event created up to `until_ms` is stored already cannot be told, for this reason."""

    until_ms: UnixMs
    reason: Findings


class Publishable:
    """The last gates before the stream."""

    def __init__(self, ports: EdgePorts) -> None:
        self._ports = ports

    async def barrier(self, tenant_id: str, limits: TenantLimits) -> Ticket | Findings:
        """The ticket of the stream's circuits, with which what became of the publication is due to `Circuits.record`.

        Findings when no event of the tenant may be published now.
        """
        ports = self._ports
        if ports.clock_skewed():
            return finding(Code.CLOCK_SKEW)
        if limits.events_per_month_max is not None and limits.events_this_month >= limits.events_per_month_max:
            return finding(Code.QUOTA_EXCEEDED, retry_after_ms=_until_next_month_ms(ports.clock.now_ms()))
        if not ports.publisher.durability_proven():
            return finding(Code.DURABILITY_UNPROVEN)
        too_deep = refusal(ports.depths.of(tenant_id), ports.queues)
        if too_deep is not None:
            return too_deep
        try:
            return await ports.circuits.enter(Component.STREAM, tenant_id)
        except CircuitOpen as open_:
            return finding(open_.code, retry_after_ms=open_.retry_after_ms)

    def without_store(self, failure: Findings) -> Doubt:
        """With Postgres away only the broker can tell a duplicate, and it forgets: so an event must be younger than
        what the broker is certain to remember (DESIGN decision 3).
        """
        return Doubt(UnixMs(self._ports.publisher.remembers_since_ms() + BROKER_MEMORY_MARGIN_MS), failure)

    def forgotten_until_ms(self) -> UnixMs:
        """An event created up to then may be in a queue though neither Postgres nor the broker knows its id; 0 while
        there is none such in any queue.
        """
        forgotten_ms = self._ports.publisher.forgotten_before_ms()
        return UnixMs(forgotten_ms + BROKER_MEMORY_MARGIN_MS) if forgotten_ms else UnixMs(0)

    async def queued(self, tenant_id: str, until_ms: UnixMs) -> Doubt | None:
        """The doubt about events created up to then; None when this tenant's queue holds no message so old."""
        try:
            oldest_ms = await self._ports.publisher.oldest_stored_ms(lane(tenant_id).ingest)
        except NoAnswer as failure:
            return Doubt(until_ms, finding(failure.code))
        if oldest_ms is None or oldest_ms > until_ms:
            return None
        return Doubt(until_ms, finding(Code.EVENT_IN_FLIGHT))


def _until_next_month_ms(now_ms: UnixMs) -> int:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    year, month = divmod(now.year * 12 + now.month, 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000) - now_ms


def too_old(event: Admitted, doubt: Doubt | None) -> Findings | None:
    """Why this unknown event may not be published, None when it may."""
    if doubt is not None and event.created_ms <= doubt.until_ms:
        return doubt.reason
    return finding(Code.CREATED_AT_INVALID, "created_at") if event.aged else None
