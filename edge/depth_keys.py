"""Which depth keys of tenants are due to be written: each when it changes or will expire, and not more often. Pure.

A lane without messages has no key, or one that says 0 until it expires.
"""

import heapq
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from schemas.depth import LANES, LaneDepth
from schemas.units import UnixMs

REWRITE_MS = 5_000
"""An unchanged key is written again before it expires."""


class TenantKey(NamedTuple):
    """What the key of one tenant and lane says."""

    tenant_id: str
    lane: str
    messages: int


class WrittenKeys:
    """The keys of one partition as this edge wrote them last."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, str], tuple[int, UnixMs]] = {}

    def due(self, depths: Mapping[str, LaneDepth], now_ms: UnixMs) -> list[TenantKey]:
        """The keys that say something else, or will expire soon."""
        now = {
            (tenant_id, lane): messages
            for tenant_id, depth in depths.items()
            for lane, messages in zip(LANES, depth, strict=True)
            if messages
        }
        changed = [
            TenantKey(*name, messages) for name, messages in now.items() if not self._holds(name, messages, now_ms)
        ]
        return changed + [TenantKey(*name, 0) for name in self._written.keys() - now.keys()]

    def note(self, key: TenantKey, now_ms: UnixMs) -> None:
        """The key was written."""
        if key.messages:
            self._written[key[:2]] = (key.messages, now_ms)
        else:
            self._written.pop(key[:2], None)

    def forget(self) -> None:
        """Another edge may have written these keys meanwhile, or nobody."""
        self._written.clear()

    def _holds(self, name: tuple[str, str], messages: int, now_ms: UnixMs) -> bool:
        known = self._written.get(name)
        return known is not None and known[0] == messages and 0 <= now_ms - known[1] < REWRITE_MS


def deepest_first(keys: Iterable[TenantKey], keys_max: int) -> list[TenantKey]:
    """At most so many of them; the others are due again the next time."""
    return heapq.nlargest(keys_max, keys, key=lambda key: key.messages)
