"""One edge reduced to its breakers, on a store of probes that a test can turn."""

from typing import Any, cast

import pytest

from edge.breaker import Breakers
from edge.circuit import SAMPLES_MIN
from edge.ports import NO_PROBE, CircuitOpen, Component, Ticket
from edge.settings import BreakerSettings
from schemas.metrics import Metric
from tests.unit.edge.conftest import StandingClock
from tests.unit.edge.counting_store import CountingStore

SETTINGS = BreakerSettings(error_rate_threshold=0.08, latency_p95_ms=350, open_seconds=30, half_open_probes=3)
OPEN_MS = 30_000
STREAM, REDIS, POSTGRES = Component.STREAM, Component.REDIS, Component.POSTGRES


class Shown:
    """A meter that keeps the last value of each series."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        del metric
        self.values[labels] = value


class Edge:
    """One edge process."""

    def __init__(self, store: CountingStore, clock: StandingClock) -> None:
        self.meter = Shown()
        self.document: str | None = None
        self.breakers = Breakers(cast("Any", store), SETTINGS, clock, self.meter, lambda: self.document)
        self.tickets: list[Ticket] = []
        """Of the probes under way."""

    async def passes(self, component: Component = STREAM, tenant_id: str | None = None) -> bool:
        try:
            ticket = await self.breakers.enter(component, tenant_id)
        except CircuitOpen:
            return False
        if any(ticket):
            self.tickets.append(ticket)
        return True

    async def retry_after_ms(self, component: Component = STREAM) -> int:
        with pytest.raises(CircuitOpen) as refused:
            await self.breakers.enter(component)
        return refused.value.retry_after_ms

    def calls(
        self,
        count: int,
        *,
        failed: bool = False,
        elapsed_ms: float = 1.0,
        component: Component = STREAM,
        tenant_id: str | None = None,
    ) -> None:
        for _ in range(count):
            self.breakers.record(component, tenant_id, NO_PROBE, failed=failed, elapsed_ms=elapsed_ms)

    def trip(self, component: Component = STREAM) -> None:
        self.calls(SAMPLES_MIN, failed=True, component=component)

    def trip_tenant(self, tenant_id: str) -> None:
        self.calls(1_000)
        self.calls(SAMPLES_MIN, failed=True, tenant_id=tenant_id)

    async def probed(
        self,
        *,
        failed: bool = False,
        elapsed_ms: float = 1.0,
        component: Component = STREAM,
        tenant_id: str | None = None,
    ) -> None:
        """The oldest probe comes back, and everybody may know."""
        ticket = self.tickets.pop(0)
        self.breakers.record(component, tenant_id, ticket, failed=failed, elapsed_ms=elapsed_ms)
        await self.breakers.close()
