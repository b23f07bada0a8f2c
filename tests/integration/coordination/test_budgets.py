"""What a tenant may send: the burst at once, the rate after it, and never more, on Redis's own clock."""

import asyncio
import itertools
import math
import struct

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from redis.asyncio import Redis

from edge.coordination import IDS_SMALL_MAX, RedisCoordination
from edge.ports import Ask, Budget
from tests.integration.coordination.conftest import stored_key

SLOW = Budget(rate_per_s=0.1, burst=5)
"""Nothing drains while a test runs."""
_numbers = itertools.count(1)
rates = st.floats(0.1, 1e9)
bursts = st.integers(1, 10**9)
on_one_server = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def ids(count: int, begin: int = 0) -> list[str]:
    return [f"evt-{number}" for number in range(begin, begin + count)]


async def now_us(admin: "Redis") -> int:
    seconds, microseconds = await admin.time()
    return int(seconds) * 1_000_000 + int(microseconds)


async def test_the_first_that_fit_pass_and_the_others_do_not(coordination: RedisCoordination, tenant: str) -> None:
    answer = await coordination.admit(Ask(tenant, ids(8), SLOW))
    assert list(answer.admitted) == [True] * 5 + [False] * 3
    assert answer.remaining == 0
    assert 9_000 < answer.retry_after_ms <= 10_000
    assert answer.refused is None


async def test_one_alone_learns_how_much_is_left(coordination: RedisCoordination, tenant: str) -> None:
    left = [(await coordination.admit(Ask(tenant, ids(1, number), SLOW))).remaining for number in range(6)]
    assert left == [4, 3, 2, 1, 0, 0]


async def test_asking_without_ids_charges_nothing(coordination: RedisCoordination, admin: "Redis", tenant: str) -> None:
    for _ in range(3):
        answer = await coordination.admit(Ask(tenant, [], SLOW))
        assert (answer.keys, answer.admitted, answer.tries) == ([], [], [])
        assert (answer.remaining, answer.retry_after_ms) == (5, 0)
    assert await admin.exists(f"fg:{{{tenant}}}:rl") == 0


async def test_a_tenants_budget_is_its_own(coordination: RedisCoordination, tenant: str, other_tenant: str) -> None:
    await coordination.admit(Ask(tenant, ids(8), SLOW))
    assert (await coordination.admit(Ask(other_tenant, [], SLOW))).remaining == 5


async def test_hinted_events_are_charged_to_a_budget_ten_times_as_large(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await remembered(coordination, admin, tenant, 60)
    answer = await coordination.admit(Ask(tenant, [*ids(60), "new-1"], SLOW))
    assert list(answer.admitted) == [True] * 50 + [False] * 10 + [True]
    assert answer.remaining == 4, "duplicates cost the budget nothing"


async def test_hinted_and_new_events_get_their_own_verdicts_where_they_were_asked(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await remembered(coordination, admin, tenant, 3)
    answer = await coordination.admit(Ask(tenant, ["new-1", "evt-0", "new-2", "evt-2", "new-3"], Budget(0.1, 2)))
    assert [key is not None for key in answer.keys] == [False, True, False, True, False]
    assert list(answer.admitted) == [True, True, True, True, False]


async def remembered(coordination: RedisCoordination, admin: "Redis", tenant: str, count: int) -> None:
    coordination.remember([stored_key(tenant, event_id) for event_id in ids(count)])
    async with asyncio.timeout(20):
        while await admin.exists(*(f"fg:{{{tenant}}}:h:{event_id}" for event_id in ids(count))) < count:
            continue


async def test_the_budget_is_forgotten_when_it_would_be_full_again(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await coordination.admit(Ask(tenant, ids(3), Budget(rate_per_s=2, burst=5)))
    assert 1_000 < await admin.pttl(f"fg:{{{tenant}}}:rl") <= 1_501
    await coordination.admit(Ask(tenant, ids(4, 3), Budget(rate_per_s=1_000, burst=5)))
    async with asyncio.timeout(20):
        while await admin.exists(f"fg:{{{tenant}}}:rl"):
            continue
    assert (await coordination.admit(Ask(tenant, [], SLOW))).remaining == 5


@on_one_server
@given(rate=rates, burst=bursts, idle_us=st.integers(-(10**13), 10**12), part=st.floats(0, 1))
async def test_a_bucket_drains_by_exactly_the_rate_and_never_by_a_clock_set_back(
    coordination: RedisCoordination, admin: "Redis", rate: float, burst: int, idle_us: int, part: float
) -> None:
    """No rounding makes a high rate unlimited or a low one nothing: the state is set, the drain observed."""
    tenant = "drained"
    level = burst * part
    last_us = await now_us(admin) - idle_us
    await admin.set(f"fg:{{{tenant}}}:rl", struct.pack("<dd", level, last_us))
    before_us = await now_us(admin)
    answer = await coordination.admit(Ask(tenant, [], Budget(rate, burst)))
    after_us = await now_us(admin)
    least, most = (
        min(burst, burst - level + max(0, moment_us - last_us) * rate / 1e6) for moment_us in (before_us, after_us)
    )
    assert math.floor(least) - 1 <= answer.remaining <= most + 1
    assert (answer.retry_after_ms == 0) == (answer.remaining > 0)


async def test_a_clock_set_back_counts_from_its_new_time_on(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    """Otherwise a tenant that was full would stay refused until the clock is where it was."""
    ahead_us = await now_us(admin) + 3_600_000_000
    await admin.set(f"fg:{{{tenant}}}:rl", struct.pack("<dd", 5, ahead_us))
    budget = Budget(rate_per_s=100, burst=5)
    assert list((await coordination.admit(Ask(tenant, ["evt-0"], budget))).admitted) == [False]
    async with asyncio.timeout(20):
        while not (await coordination.admit(Ask(tenant, ["evt-0"], budget))).admitted[0]:
            continue


@on_one_server
@given(
    rate=st.floats(0.1, 1e9),
    burst=st.integers(1, 200),
    sizes=st.lists(st.lists(st.integers(0, 2 * IDS_SMALL_MAX), max_size=6), min_size=8, max_size=8),
)
async def test_eight_callers_never_get_more_than_the_burst_and_the_rate_and_an_idle_bucket_gives_the_burst(
    coordination: RedisCoordination,
    admin: "Redis",
    rate: float,
    burst: int,
    sizes: list[list[int]],
) -> None:
    tenant = f"callers-{next(_numbers)}"
    budget = Budget(rate, burst)
    begun_us = await now_us(admin)

    async def caller(mine: list[int], name: int) -> int:
        admitted = 0
        for turn, size in enumerate(mine):
            asked = [f"{name}-{turn}-{event}" for event in range(size)]
            admitted += sum((await coordination.admit(Ask(tenant, asked, budget))).admitted)
        return admitted

    admitted = sum(await asyncio.gather(*(caller(mine, name) for name, mine in enumerate(sizes))))
    passed_s = (await now_us(admin) - begun_us) / 1e6
    asked = sum(map(sum, sizes))
    assert admitted <= burst + rate * passed_s + 1
    assert admitted >= min(asked, burst), "an idle bucket admits the burst"


async def test_what_is_refused_writes_nothing_but_its_tries(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await coordination.admit(Ask(tenant, ids(5), SLOW))
    before = await admin.get(f"fg:{{{tenant}}}:rl")
    assert not any((await coordination.admit(Ask(tenant, ids(3, 5), SLOW))).admitted)
    assert await admin.get(f"fg:{{{tenant}}}:rl") == before


@pytest.mark.parametrize("wait_ms", [50])
async def test_after_the_time_it_names_one_more_passes(
    coordination: RedisCoordination, admin: "Redis", tenant: str, wait_ms: int
) -> None:
    budget = Budget(rate_per_s=1_000 / wait_ms, burst=3)
    answer = await coordination.admit(Ask(tenant, ids(3), budget))
    asked_us = await now_us(admin)
    assert answer.retry_after_ms <= wait_ms
    async with asyncio.timeout(20):
        while await now_us(admin) < asked_us + answer.retry_after_ms * 1_000:
            continue
    assert list((await coordination.admit(Ask(tenant, ["evt-3"], budget))).admitted) == [True]
