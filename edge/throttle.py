"""Which tenants must slow down at this edge: those that make it slow, and those that fill a partition.

Once a second the events and times of that second are judged. Above the hard threshold of p95 the
tenants that cause it lose half of their rate, step by step down to a sixteenth; a tenant that alone
makes a partition deep does too. Every calm second gives an eighth back. Nobody else is touched.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edge.settings import RateSettings
from schemas.meter import Meter
from schemas.metrics import THROTTLE_FACTOR

STEP_S = 1.0
SAMPLES_MIN = 50
"""Fewer requests in a second say nothing about its p95."""
SAMPLES_MAX = 20_000
FACTOR_MIN = 1 / 16
RECOVERY = 1 / 8
FAIR_SHARES_MAX = 2
"""A tenant that sent more than so many times what the others sent on average causes the load."""


class Second(NamedTuple):
    """What happened in one second at one edge: events by tenant, and the p95 where enough requests say it."""

    events: Mapping[str, int]
    p95_ms: float | None


def p95_of(elapsed_ms: Sequence[float]) -> float | None:
    """The least time that 95 of 100 requests did not exceed, None for fewer than 50 requests."""
    if len(elapsed_ms) < SAMPLES_MIN:
        return None
    return sorted(elapsed_ms)[-(-len(elapsed_ms) * 95 // 100) - 1]


def causing(events: Mapping[str, int]) -> frozenset[str]:
    """The tenants that sent more than twice what the others sent on average; a lone tenant is one."""
    total = sum(events.values())
    others = len(events) - 1
    return frozenset(
        tenant_id for tenant_id, own in events.items() if own * others > FAIR_SHARES_MAX * (total - own) or not others
    )


def stepped(
    factors: Mapping[str, float], second: Second, skewed: frozenset[str], p95_ms_hard: float
) -> dict[str, float]:
    """The factors after one more second. Who is not named has the factor 1.

    While the edge is too slow nobody recovers, so that the tenants that cause it do not take turns.
    """
    slow = second.p95_ms is not None and second.p95_ms > p95_ms_hard
    guilty = (causing(second.events) if slow else frozenset()) | skewed
    after = {tenant_id: max(FACTOR_MIN, factors.get(tenant_id, 1.0) / 2) for tenant_id in guilty}
    for tenant_id, factor in factors.items():
        if tenant_id in guilty:
            continue
        recovered = factor if slow else factor + RECOVERY
        if recovered < 1.0:
            after[tenant_id] = recovered
    return after


class AdaptiveThrottle:
    """Implements `edge.ports.Throttle`; `run` judges every second. `skewed` names who makes a partition deep alone."""

    def __init__(self, rates: RateSettings, skewed: Callable[[], frozenset[str]], meter: Meter) -> None:
        self._p95_ms_hard = rates.latency_p95_ms_hard
        self._skewed = skewed
        self._meter = meter
        self._factors: dict[str, float] = {}
        self._events: dict[str, int] = {}
        self._elapsed_ms: list[float] = []

    def factor(self, tenant_id: str) -> float:
        """The part of its rate that the tenant may use, above 0 and up to 1."""
        return self._factors.get(tenant_id, 1.0)

    def took(self, tenant_id: str, events: int, elapsed_ms: float) -> None:
        """One request of the tenant was answered."""
        self._events[tenant_id] = self._events.get(tenant_id, 0) + events
        if len(self._elapsed_ms) < SAMPLES_MAX:
            self._elapsed_ms.append(elapsed_ms)

    def step(self) -> None:
        """Judge what was told since the last step."""
        second = Second(self._events, p95_of(self._elapsed_ms))
        self._events, self._elapsed_ms = {}, []
        before = self._factors
        self._factors = stepped(before, second, self._skewed(), self._p95_ms_hard)
        for tenant_id in {*before, *self._factors}:
            if before.get(tenant_id) != self._factors.get(tenant_id):
                self._meter.add(THROTTLE_FACTOR, self.factor(tenant_id), tenant_id)

    async def run(self, stopping: asyncio.Event) -> None:
        """Judge every second until `stopping` is set."""
        while not stopping.is_set():
            try:
                async with asyncio.timeout(STEP_S):
                    await stopping.wait()
            except TimeoutError:
                self.step()
