"""The shared view of queue depths: sampled by one edge per partition, read by all, looked up without waiting.

Every half second each edge reads what the others sampled and samples the partitions it holds. Where
Redis is away nobody can share, and each edge samples all of them itself: the truth is the broker's,
so the gates work, and stay closed where the broker does not answer either.
"""

import asyncio
import heapq
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from edge.deadline import within
from edge.depth_keys import WrittenKeys, deepest_first
from edge.depth_series import PartitionSeries, Sample
from edge.depth_store import DepthStore
from edge.ports import Depth
from edge.settings import QueueSettings
from schemas.answers import NoAnswer
from schemas.depth import LANES, LaneDepth
from schemas.meter import Meter
from schemas.metrics import HOT_TENANT_SHARE, QUEUE_DEPTH
from schemas.subjects import PARTITIONS, partition_of
from schemas.units import Clock, UnixMs

log = logging.getLogger("edge")

INTERVAL_S = 0.5
STORE_MS_MAX = 400
SAMPLED_AT_ONCE_MAX = 4
KEYS_PER_TURN_MAX = 1_000
METERED_TENANTS_MAX = 50
SETTLED = LaneDepth(0, 0, 0)


class DepthSampler(Protocol):
    """Where depths are read: `streams.depth.LaneDepths`."""

    async def read(self, partition: int) -> Mapping[str, LaneDepth]:
        """The depths of the partition's tenants that have any. Raises NoAnswer(STREAM_UNAVAILABLE)."""


class DepthView:
    """Implements `edge.ports.Depths`; `run` keeps it fresh."""

    def __init__(
        self, client: "Redis", queues: QueueSettings, sampler: DepthSampler, clock: Clock, meter: Meter
    ) -> None:
        self._store = DepthStore(client, queues.key_template, secrets.token_hex(8))
        self._queues = queues
        self._sampler = sampler
        self._clock = clock
        self._meter = meter
        self._series = [PartitionSeries() for _ in range(PARTITIONS)]
        self._seen_store_ms = [0] * PARTITIONS
        self._written = [WrittenKeys() for _ in range(PARTITIONS)]
        self._metered: set[str] = set()
        self._deep: set[str] = set()
        self._failing: set[str] = set()
        self._sitting_out: set[int] = set()
        """Partitions that this edge could not sample last: another one may have a way to the broker."""

    def of(self, tenant_id: str) -> Depth | None:
        """The tenant's depth, None while the view is older than 2 s: unknown means no."""
        return self._series[partition_of(tenant_id)].of(tenant_id, self._clock.now_ms())

    def skewed(self) -> frozenset[str]:
        """The tenants that are deeper than WARN and more than half of their partition's depth."""
        now_ms = self._clock.now_ms()
        fresh = [series.last for series in self._series if series.fresh(now_ms)]
        return frozenset(
            tenant_id
            for depths in fresh
            for tenant_id, messages, share in (_hottest(depths),)
            if messages >= self._queues.depth_warn and share > 0.5
        )

    @property
    def findings(self) -> list[str]:
        """What is not known just now; events of those partitions' tenants are refused."""
        now_ms = self._clock.now_ms()
        unknown = sum(not series.fresh(now_ms) for series in self._series)
        return [f"the queue depths of {unknown} of {PARTITIONS} partitions are not known"] if unknown else []

    async def run(self, stopping: asyncio.Event) -> None:
        """Refresh until `stopping` is set, then leave the sampling to the others."""
        while not stopping.is_set():
            await self.refresh()
            try:
                async with asyncio.timeout(INTERVAL_S):
                    await stopping.wait()
            except TimeoutError:
                continue
        self._sitting_out.update(range(PARTITIONS))
        await self._take_turns()

    async def refresh(self) -> None:
        """Read what others sampled, sample what this edge holds, and say so to the gauges. Never raises NoAnswer."""
        held = await self._take_turns()
        asked_ms = self._clock.now_ms()
        sampled = await self._sampled(range(PARTITIONS) if held is None else held)
        for partition, depths in sampled.items():
            self._series[partition].add(Sample(asked_ms, depths), self._clock.now_ms())
        if held is not None and sampled:
            await self._share(sampled, asked_ms)
        self._report()

    async def _take_turns(self) -> Sequence[int] | None:
        """The partitions this edge samples now, None where the store is away. Takes in what others sampled."""
        asked_ms = self._clock.now_ms()
        try:
            turns = await within(STORE_MS_MAX, self._store.turns(self._sitting_out))
        except (RedisError, OSError) as failure:
            self._note("the shared depth view", failure)
            return None
        self._note("the shared depth view", None)
        self._sitting_out.clear()
        for partition, turn in enumerate(turns):
            if not turn.held:
                self._written[partition].forget()
            view = turn.view
            if view is not None and view.taken_store_ms > self._seen_store_ms[partition]:
                self._seen_store_ms[partition] = view.taken_store_ms
                self._series[partition].add(Sample(UnixMs(asked_ms - view.age_ms), view.depths), asked_ms)
        return [partition for partition, turn in enumerate(turns) if turn.held]

    async def _sampled(self, partitions: Sequence[int]) -> Mapping[int, Mapping[str, LaneDepth]]:
        """The depths of those of the partitions that the broker answers for; the view of the others ages."""
        found: dict[int, Mapping[str, LaneDepth]] = {}
        for start in range(0, len(partitions), SAMPLED_AT_ONCE_MAX):
            some = partitions[start : start + SAMPLED_AT_ONCE_MAX]
            answers = await asyncio.gather(*map(self._sampler.read, some), return_exceptions=True)
            for partition, answer in zip(some, answers, strict=True):
                if isinstance(answer, NoAnswer):
                    self._note(f"the depth of partition {partition}", answer)
                    self._sitting_out.add(partition)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    self._note(f"the depth of partition {partition}", None)
                    found[partition] = answer
        return found

    async def _share(self, sampled: Mapping[int, Mapping[str, LaneDepth]], asked_ms: UnixMs) -> None:
        """Write the views, and those of the tenants' keys that are due, the deepest first."""
        try:
            age_ms = self._clock.now_ms() - asked_ms
            taken = await within(STORE_MS_MAX, self._store.publish(sampled, age_ms))
            for partition, taken_store_ms in zip(sampled, taken, strict=True):
                self._seen_store_ms[partition] = max(taken_store_ms, self._seen_store_ms[partition])
            due = (
                key for partition, depths in sampled.items() for key in self._written[partition].due(depths, asked_ms)
            )
            keys = deepest_first(due, KEYS_PER_TURN_MAX)
            await within(STORE_MS_MAX, self._store.write(keys))
        except (RedisError, OSError) as failure:
            self._note("the shared depth view", failure)
            return
        for key in keys:
            self._written[partition_of(key.tenant_id)].note(key, asked_ms)

    def _report(self) -> None:
        """Set the gauges, and log who has come to WARN."""
        depths: dict[str, LaneDepth] = {}
        for partition, series in enumerate(self._series):
            depths.update(series.last)
            self._meter.add(HOT_TENANT_SHARE, _hottest(series.last)[2], str(partition))
        deepest = heapq.nlargest(METERED_TENANTS_MAX, depths, key=lambda tenant_id: depths[tenant_id].messages)
        for tenant_id in self._metered.difference(deepest):
            self._set_gauges(tenant_id, depths.get(tenant_id, SETTLED))
        # The deepest last: tenants beyond the meter's slots share a series, which then shows the deepest of them.
        for tenant_id in reversed(deepest):
            self._set_gauges(tenant_id, depths[tenant_id])
        self._metered = set(deepest)
        deep = {tenant_id for tenant_id in deepest if depths[tenant_id].messages >= self._queues.depth_warn}
        for tenant_id in deep - self._deep:
            line = {"tenant_id": tenant_id, "queue_depth": depths[tenant_id].messages}
            log.warning("a tenant's queue is deeper than FG_DP_REDIS_QUEUE_WARN_DEPTH", extra=line)
        self._deep = deep

    def _set_gauges(self, tenant_id: str, depth: LaneDepth) -> None:
        for lane, messages in zip(LANES, depth, strict=True):
            self._meter.add(QUEUE_DEPTH, messages, tenant_id, lane)

    def _note(self, what: str, failure: Exception | None) -> None:
        """Log when something stops answering and when it is back, not every time it does not answer."""
        if failure is not None and what not in self._failing:
            self._failing.add(what)
            log.warning("%s cannot be read: %s", what, type(failure).__name__)
        elif failure is None and what in self._failing:
            self._failing.remove(what)
            log.warning("%s can be read again", what)


def _hottest(depths: Mapping[str, LaneDepth]) -> tuple[str, int, float]:
    """The tenant with the most messages, their number, and their share of all."""
    if not depths:
        return "", 0, 0.0
    tenant_id = max(depths, key=lambda one: (depths[one].messages, one))
    messages = depths[tenant_id].messages
    total = sum(depth.messages for depth in depths.values())
    return tenant_id, messages, messages / total if total else 0.0
