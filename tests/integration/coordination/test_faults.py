"""A store that fails in any way refuses at once, is left as it was, and is used again once it has healed."""

import asyncio

import pytest
from redis.asyncio import Redis

from chaos.redis_proxy import Fault, RedisProxy
from edge.coordination import RedisCoordination
from edge.ports import Admission, Ask
from edge.redis_store import CONNECTIONS_MAX, redis_client
from schemas.answers import NoAnswer
from schemas.codes import Code
from tests.integration.coordination.conftest import (
    AMPLE,
    BOUND_S,
    SETTINGS,
    coordinating,
    now_s,
    signed,
)

Proxied = tuple[RedisProxy, str]
FAILING = [fault for fault in Fault if fault not in (Fault.NONE, Fault.NOSCRIPT_ONCE)]
ANSWER_S_MAX = 1
ASKS = 500
OTHERS_TASKS_MAX = 50
"""What an edge of the session may begin meanwhile; a pile would have hundreds."""
OWN_TASKS_MAX = 8
"""A call and its deadline for each of two sizes of asks, the background's, and the proxy's share."""


async def refused(coordination: RedisCoordination, ask: Ask) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            await coordination.admit(ask)
    except NoAnswer as failure:
        return failure.code is Code.RATE_LIMIT_BACKEND_UNAVAILABLE
    return False


async def answered(coordination: RedisCoordination, ask: Ask) -> Admission:
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return await coordination.admit(ask)
            except NoAnswer:
                continue


def asks(tenant: str) -> list[Ask]:
    """One of each kind: single, signed, batch, and none."""
    return [
        Ask(tenant, ["evt-1"], AMPLE),
        signed(tenant, "nonce", now_s()),
        Ask(tenant, [f"evt-{number}" for number in range(100)], AMPLE),
        Ask(tenant, [], AMPLE),
    ]


@pytest.mark.parametrize("fault", FAILING)
async def test_each_fault_refuses_in_time_writes_nothing_and_heals(
    proxied: Proxied, admin: "Redis", tenant: str, other_tenant: str, fault: Fault
) -> None:
    proxy, url = proxied
    await admin.set(f"fg:{{{tenant}}}:ep", 0)
    async with coordinating(url, SETTINGS) as coordination:
        await answered(coordination, Ask(other_tenant, ["evt-1"], AMPLE))
        proxy.switch(fault)
        for _ in range(2):
            for ask in asks(tenant):
                assert await refused(coordination, ask)
        assert await admin.keys(f"fg:{{{tenant}}}:*") == [f"fg:{{{tenant}}}:ep".encode()], "nothing was written"
        proxy.switch(Fault.NONE)
        await answered(coordination, Ask(other_tenant, ["evt-2"], AMPLE))
    async with coordinating(url) as later:
        single, once, batch, none = [await later.admit(ask) for ask in asks(tenant)]
    assert [single.refused, once.refused, batch.refused] == [None] * 3, "no nonce was taken"
    assert all([*single.admitted, *once.admitted, *batch.admitted])
    assert none.remaining > 0


async def test_a_store_that_lost_its_scripts_is_told_them_once(proxied: Proxied, tenant: str) -> None:
    proxy, url = proxied
    async with coordinating(url) as coordination:
        await answered(coordination, Ask(tenant, [], AMPLE))
        proxy.switch(Fault.NOSCRIPT_ONCE)
        answer = await coordination.admit(Ask(tenant, ["evt-1"], AMPLE))
        assert list(answer.admitted) == [True]


async def test_a_server_whose_scripts_were_flushed_goes_on(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await coordination.admit(Ask(tenant, [], AMPLE))
    await admin.script_flush()
    assert (await answered(coordination, Ask(tenant, ["evt-1"], AMPLE))).admitted


async def test_a_server_out_of_memory_refuses_everything_and_heals(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    """The real server's own refusal, not the proxy's."""
    await coordination.admit(Ask(tenant, [], AMPLE))
    size = (await admin.config_get("maxmemory"))["maxmemory"]
    await admin.config_set("maxmemory", "1")
    try:
        for ask in asks(tenant):
            assert await refused(coordination, ask)
        assert await admin.keys(f"fg:{{{tenant}}}:*") == []
    finally:
        await admin.config_set("maxmemory", size or "0")
    assert (await answered(coordination, Ask(tenant, ["evt-1"], AMPLE))).admitted


async def test_a_server_that_became_a_replica_refuses_everything_and_heals(
    coordination: RedisCoordination, admin: "Redis", tenant: str
) -> None:
    await coordination.admit(Ask(tenant, [], AMPLE))
    await admin.replicaof("127.0.0.1", 1)
    try:
        for ask in asks(tenant):
            assert await refused(coordination, ask)
    finally:
        await admin.replicaof("NO", "ONE")
    assert (await answered(coordination, Ask(tenant, ["evt-1"], AMPLE))).admitted


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.SLOW, Fault.HALF_OPEN, Fault.READONLY])
@pytest.mark.parametrize("ids", [1, 30])
async def test_who_waits_does_not_pile_up(proxied: Proxied, tenant: str, fault: Fault, ids: int) -> None:
    proxy, url = proxied
    client = redis_client(url)
    coordination = RedisCoordination(client, SETTINGS)
    ask = Ask(tenant, [f"evt-{number}" for number in range(ids)], AMPLE)
    await answered(coordination, ask)
    proxy.switch(fault)
    for _ in range(3):
        others = len(asyncio.all_tasks())
        all_asks = asyncio.gather(*(refused(coordination, ask) for _ in range(ASKS)))
        most = 0
        while not all_asks.done():
            most = max(most, len(asyncio.all_tasks()) - others)
            await asyncio.sleep(0.001)
        assert set(all_asks.result()) == {True}
        assert most <= ASKS + OWN_TASKS_MAX + CONNECTIONS_MAX + OTHERS_TASKS_MAX
        assert not coordination._small._waiting
        assert not coordination._large._waiting
        pool = client.connection_pool
        assert len(pool._in_use_connections) + len(pool._available_connections) <= CONNECTIONS_MAX
    proxy.switch(Fault.NONE)
    assert (await answered(coordination, ask)).refused is None
    await coordination.close()
