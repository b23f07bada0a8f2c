"""No signature passes twice, whatever becomes of the memory that knows it."""

import asyncio
import math

import pytest
from redis.asyncio import Redis

from edge.coordination import RedisCoordination, make_epoch
from edge.ports import Admission, Ask, Budget
from edge.redis_store import redis_client
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.redis_watch import RedisWatch
from schemas.answers import NoAnswer
from schemas.codes import Code
from tests.integration.coordination.conftest import AMPLE, BOUND_S, coordinating, now_s, signed

OLD_MS = 10_000


async def an_old_epoch(admin: "Redis", tenant: str) -> None:
    """As if the tenant's key had been issued some time ago."""
    await admin.set(f"fg:{{{tenant}}}:ep", now_s() * 1_000 - OLD_MS)


async def nothing_happened(admin: "Redis", tenant: str, answer: Admission) -> bool:
    charged = await admin.exists(f"fg:{{{tenant}}}:rl", f"fg:{{{tenant}}}:rd", f"fg:{{{tenant}}}:t")
    return not charged and not any(answer.admitted) and not any(answer.keys)


async def test_of_fifty_with_the_same_nonce_exactly_one_passes(
    store: EmbeddedServers, coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await an_old_epoch(admin, tenant)
    async with coordinating(store.redis_url) as other:
        answers = await asyncio.gather(
            *((coordination, other)[number % 2].admit(signed(tenant, "n", now_s())) for number in range(50))
        )
    refused = [answer.refused for answer in answers]
    assert sorted(refused, key=str) == [None, *[Code.REPLAY_DETECTED] * 49]
    assert (await coordination.admit(Ask(tenant, [], AMPLE))).remaining >= AMPLE.burst - 1, "refused means not charged"


async def test_a_nonce_is_one_of_its_key_and_tenant(
    coordination: RedisCoordination, admin: "Redis", tenant: str, other_tenant: str
) -> None:
    for one in (tenant, other_tenant):
        await an_old_epoch(admin, one)
        assert (await coordination.admit(signed(one, "n", now_s()))).refused is None
    ask = signed(tenant, "n", now_s())
    assert ask.nonce is not None
    assert (await coordination.admit(ask._replace(nonce=ask.nonce._replace(key_id="key-2")))).refused is None


async def test_a_nonce_is_kept_longer_than_its_signature_is_taken(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await an_old_epoch(admin, tenant)
    assert (await coordination.admit(signed(tenant, "n", now_s()))).refused is None
    assert 130_000 < await admin.pttl(f"fg:{{{tenant}}}:n:key-1:n") <= 135_000


async def test_what_is_refused_for_its_rate_leaves_no_nonce_behind(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    """Else one tenant could fill the store, and the next refusal would be everybody's."""
    await an_old_epoch(admin, tenant)
    spent = Budget(0.001, 1)
    for number in range(20):
        ask = signed(tenant, f"n-{number}", now_s())
        await coordination.admit(ask._replace(budget=spent))
    assert [name async for name in admin.scan_iter(f"fg:{{{tenant}}}:n:*")] == [f"fg:{{{tenant}}}:n:key-1:n-0".encode()]


@pytest.mark.parametrize("ahead_s", [-125, -1_000_000, 10, 1_000_000])
async def test_outside_of_the_window_nothing_passes_and_nothing_is_charged(
    coordination: RedisCoordination, admin: "Redis", tenant: str, ahead_s: int
) -> None:
    await admin.set(f"fg:{{{tenant}}}:ep", 0)
    answer = await coordination.admit(signed(tenant, "n", now_s() + ahead_s))
    assert answer.refused is Code.REPLAY_WINDOW_CLOSED
    assert answer.retry_after_ms == 1_000, "a new signature passes at once"
    assert await nothing_happened(admin, tenant, answer)
    assert await admin.exists(f"fg:{{{tenant}}}:n:key-1:n") == 0


@pytest.mark.parametrize("ahead_s", [-110, 0, 4])
async def test_within_the_window_a_new_nonce_passes(
    coordination: RedisCoordination, admin: "Redis", tenant: str, ahead_s: int
) -> None:
    await admin.set(f"fg:{{{tenant}}}:ep", 0)
    assert (await coordination.admit(signed(tenant, "n", now_s() + ahead_s))).refused is None


async def test_a_new_epoch_refuses_what_may_have_been_seen_before_it(
    store: EmbeddedServers, coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    client = redis_client(store.redis_url)
    await make_epoch(client, tenant)
    begun = await admin.get(f"fg:{{{tenant}}}:ep")
    assert await admin.pttl(f"fg:{{{tenant}}}:ep") == -1
    await make_epoch(client, tenant)
    assert await admin.get(f"fg:{{{tenant}}}:ep") == begun, "an epoch that has begun is not moved"
    await client.aclose()
    answer = await coordination.admit(signed(tenant, "n", now_s()))
    assert answer.refused is Code.REPLAY_WINDOW_CLOSED
    assert await nothing_happened(admin, tenant, answer)


async def test_without_a_server_no_epoch_is_said_to_have_begun(store: EmbeddedServers, tenant: str) -> None:
    client = redis_client(store.redis_url.replace("frostgate:", "frostgate:not-"))
    with pytest.raises(NoAnswer) as caught:
        await make_epoch(client, tenant)
    assert caught.value.code is Code.RATE_LIMIT_BACKEND_UNAVAILABLE
    await client.aclose()


@pytest.mark.parametrize("ahead_s", [-125, -3, 0, 10])
async def test_while_an_epoch_is_young_a_refusal_says_when_a_new_signature_passes(
    coordination: RedisCoordination, admin: "Redis", tenant: str, ahead_s: int
) -> None:
    """Signed so much later, it passes: no second is missing, though `created` is cut down to whole ones."""
    begun_ms = SystemClock().now_ms() + 1_000_000
    await admin.set(f"fg:{{{tenant}}}:ep", begun_ms)
    before_ms = SystemClock().now_ms()
    answer = await coordination.admit(signed(tenant, "n", now_s() + ahead_s))
    after_ms = SystemClock().now_ms()
    assert answer.refused is Code.REPLAY_WINDOW_CLOSED
    opens_ms = math.ceil((begun_ms + 5_000) / 1_000) * 1_000
    assert opens_ms - after_ms <= answer.retry_after_ms <= opens_ms - before_ms + 1


async def test_an_epoch_that_begins_now_costs_six_seconds_at_most(coordination: RedisCoordination, tenant: str) -> None:
    answer = await coordination.admit(signed(tenant, "n", now_s()))
    assert answer.refused is Code.REPLAY_WINDOW_CLOSED
    assert 5_000 <= answer.retry_after_ms <= 6_000


async def test_a_replay_may_be_signed_anew_at_once(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await an_old_epoch(admin, tenant)
    ask = signed(tenant, "n", now_s())
    assert [(await coordination.admit(ask)).refused for _ in range(2)] == [None, Code.REPLAY_DETECTED]
    assert (await coordination.admit(ask)).retry_after_ms == 0


async def until_passed(coordination: RedisCoordination, tenant: str, name: str) -> None:
    """Sign anew until one passes, as an agent does; the window is closed for some seconds only."""
    async with asyncio.timeout(BOUND_S):
        for number in range(10_000):
            if (await coordination.admit(signed(tenant, f"{name}-{number}", now_s()))).refused is None:
                return
            await asyncio.sleep(0.05)


async def test_after_a_flush_no_replay_passes_and_new_signatures_do(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await an_old_epoch(admin, tenant)
    used = [signed(tenant, f"used-{ahead_s}", now_s() + ahead_s) for ahead_s in (-5, 0, 3)]
    assert [(await coordination.admit(ask)).refused for ask in used] == [None] * 3
    await admin.flushall()
    assert [(await coordination.admit(ask)).refused for ask in used] == [Code.REPLAY_WINDOW_CLOSED] * 3
    await until_passed(coordination, tenant, "fresh")
    assert all([(await coordination.admit(ask)).refused is not None for ask in used])


async def test_after_a_crash_of_the_server_every_nonce_is_still_known(
    store: EmbeddedServers, coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await an_old_epoch(admin, tenant)
    used = [signed(tenant, f"used-{number}", now_s()) for number in range(20)]
    answers = await asyncio.gather(*map(coordination.admit, used))
    assert [answer.refused for answer in answers] == [None] * 20
    await store.children["valkey"].kill()
    await store.restart("valkey")
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                answers = await asyncio.gather(*map(coordination.admit, used))
            except NoAnswer:
                continue
            break
    assert [answer.refused for answer in answers] == [Code.REPLAY_DETECTED] * 20


async def test_a_server_that_evicts_is_no_longer_proven(store: EmbeddedServers, admin: "Redis") -> None:
    """Evicted nonces open a replay and leave the epoch standing, so such a server must not be asked."""
    client = redis_client(store.redis_url)
    watch = RedisWatch(client, "dev")
    await watch.check()
    assert watch.proven()
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        await watch.check()
        assert watch.findings == ["maxmemory-policy of the coordination store must be noeviction, and is allkeys-lru"]
        assert not watch.proven()
    finally:
        await admin.config_set("maxmemory-policy", "noeviction")
    await watch.check()
    assert watch.proven()
    await client.aclose()
