"""May a new event be published now? Every reason against it, the cheapest question first."""

from datetime import UTC, datetime

from edge.admit import Admitted
from edge.backpressure import refusal
from edge.ports import CircuitOpen, Component, EdgePorts, TenantLimits
from edge.problem import Findings, finding
from schemas.codes import Code
from schemas.units import UnixMs

BROKER_MEMORY_MARGIN_MS = 15_000
"""Between an event's creation and the broker's certain memory, with Postgres away: agents' clocks are not ours."""


class Publishable:
    """The last gates before the stream."""

    def __init__(self, ports: EdgePorts) -> None:
        self._ports = ports

    async def barrier(self, tenant_id: str, limits: TenantLimits) -> Findings | None:
        """Why no event of the tenant may be published now, None when one may. Then the stream's circuits were entered:
        what became of the publication is due to `Circuits.record`.
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
            await ports.circuits.enter(Component.STREAM)
            await ports.circuits.enter(Component.STREAM, tenant_id)
        except CircuitOpen as open_:
            return finding(open_.code, retry_after_ms=open_.retry_after_ms)
        return None

    def too_old(self, event: Admitted, store_failure: Findings | None) -> Findings | None:
        """Why this event may not be published, None when it may.

        With Postgres away only the broker can tell a duplicate, and it forgets: so the event must be younger
        than what the broker is certain to remember (DESIGN decision 3). With Postgres there, the same holds
        while what is settled lags behind what the broker forgets.
        """
        publisher = self._ports.publisher
        if store_failure is not None and event.created_ms <= publisher.remembers_since_ms() + BROKER_MEMORY_MARGIN_MS:
            return store_failure
        if event.aged:
            return finding(Code.CREATED_AT_INVALID, "created_at")
        forgotten_ms = publisher.forgotten_before_ms()
        if forgotten_ms and event.created_ms <= forgotten_ms + BROKER_MEMORY_MARGIN_MS:
            return finding(Code.EVENT_IN_FLIGHT)
        return None


def _until_next_month_ms(now_ms: UnixMs) -> int:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    year, month = divmod(now.year * 12 + now.month, 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000) - now_ms
