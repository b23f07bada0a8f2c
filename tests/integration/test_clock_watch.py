"""Clocks that are apart are found, and a dependency that is away is no clock."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from edge.redis_store import redis_client
from ops import clock_watch
from ops.clock import SystemClock
from ops.clock_watch import ClockWatch
from ops.embedded import EmbeddedServers
from schemas.units import UnixMs
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from tests.integration.coordination.conftest import until


class MovableClock:
    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> UnixMs:
        return UnixMs(SystemClock().now_ms() + self.ahead_ms)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def client(servers: EmbeddedServers) -> AsyncIterator["Redis"]:
    made = redis_client(servers.redis_url)
    yield made
    await made.aclose()


@pytest.fixture
async def nowhere() -> AsyncIterator["Redis"]:
    made = redis_client("redis://127.0.0.1:1")
    yield made
    await made.aclose()


@pytest.fixture
async def pool(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    made = await Pool.open(PostgresSettings(dsn=servers.postgres_dsn("edge"), pool_size=2, statement_cache_size=0))
    yield made
    await made.close()


@pytest.fixture
async def pool_nowhere() -> AsyncIterator[Pool]:
    dsn = "postgresql://nobody@127.0.0.1:1/none"
    made = await Pool.open(PostgresSettings(dsn=dsn, pool_size=2, statement_cache_size=0))
    yield made
    await made.close()


async def test_clocks_that_agree_are_not_skewed(clock: MovableClock, client: "Redis", pool: Pool) -> None:
    watch = ClockWatch(clock, client, pool)
    assert watch.skewed(), "not compared is not known"
    await watch.check()
    assert watch.findings == []
    assert not watch.skewed()


@pytest.mark.parametrize(("ahead_ms", "word"), [(5_000, "behind"), (-5_000, "ahead")])
async def test_a_clock_apart_from_theirs_is_skewed_until_it_is_set_right(
    clock: MovableClock, client: "Redis", pool: Pool, ahead_ms: int, word: str
) -> None:
    watch = ClockWatch(clock, client, pool)
    clock.ahead_ms = ahead_ms
    await watch.check()
    assert watch.skewed()
    assert [finding.partition(" is ")[0] for finding in sorted(watch.findings)] == [
        "the clock of Postgres",
        "the clock of Redis",
    ]
    assert all(finding.endswith(word) for finding in watch.findings)
    clock.ahead_ms = 0
    await watch.check()
    assert not watch.skewed()


async def test_one_of_them_away_is_not_skew(
    clock: MovableClock, client: "Redis", nowhere: "Redis", pool: Pool, pool_nowhere: Pool
) -> None:
    for watch in (ClockWatch(clock, nowhere, pool), ClockWatch(clock, client, pool_nowhere)):
        await watch.check()
        assert not watch.skewed()
        clock.ahead_ms = 5_000
        await watch.check()
        assert len(watch.findings) == 1
        clock.ahead_ms = 0


async def test_the_last_comparison_stands_for_its_time(
    servers: EmbeddedServers, clock: MovableClock, pool_nowhere: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis_client(servers.redis_url)
    watch = ClockWatch(clock, client, pool_nowhere)
    await watch.check()
    monkeypatch.setattr(watch, "_client", redis_client("redis://127.0.0.1:1"))
    clock.ahead_ms = 5_000
    await watch.check()
    assert not watch.skewed(), "nobody said so"
    monkeypatch.setattr(clock_watch, "AGE_S_MAX", 0.0)
    assert watch.findings == ["the clocks were not compared for 0 s"]
    await client.aclose()


async def test_it_compares_until_it_is_stopped(clock: MovableClock, client: "Redis", pool: Pool) -> None:
    clock.ahead_ms = 5_000
    watch = ClockWatch(clock, client, pool)
    stopping = asyncio.Event()
    running = asyncio.create_task(watch.run(stopping))
    await until(lambda: len(watch.findings) == 2)
    clock.ahead_ms = 0
    await until(lambda: not watch.skewed())
    stopping.set()
    await running
