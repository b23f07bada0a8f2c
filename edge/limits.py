"""Limits by tenant, as Postgres has them: at most 2 s old, and never looser because Postgres is away or slow.

Order: what an operator set for the tenant, then its tier, then the base. Tenants in use are read
again in the background, all in few calls; one not in use lately is read when it comes back. Without
Postgres what was last read holds; of a tenant that was never read nothing is known, which is no leave.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge.coalesce import Coalescer
from edge.ports import TenantLimits
from edge.settings import RateSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.limits import NO_QUOTA, TenantUse
from schemas.units import Clock, UnixMs

FRESH_MS = 1_500
"""With the time a read may take, no limit in force is older than 2 s."""
REFRESH_MS = 750
READ_S_MAX = 0.4
"""A database that does not answer must not hold a request."""
TENANTS_PER_READ_MAX = 200
"""So few that a busy database has read them in a part of that time: otherwise none of them would ever be known."""
TENANTS_MAX = 10_000
"""As many as keys are remembered. A tenant beyond them takes the place of the one asked about longest ago."""


class TenantUses(Protocol):
    """Where limits are read: `sinks.limits.RuntimeLimits`."""

    async def read(self, tenant_ids: Sequence[str]) -> Mapping[str, TenantUse]:
        """Limits and use of each of those tenants. Raises NoAnswer(STORE_UNAVAILABLE)."""


@dataclass(slots=True)
class _Entry:
    """What Postgres last said of a tenant. `asked_ms`: when it was last asked, with or without an answer."""

    use: TenantUse
    asked_ms: UnixMs
    seen_ms: UnixMs


class LimitsView:
    """Implements `edge.ports.Limits`; `run` keeps it fresh."""

    def __init__(self, uses: TenantUses, rates: RateSettings, kept_ms: int, clock: Clock) -> None:
        """`kept_ms`: a tenant unseen for so long is forgotten; no less than its key may be used without Postgres."""
        self._uses = uses
        self._rates = rates
        self._kept_ms = kept_ms
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._asking: Coalescer[str, _Entry | None] = Coalescer(self._read_all, 0.0, TENANTS_PER_READ_MAX)

    async def of(self, tenant_id: str, plan_tier: str) -> TenantLimits:
        """The limits in force; where Postgres does not say, the last known ones.

        Raises NoAnswer(STORE_UNAVAILABLE) when there are none.
        """
        now_ms = self._clock.now_ms()
        entry = self._entries.get(tenant_id)
        if entry is None or not 0 <= now_ms - entry.asked_ms <= FRESH_MS:
            entry = await self._asking.ask(tenant_id)
        if entry is None:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        entry.seen_ms = now_ms
        return limits_in_force(entry.use, plan_tier, self._rates)

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the tenants in use fresh until `stopping` is set, and forget those unseen for long."""
        while not stopping.is_set():
            await self.refresh()
            try:
                async with asyncio.timeout(REFRESH_MS / 1000):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Read all tenants in use once more. What cannot be read stays as it was last known."""
        now_ms = self._clock.now_ms()
        for tenant_id in [one for one, entry in self._entries.items() if now_ms - entry.seen_ms > self._kept_ms]:
            del self._entries[tenant_id]
        used = [one for one, entry in self._entries.items() if now_ms - entry.seen_ms <= FRESH_MS]
        for start in range(0, len(used), TENANTS_PER_READ_MAX):
            await self._read_all(used[start : start + TENANTS_PER_READ_MAX])

    async def _read_all(self, tenant_ids: Sequence[str]) -> Sequence[_Entry | None]:
        """The entry of each of those tenants, with what Postgres says now where it answers; None where it never did."""
        asked_ms = self._clock.now_ms()
        try:
            async with asyncio.timeout(READ_S_MAX):
                uses = await self._uses.read(list(dict.fromkeys(tenant_ids)))
        except (NoAnswer, TimeoutError):
            return [self._still_known(tenant_id, asked_ms) for tenant_id in tenant_ids]
        return [self._entered(tenant_id, uses[tenant_id], asked_ms) for tenant_id in tenant_ids]

    def _still_known(self, tenant_id: str, asked_ms: UnixMs) -> _Entry | None:
        entry = self._entries.get(tenant_id)
        return None if entry is None else self._entered(tenant_id, entry.use, asked_ms)

    def _entered(self, tenant_id: str, use: TenantUse, asked_ms: UnixMs) -> _Entry:
        """The tenant's entry, put last: so the first one is always the one asked about longest ago."""
        entry = self._entries.pop(tenant_id, None)
        if entry is None:
            entry = _Entry(use, asked_ms, asked_ms)
            if len(self._entries) >= TENANTS_MAX:
                del self._entries[next(iter(self._entries))]
        self._entries[tenant_id] = entry
        entry.use, entry.asked_ms = use, asked_ms
        return entry


def limits_in_force(use: TenantUse, plan_tier: str, rates: RateSettings) -> TenantLimits:
    """The tenant's own limits, else its tier's, else the base; the quota by the same order, on its own."""
    own, used = use.own, use.events_this_month
    quota = None if own is None else own.events_per_month_max
    if quota is None:
        quota = dict(rates.events_per_month_by_tier).get(plan_tier)
    elif quota >= NO_QUOTA:
        quota = None
    if own is not None:
        return TenantLimits(own.rps, own.burst, "tenant", quota, used)
    tier_rps = dict(rates.rps_by_tier).get(plan_tier)
    if tier_rps is not None:
        return TenantLimits(tier_rps, rates.rps_burst, "tier", quota, used)
    return TenantLimits(rates.rps_base, rates.rps_burst, "base", quota, used)
