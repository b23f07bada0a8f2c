"""How many events a tenant may have refused here: reading them costs time, and no budget of Redis counts them."""

from collections import OrderedDict
from typing import NamedTuple

from schemas.units import Clock, UnixMs

REFUSED_PER_S = 200
"""So many are forgotten each second."""
REFUSED_MAX = 2_000
TENANTS_MAX = 10_000
"""Of more tenants than that, the one whose last refusal is oldest begins anew."""


class _Level(NamedTuple):
    events: float
    at_ms: UnixMs


class RefusedEvents:
    """A level for each tenant that rises by what was refused and sinks with time. Not thread-safe: one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, _Level] = OrderedDict()

    def wait_ms(self, tenant_id: str) -> int:
        """How long until the tenant may offer events again, 0 when it may now."""
        excess = self._events(tenant_id) - REFUSED_MAX
        return 0 if excess < 0 else int(excess * 1000 / REFUSED_PER_S) + 1

    def add(self, tenant_id: str, events: int) -> None:
        """So many more were refused."""
        level = _Level(self._events(tenant_id) + events, self._clock.now_ms())
        self._levels[tenant_id] = level
        self._levels.move_to_end(tenant_id)
        if len(self._levels) > TENANTS_MAX:
            self._levels.popitem(last=False)

    def _events(self, tenant_id: str) -> float:
        level = self._levels.get(tenant_id)
        if level is None:
            return 0.0
        elapsed_ms = max(0, self._clock.now_ms() - level.at_ms)
        return max(0.0, level.events - elapsed_ms * REFUSED_PER_S / 1000)
