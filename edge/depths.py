"""The shared view of queue depths: sampled by one edge per partition, read by all, looked up without waiting.

Every half second each edge reads what the others sampled and samples the partitions it holds, each
of them on its own: one that does not answer delays no other. Where Redis is away nobody can share,
and each edge samples all of them itself: the truth is the broker's, so the gates work, and stay
closed where the broker does not answer either.
"""

import asyncio
import heapq
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from edge.coalesce import Coalescer
from edge.deadline import within
from edge.depth_keys import WrittenKeys, deepest_first
from edge.depth_series import PartitionSeries, Sample
from edge.depth_store import AgedView, DepthStore, SharedView
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
BEGUN_AT_ONCE_MAX = 4
BEGUN_APART_S = 0.05
"""So long the next samples wait for those begun before them, to spare the broker a burst."""
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
        self._held: frozenset[int] = frozenset()
        """Partitions that this edge samples for all."""
        self._sitting_out: set[int] = set()
        """Partitions that this edge could not sample last: another one may have a way to the broker."""
        self._sampling: dict[int, asyncio.Task[None]] = {}
        self._sharing: Coalescer[tuple[int, Sample], int] = Coalescer(self._share, 0.0, PARTITIONS)

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
            due_s = asyncio.get_running_loop().time() + INTERVAL_S
            await self.refresh()
            try:
                async with asyncio.timeout_at(due_s):
                    await stopping.wait()
            except TimeoutError:
                continue
        await self._end_sampling()
        self._sitting_out.update(range(PARTITIONS))
        await self._take_turns()

    async def refresh(self) -> None:
        """Read what others sampled, begin to sample what this edge holds, and say to the gauges what is known.

        Every sample counts, and is shared, as soon as it comes, if need be after the return. Never raises NoAnswer.
        """
        self._forget_ended()
        store_answers = await self._take_turns()
        # What it sits out an edge samples for itself: so it knows when it can sample it for the others again.
        wanted = sorted(self._held | self._sitting_out) if store_answers else range(PARTITIONS)
        due = [partition for partition in wanted if partition not in self._sampling]
        for start in range(0, len(due), BEGUN_AT_ONCE_MAX):
            begun = [self._begin(partition) for partition in due[start : start + BEGUN_AT_ONCE_MAX]]
            await asyncio.wait(begun, timeout=BEGUN_APART_S)
        await self._write_keys()
        self._report()

    async def _take_turns(self) -> bool:
        """Learn which partitions this edge samples for all, and what others sampled. False where the store is away."""
        asked_ms = self._clock.now_ms()
        try:
            turns = await within(STORE_MS_MAX, self._store.turns(self._sitting_out))
        except (RedisError, OSError) as failure:
            self._note("the shared depth view", failure)
            self._held = frozenset()
            return False
        self._note("the shared depth view", None)
        self._held = frozenset(partition for partition, turn in enumerate(turns) if turn.held)
        for partition, turn in enumerate(turns):
            if not turn.held:
                self._written[partition].forget()
            # Not "later than": the store's clock may have been ahead once.
            if turn.view is not None and turn.view.taken_store_ms != self._seen_store_ms[partition]:
                self._seen_store_ms[partition] = turn.view.taken_store_ms
                self._take_in(partition, turn.view, asked_ms)
        return True

    def _take_in(self, partition: int, view: SharedView, asked_ms: UnixMs) -> None:
        """Add what another edge sampled. A view from the store's future has no age that anybody knows."""
        if view.age_ms >= 0:
            self._series[partition].add(Sample(UnixMs(asked_ms - view.age_ms), view.depths), asked_ms)

    def _begin(self, partition: int) -> "asyncio.Task[None]":
        task = self._sampling[partition] = asyncio.get_running_loop().create_task(self._sample(partition))
        return task

    def _forget_ended(self) -> None:
        for partition, task in [*self._sampling.items()]:
            if task.done():
                del self._sampling[partition]
                if not task.cancelled():
                    task.result()  # a fault of ours ends the view

    async def _end_sampling(self) -> None:
        if self._sampling:
            for task in self._sampling.values():
                task.cancel()
            await asyncio.wait(self._sampling.values())
        self._forget_ended()

    async def _sample(self, partition: int) -> None:
        """Ask the broker, and share the answer where this edge is the one to do so; without one the view ages."""
        what = f"the depth of partition {partition}"
        asked_ms = self._clock.now_ms()
        try:
            depths = await self._sampler.read(partition)
        except NoAnswer as failure:
            self._note(what, failure)
            self._sitting_out.add(partition)
            return
        self._note(what, None)
        self._sitting_out.discard(partition)
        sample = Sample(asked_ms, depths)
        self._series[partition].add(sample, self._clock.now_ms())
        if partition in self._held:
            self._seen_store_ms[partition] = await self._sharing.ask((partition, sample))

    async def _share(self, samples: Sequence[tuple[int, Sample]]) -> Sequence[int]:
        """Write the views. Returns for each when it was taken by the store's clock, as last seen where it was not."""
        now_ms = self._clock.now_ms()
        views = {partition: AgedView(now_ms - sample.taken_ms, sample.depths) for partition, sample in samples}
        try:
            taken = await within(STORE_MS_MAX, self._store.publish(views))
        except (RedisError, OSError) as failure:
            self._note("the shared depth view", failure)
            taken = [0] * len(views)
        return [one or self._seen_store_ms[partition] for partition, one in zip(views, taken, strict=True)]

    async def _write_keys(self) -> None:
        """Write the tenants' keys that are due, the deepest first."""
        now_ms = self._clock.now_ms()
        fresh = [partition for partition in self._held if self._series[partition].fresh(now_ms)]
        due = (key for one in fresh for key in self._written[one].due(self._series[one].last, now_ms))
        keys = deepest_first(due, KEYS_PER_TURN_MAX)
        if not keys:
            return
        try:
            await within(STORE_MS_MAX, self._store.write(keys))
        except (RedisError, OSError) as failure:
            self._note("the shared depth view", failure)
            return
        for key in keys:
            self._written[partition_of(key.tenant_id)].note(key, now_ms)

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
