"""Turns: one kind of question waits for itself, and its wait is nobody else's latency."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from edge import turns
from edge.app import EdgeApp
from edge.authenticate import Authenticator
from edge.lookups import Lookups
from edge.ports import Component
from edge.settings import EdgeSettings
from edge.turns import Turns
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import EventKey
from schemas.principal import Principal, Scope
from tests.unit.edge.calling import Client
from tests.unit.edge.conftest import World

SOON_S = 0.01


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_S_MAX", SOON_S)


class Held:
    """Postgres, holding every answer back until it is let go."""

    def __init__(self) -> None:
        self.at_once = 1
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.lets_go = asyncio.Event()

    async def stored(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventKey]:
        self.asked.put_nowait(identities[0][1])
        await self.lets_go.wait()
        return {}

    async def life_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        del agent_id
        self.asked.put_nowait(tenant_id)
        await self.lets_go.wait()
        return event_id.encode()


async def test_who_waits_too_long_has_not_had_its_turn_and_takes_nobodys(impatient: None) -> None:
    del impatient
    one = Turns(1, Code.RATE_LIMITED)
    async with one.one():
        for _ in range(3):
            with pytest.raises(NoAnswer) as failure:
                async with one.one():
                    pytest.fail("a second turn at once")
            assert failure.value.code is Code.RATE_LIMITED
    async with one.one():
        pass


async def test_a_turn_that_fails_is_over() -> None:
    one = Turns(1, Code.STORE_UNAVAILABLE)
    for _ in range(2):
        with pytest.raises(ValueError):
            async with one.one():
                raise ValueError


async def test_a_wait_for_our_own_connections_says_nothing_about_postgres(world: World, impatient: None) -> None:
    del impatient
    held = Held()
    lookups = Lookups(held, world.gates)
    first = asyncio.create_task(lookups.stored("acme", ["a", "b"]))
    await held.asked.get()
    with pytest.raises(NoAnswer) as failure:
        await lookups.stored("acme", ["c", "d"])
    assert failure.value.code is Code.STORE_UNAVAILABLE
    assert world.gates.recorded == []
    held.lets_go.set()
    assert await first == {}
    assert world.gates.recorded == [(Component.POSTGRES, None, False)]


async def test_a_flood_of_invented_keys_does_not_delay_one_that_is_known(
    world: World, settings: EdgeSettings, impatient: None
) -> None:
    del impatient
    lets_go = asyncio.Event()
    asked: list[str] = []

    class Ring:
        async def authenticate(self, api_key: str) -> Principal | None:
            asked.append(api_key)
            if api_key.startswith("invented"):
                await lets_go.wait()
            return world.ring.principals.get(api_key)

    authenticator = Authenticator(Ring(), world.clock, settings)
    assert await authenticator.principal(b"Bearer key") is not None
    world.clock.advance(settings.key_fresh_ms + 1)
    flood = [asyncio.create_task(authenticator.principal(b"Bearer invented-%d" % number)) for number in range(20)]
    async with asyncio.timeout(20):
        given_up = await asyncio.gather(*flood[1:], return_exceptions=True)
    assert {type(one) for one in given_up} == {NoAnswer}
    assert await authenticator.principal(b"Bearer key") is not None
    assert asked == ["key", "invented-0", "key"]
    lets_go.set()
    assert await flood[0] is None


async def test_a_tenants_reads_wait_for_each_other_and_for_nobody_elses(
    world: World, settings: EdgeSettings, impatient: None
) -> None:
    del impatient
    held = Held()
    client = Client(EdgeApp(settings, dataclasses.replace(world.ports, lives=held)))
    for tenant_id in ("acme", "other"):
        world.ring.principals[tenant_id] = Principal("k", tenant_id, None, frozenset({Scope.EVENTS_READ}), "free")

    async def read(tenant_id: str) -> int:
        return (await client("GET", "/v1/events/evt-1", authorization=f"Bearer {tenant_id}")).status

    first = asyncio.create_task(read("acme"))
    assert await held.asked.get() == "acme"
    assert await read("acme") == 429
    other = asyncio.create_task(read("other"))
    assert await held.asked.get() == "other"
    held.lets_go.set()
    assert (await first, await other, await read("acme")) == (200, 200, 200)
