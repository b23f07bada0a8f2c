"""The 30 s memory of receipts, on the real Valkey."""

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from chaos.redis_proxy import Fault, RedisProxy
from edge import coordination as coordination_module
from edge.coordination import RedisCoordination
from edge.ports import Ask
from ops.embedded import EmbeddedServers
from tests.integration.coordination.conftest import AMPLE, BOUND_S, SETTINGS, coordinating, stored_key


async def until_hinted(admin: "Redis", tenant: str, count: int = 1) -> list[bytes]:
    names: list[bytes] = []
    async with asyncio.timeout(BOUND_S):
        while len(names) < count:
            names = [name async for name in admin.scan_iter(f"fg:{{{tenant}}}:h:*", count=10_000)]
    return names


async def test_what_is_remembered_is_recalled_in_order_and_nothing_else(
    coordination: RedisCoordination, admin: "Redis", tenant: str, other_tenant: str
) -> None:
    mine = [stored_key(tenant, f"evt-{number}") for number in range(5)]
    theirs = stored_key(other_tenant, "evt-0")
    coordination.remember([*mine, theirs])
    await until_hinted(admin, tenant, count=5)
    await until_hinted(admin, other_tenant)
    asked = ["evt-3", "never", "evt-0"]
    first, second = await asyncio.gather(
        coordination.admit(Ask(tenant, asked, AMPLE)), coordination.admit(Ask(other_tenant, asked, AMPLE))
    )
    assert first.keys == [mine[3], None, mine[0]]
    assert second.keys == [None, None, theirs], "the questions of two tenants share a call, and nothing else"
    assert list(first.admitted) == list(second.admitted) == [True] * 3
    many = [f"evt-{number}" for number in range(30)]
    large = await coordination.admit(Ask(tenant, many, AMPLE))
    assert list(large.keys) == [*mine, *[None] * 25]


async def test_a_hint_lives_for_its_time_and_under_its_tenants_tag(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    coordination.remember([stored_key(tenant, "evt-0")])
    assert await until_hinted(admin, tenant) == [f"fg:{{{tenant}}}:h:evt-0".encode()]
    assert 0 < await admin.pttl(f"fg:{{{tenant}}}:h:evt-0") <= SETTINGS.hint_ttl_ms


@pytest.mark.parametrize("value", [b"", b"\xc1", msgspec.msgpack.encode(["too", "short"])])
async def test_what_does_not_read_as_a_hint_is_none(
    coordination: RedisCoordination, admin: "Redis", tenant: str, value: bytes
) -> None:
    await admin.set(f"fg:{{{tenant}}}:h:evt-0", value)
    assert (await coordination.admit(Ask(tenant, ["evt-0"], AMPLE))).keys == [None]


async def test_the_hint_of_another_event_is_none(coordination: RedisCoordination, admin: "Redis", tenant: str) -> None:
    await admin.set(f"fg:{{{tenant}}}:h:evt-0", msgspec.msgpack.encode(stored_key(tenant, "evt-1")))
    assert (await coordination.admit(Ask(tenant, ["evt-0"], AMPLE))).keys == [None]


async def test_closing_writes_what_is_queued(store: EmbeddedServers, admin: "Redis", tenant: str) -> None:
    async with coordinating(store.redis_url) as coordination:
        coordination.remember([stored_key(tenant, "evt-0")])
    assert len(await until_hinted(admin, tenant)) == 1


async def test_notes_that_cannot_be_written_are_counted_and_bother_nobody(
    proxied: tuple[RedisProxy, str], tenant: str
) -> None:
    proxy, url = proxied
    proxy.switch(Fault.DOWN)
    async with coordinating(url) as coordination:
        coordination.remember([stored_key(tenant, f"evt-{number}") for number in range(3)])
        coordination.tried(tenant, ["evt-0"])
    assert coordination.lost == 4


async def test_beyond_its_bound_the_queue_drops_and_counts(
    store: EmbeddedServers, admin: "Redis", tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordination_module, "NOTES_QUEUED_MAX", 4)
    async with coordinating(store.redis_url) as coordination:
        coordination.remember([stored_key(tenant, f"evt-{number}") for number in range(3)])
        coordination.remember([stored_key(tenant, f"evt-{number}") for number in range(3, 6)])
        coordination.remember([stored_key(tenant, "evt-6")])
        assert coordination.lost == 3
    assert len(await until_hinted(admin, tenant, count=4)) == 4
