"""The 30 s memory of receipts, on the real Valkey."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.asyncio import Redis

from edge import hints as hints_module
from edge.hints import RedisHints, redis_client
from schemas.answers import NoAnswer
from schemas.envelope import EventKey
from tests.contract.conftest import Sender, until_hinted
from tests.contract.proxy import Proxy
from tests.contract.running import SETTINGS


@pytest.fixture
async def hints(redis: str) -> AsyncIterator[RedisHints]:
    made = RedisHints(redis_client(redis), SETTINGS)
    yield made
    await made.close()


@pytest.fixture
async def raw(redis: str) -> AsyncIterator["Redis"]:
    client = redis_client(redis)
    yield client
    await client.aclose()


def key(tenant_id: str, event_id: str) -> EventKey:
    return EventKey(tenant_id, event_id, "trace", "request", "2026-01-01T00:00:00.000Z", "FG_INGEST_0", 7, "hash")


async def test_what_is_remembered_is_recalled_in_order_and_nothing_else(
    hints: RedisHints, sender: Sender, other_sender: Sender, redis: str
) -> None:
    mine = [key(sender.tenant_id, f"evt-{number}") for number in range(5)]
    theirs = key(other_sender.tenant_id, "evt-0")
    hints.remember([*mine, theirs])
    await until_hinted(redis, sender, count=5)
    await until_hinted(redis, other_sender)
    asked = ["evt-3", "never", "evt-0"]
    assert await hints.recall(sender.tenant_id, asked) == [mine[3], None, mine[0]]
    assert await hints.recall(other_sender.tenant_id, asked) == [None, None, theirs]
    together = await asyncio.gather(
        hints.recall(sender.tenant_id, ["evt-1"]), hints.recall(other_sender.tenant_id, ["evt-0"])
    )
    assert list(together) == [[mine[1]], [theirs]], "single questions of two tenants share a call"


async def test_a_hint_lives_for_its_time_and_under_its_tenants_tag(
    hints: RedisHints, sender: Sender, redis: str, raw: "Redis"
) -> None:
    hints.remember([key(sender.tenant_id, "evt-0")])
    assert await until_hinted(redis, sender) == [f"fg:{{{sender.tenant_id}}}:h:evt-0".encode()]
    assert 0 < await raw.pttl(f"fg:{{{sender.tenant_id}}}:h:evt-0") <= SETTINGS.hint_ttl_ms


@pytest.mark.parametrize("value", [b"", b"\xc1", msgspec.msgpack.encode(["too", "short"])])
async def test_what_does_not_read_as_a_hint_is_none(
    hints: RedisHints, sender: Sender, raw: "Redis", value: bytes
) -> None:
    await raw.set(f"fg:{{{sender.tenant_id}}}:h:evt-0", value)
    assert await hints.recall(sender.tenant_id, ["evt-0"]) == [None]


async def test_the_hint_of_another_event_is_none(hints: RedisHints, sender: Sender, raw: "Redis") -> None:
    await raw.set(f"fg:{{{sender.tenant_id}}}:h:evt-0", msgspec.msgpack.encode(key(sender.tenant_id, "evt-1")))
    assert await hints.recall(sender.tenant_id, ["evt-0"]) == [None]


async def test_closing_writes_what_is_queued(redis: str, sender: Sender) -> None:
    hints = RedisHints(redis_client(redis), SETTINGS)
    hints.remember([key(sender.tenant_id, "evt-0")])
    await hints.close()
    assert len(await until_hinted(redis, sender)) == 1


async def test_hints_that_cannot_be_written_are_counted_and_bother_nobody(
    redis_proxy: tuple[Proxy, str], sender: Sender
) -> None:
    proxy, url = redis_proxy
    proxy.cut()
    hints = RedisHints(redis_client(url), SETTINGS)
    hints.remember([key(sender.tenant_id, f"evt-{number}") for number in range(3)])
    await hints.close()
    assert hints.lost == 3


async def test_beyond_its_bound_the_queue_drops_and_counts(
    redis: str, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints_module, "KEYS_QUEUED_MAX", 4)
    hints = RedisHints(redis_client(redis), SETTINGS)
    hints.remember([key(sender.tenant_id, f"evt-{number}") for number in range(3)])
    hints.remember([key(sender.tenant_id, f"evt-{number}") for number in range(3, 6)])
    hints.remember([key(sender.tenant_id, "evt-6")])
    assert hints.lost == 3
    await hints.close()
    assert len(await until_hinted(redis, sender, count=4)) == 4


async def test_a_store_that_is_too_slow_is_no_answer(redis_proxy: tuple[Proxy, str], sender: Sender) -> None:
    proxy, url = redis_proxy
    hints = RedisHints(redis_client(url), dataclasses.replace(SETTINGS, redis_timeout_ms=20))
    proxy.hold()
    for asked in (["evt-0"], ["evt-0", "evt-1"]):
        with pytest.raises(NoAnswer):
            await hints.recall(sender.tenant_id, asked)
    proxy.restore()
    await hints.close()
