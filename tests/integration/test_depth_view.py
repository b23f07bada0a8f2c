"""Depth views shared by edges through a real Valkey: sampled once, seen by all, never trusted when old."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Mapping

import pytest

from edge import depths
from edge.depth_store import LEASE_MS
from edge.depths import DepthView
from edge.redis_store import redis_client
from edge.settings import QueueSettings
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.depth import LaneDepth
from schemas.metrics import Metric
from schemas.subjects import PARTITIONS, partition_of
from schemas.units import UnixMs

QUEUES = QueueSettings(depth_warn=50, depth_shed=80, depth_hardstop=120, key_template="fg:q:{tenant_id}:{lane}")
EVERYWHERE = {partition_of(f"t{number}"): f"t{number}" for number in range(200)}.values()
"""A tenant of each partition."""
_numbers = itertools.count()


class Broker:
    """The depths an edge would read; counts the questions."""

    def __init__(self) -> None:
        self.depths: dict[str, LaneDepth] = {}
        self.answers = True
        self.hanging: set[int] = set()
        """Partitions that do not answer before `released`."""
        self.released = asyncio.Event()
        self.asked = 0

    async def read(self, partition: int) -> Mapping[str, LaneDepth]:
        self.asked += 1
        if partition in self.hanging:
            await self.released.wait()
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        if not self.answers:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        return {tenant: depth for tenant, depth in self.depths.items() if partition_of(tenant) == partition}


class ShiftedClock(SystemClock):
    """The system's time, and a way to be ahead of it."""

    ahead_ms = 0

    def now_ms(self) -> UnixMs:
        return UnixMs(super().now_ms() + self.ahead_ms)


class Gauges:
    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        self.values[(metric.name, *labels)] = value


class OneEdge:
    """A depth view with everything around it."""

    def __init__(self, url: str) -> None:
        self.broker = Broker()
        self.clock = ShiftedClock()
        self.gauges = Gauges()
        self.redis = redis_client(url)
        self.view = DepthView(self.redis, QUEUES, self.broker, self.clock, self.gauges)

    def messages(self, tenant: str) -> int | None:
        depth = self.view.of(tenant)
        return None if depth is None else depth.messages

    async def refresh(self) -> None:
        """One turn; on return every sample that will come is there and shared."""
        await self.view.refresh()
        sampling = self.view._sampling.items()
        await asyncio.gather(*(task for partition, task in sampling if partition not in self.broker.hanging))

    async def close(self) -> None:
        """Have it give up what it samples."""
        stopping = asyncio.Event()
        stopping.set()
        await self.view.run(stopping)
        await self.redis.aclose()


@pytest.fixture(scope="module")
async def valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A Valkey that no running edge shares its views in."""
    with await DataDirectory.open(tmp_path_factory.mktemp("views") / "data") as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start_one("valkey")
            yield embedded.redis_url
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


@pytest.fixture
async def edges(valkey: str) -> AsyncIterator[tuple[OneEdge, OneEdge]]:
    one, other = OneEdge(valkey), OneEdge(valkey)
    yield one, other
    for edge in (one, other):
        await edge.close()


@pytest.fixture
def tenant() -> str:
    return f"deep-{next(_numbers)}"


async def test_one_edge_samples_and_every_edge_knows(edges: tuple[OneEdge, OneEdge], tenant: str) -> None:
    one, other = edges
    one.broker.depths[tenant] = LaneDepth(3, 4, 5)
    assert one.view.findings == ["the queue depths of 16 of 16 partitions are not known"]
    await one.refresh()
    await other.refresh()
    assert one.view.findings == other.view.findings == []
    assert (one.broker.asked, other.broker.asked) == (PARTITIONS, 0)
    assert one.messages(tenant) == other.messages(tenant) == 12
    assert other.messages("nobody-of-that-name") == 0


async def test_each_tenant_and_lane_has_its_key_with_the_tenant_as_hash_tag(
    edges: tuple[OneEdge, OneEdge], tenant: str
) -> None:
    one, _ = edges
    one.broker.depths[tenant] = LaneDepth(3, 4, 0)
    await one.refresh()
    names = [f"fg:q:{{{tenant}}}:{lane}" for lane in ("ingest", "decide", "retry")]
    assert await one.redis.mget(names) == [b"3", b"4", None]
    assert all([0 < await one.redis.pttl(name) <= 10_000 for name in names[:2]])
    await one.redis.set(names[0], b"kept")
    await one.refresh()
    assert await one.redis.get(names[0]) == b"kept", "what has not changed is not written again"
    del one.broker.depths[tenant]
    await one.refresh()
    assert await one.redis.mget(names) == [b"0", b"0", None]
    assert one.messages(tenant) == 0


async def test_an_edge_that_died_is_replaced_once_its_right_has_expired(
    edges: tuple[OneEdge, OneEdge], tenant: str
) -> None:
    dead, other = edges
    await dead.refresh()
    other.broker.depths[tenant] = LaneDepth(7, 0, 0)
    async with asyncio.timeout(20):
        while not other.broker.asked:
            await other.refresh()
            await asyncio.sleep(0.05)
    assert other.messages(tenant) == 7
    assert LEASE_MS < 1_000


async def test_an_edge_that_stops_leaves_the_sampling_to_the_others_at_once(edges: tuple[OneEdge, OneEdge]) -> None:
    one, other = edges
    await one.refresh()
    stopping = asyncio.Event()
    stopping.set()
    await one.view.run(stopping)
    await other.refresh()
    assert other.broker.asked == PARTITIONS


async def test_an_edge_without_the_broker_does_not_keep_others_from_sampling(
    edges: tuple[OneEdge, OneEdge], tenant: str
) -> None:
    cut_off, other = edges
    cut_off.broker.answers = False
    await cut_off.refresh()
    await cut_off.refresh()
    other.broker.depths[tenant] = LaneDepth(7, 0, 0)
    await other.refresh()
    assert other.broker.asked == PARTITIONS
    await cut_off.refresh()
    assert cut_off.messages(tenant) == 7


async def test_a_view_older_than_two_seconds_says_nothing(edges: tuple[OneEdge, OneEdge], tenant: str) -> None:
    one, other = edges
    await one.refresh()
    await other.refresh()
    for edge in edges:
        assert edge.view.of(tenant) is not None
        edge.clock.ahead_ms = 2_500
        assert edge.view.of(tenant) is None
        edge.broker.answers = False
        await edge.refresh()
        assert edge.view.of(tenant) is None, "reading an old view again does not make it new"


async def test_with_redis_away_each_edge_asks_the_broker_itself(tenant: str) -> None:
    edge = OneEdge("redis://127.0.0.1:9/0")
    edge.broker.depths[tenant] = LaneDepth(7, 0, 0)
    await edge.refresh()
    assert edge.messages(tenant) == 7
    edge.broker.answers = False
    edge.clock.ahead_ms = 2_500
    await edge.refresh()
    assert edge.view.of(tenant) is None
    await edge.redis.aclose()


HEALTHY = [tenant for tenant in EVERYWHERE if partition_of(tenant) % 3 != 2]
HANGING = {partition for partition in range(PARTITIONS) if partition % 3 == 2}
"""Those of one shard of three."""


@pytest.mark.parametrize("redis_away", [False, True])
async def test_a_partition_that_hangs_delays_no_other(valkey: str, *, redis_away: bool) -> None:
    edge = OneEdge("redis://127.0.0.1:9/0" if redis_away else valkey)
    edge.broker.hanging = HANGING
    for turn in range(3):
        asked = edge.broker.asked
        edge.clock.ahead_ms = turn * 1_500
        async with asyncio.timeout(20):
            await edge.refresh()
        assert None not in {edge.messages(tenant) for tenant in HEALTHY}
        again = len(HANGING) if turn else 0
        assert edge.broker.asked - asked == PARTITIONS - again, "a question that has no answer yet is not asked again"
    assert edge.view.findings == [f"the queue depths of {len(HANGING)} of 16 partitions are not known"]
    edge.broker.released.set()
    await edge.close()


async def test_what_one_edge_knows_of_the_others_partitions_is_shared_while_one_hangs(
    edges: tuple[OneEdge, OneEdge],
) -> None:
    one, other = edges
    one.broker.hanging = HANGING
    one.broker.depths = dict.fromkeys(HEALTHY, LaneDepth(3, 0, 0))
    await one.refresh()
    async with asyncio.timeout(20):
        while {other.messages(healthy) for healthy in HEALTHY} != {3}:
            await one.refresh()
            await other.refresh()


async def test_an_edge_sits_a_partition_out_until_it_can_sample_it_again(edges: tuple[OneEdge, OneEdge]) -> None:
    cut_off, other = edges
    cut_off.broker.answers = False
    for _ in range(4):
        await cut_off.refresh()
    await other.refresh()
    assert other.broker.asked == PARTITIONS
    cut_off.broker.answers = True
    await cut_off.refresh()
    await other.close()
    await cut_off.refresh()
    assert cut_off.view.findings == []
    holders = {await cut_off.redis.get(f"fg:depth:{partition}:holder") for partition in range(PARTITIONS)}
    assert None not in holders
    assert len(holders) == 1


async def test_the_stores_clock_may_be_set_in_either_direction(valkey: str) -> None:
    """The view of another edge that the store says was taken later, then earlier, than the one before."""
    edge, store = OneEdge(valkey), redis_client(valkey)
    for ahead_ms in (0, 600_000, 0, -600_000, 0):
        seconds, micros = await store.time()
        taken_ms = seconds * 1_000 + micros // 1_000 + ahead_ms
        for partition in range(PARTITIONS):
            await store.set(f"fg:depth:{partition}:holder", "another", px=10_000)
            await store.set(f"fg:depth:{partition}:view", f"{taken_ms}:".encode() + b"\x80", px=10_000)
        edge.clock.ahead_ms += 10_000
        await edge.refresh()
        assert (edge.view.findings == []) == (ahead_ms == 0)
        if ahead_ms > 0:
            edge.clock.ahead_ms += ahead_ms
            assert edge.view.findings, "nor does it count once its time has come"
    assert edge.broker.asked == 0
    for partition in range(PARTITIONS):
        await store.pexpire(f"fg:depth:{partition}:holder", 0)
        await store.pexpire(f"fg:depth:{partition}:view", 0)
    await store.aclose()
    await edge.close()


async def test_who_fills_a_partition_alone_is_named_and_measured(
    edges: tuple[OneEdge, OneEdge], tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = edges
    neighbours = (f"{tenant}-{number}" for number in itertools.count())
    neighbour = next(name for name in neighbours if partition_of(name) == partition_of(tenant))
    one.broker.depths |= {tenant: LaneDepth(45, 5, 0), neighbour: LaneDepth(50, 0, 0)}
    await one.refresh()
    assert one.view.skewed() == frozenset()
    one.broker.depths[neighbour] = LaneDepth(10, 0, 0)
    await one.refresh()
    assert one.view.skewed() == {tenant}
    share = one.gauges.values[("frostgate_hot_tenant_share", str(partition_of(tenant)))]
    assert share == pytest.approx(50 / 60)
    assert one.gauges.values[("frostgate_redis_queue_depth", tenant, "ingest")] == 45
    assert caplog.text.count("deeper than") == 2, "once for each tenant that came to WARN"
    one.broker.depths.clear()
    await one.refresh()
    assert one.gauges.values[("frostgate_redis_queue_depth", tenant, "ingest")] == 0
    assert one.view.skewed() == frozenset()


async def test_a_running_view_is_fresh_and_grows_with_the_queue(edges: tuple[OneEdge, OneEdge], tenant: str) -> None:
    one, other = edges
    stopping = asyncio.Event()
    running = [asyncio.create_task(edge.view.run(stopping)) for edge in edges]
    for edge in edges:
        edge.broker.depths[tenant] = LaneDepth(10, 0, 0)
    async with asyncio.timeout(20):
        while (depth := other.view.of(tenant)) is None or depth.slope_per_s <= 0:
            for edge in edges:
                edge.broker.depths[tenant] = LaneDepth(edge.broker.depths[tenant].ingest + 5, 0, 0)
            await asyncio.sleep(depths.INTERVAL_S / 4)
    stopping.set()
    await asyncio.gather(*running)
    assert one.view.of(tenant) is not None
