"""How often an event was offered again: known for those that were refused, bounded for everybody."""

import asyncio

from redis.asyncio import Redis

from edge.coordination import TRIES_FIELDS_MAX, RedisCoordination
from edge.ports import Ask, Budget
from tests.integration.coordination.conftest import AMPLE, BOUND_S, SETTINGS, stored_key

NONE_LEFT = Budget(rate_per_s=0.1, burst=1)


async def tries(coordination: RedisCoordination, tenant: str, *event_ids: str, budget: Budget = AMPLE) -> list[int]:
    return list((await coordination.admit(Ask(tenant, event_ids, budget))).tries)


async def test_a_first_offer_that_passes_stores_nothing(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    assert await tries(coordination, tenant, "evt-0", "evt-1") == [0, 0]
    assert await tries(coordination, tenant, "evt-0", "evt-1") == [0, 0]
    assert await admin.exists(f"fg:{{{tenant}}}:t") == 0


async def test_an_event_refused_for_its_rate_is_counted_from_then_on(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    assert await tries(coordination, tenant, "passes", "evt-0", budget=NONE_LEFT) == [0, 0]
    assert await tries(coordination, tenant, "evt-0", budget=NONE_LEFT) == [1]
    assert await tries(coordination, tenant, "evt-0", "passes") == [2, 0]
    assert await admin.hkeys(f"fg:{{{tenant}}}:t") == [b"evt-0"]
    assert 0 < await admin.pttl(f"fg:{{{tenant}}}:t") <= SETTINGS.tries_window_ms


async def test_the_duplicate_of_a_stored_event_is_an_offer_again(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    coordination.remember([stored_key(tenant, "evt-0")])
    async with asyncio.timeout(BOUND_S):
        while not await admin.exists(f"fg:{{{tenant}}}:h:evt-0"):
            continue
    assert await tries(coordination, tenant, "evt-0") == [1]
    assert await tries(coordination, tenant, "evt-1", "evt-0") == [0, 2]


async def test_an_event_refused_after_its_admission_is_counted_once_noted(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    assert await tries(coordination, tenant, "evt-0") == [0]
    coordination.tried(tenant, ["evt-0", "evt-1"])
    async with asyncio.timeout(BOUND_S):
        while await admin.hlen(f"fg:{{{tenant}}}:t") < 2:
            continue
    assert 0 < await admin.pttl(f"fg:{{{tenant}}}:t") <= SETTINGS.tries_window_ms
    assert await tries(coordination, tenant, "evt-0", "evt-1", "evt-2") == [1, 1, 0]


async def test_a_flood_of_ids_fills_no_more_than_its_share(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await tries(coordination, tenant, "first", budget=NONE_LEFT)
    for part in range(3):
        await tries(coordination, tenant, *(f"evt-{part}-{number}" for number in range(500)), budget=NONE_LEFT)
    assert await admin.hlen(f"fg:{{{tenant}}}:t") == TRIES_FIELDS_MAX
    coordination.tried(tenant, ["one-more"])
    assert await tries(coordination, tenant, "evt-0-0", "evt-2-499", budget=NONE_LEFT) == [1, 0]
    assert coordination._writing is not None
    await coordination._writing
    assert await admin.hlen(f"fg:{{{tenant}}}:t") == TRIES_FIELDS_MAX
