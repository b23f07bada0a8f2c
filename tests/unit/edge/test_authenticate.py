"""Bearer keys: freshness, staleness with the database away, single flight, bounds."""

import asyncio
from dataclasses import replace

import pytest

from edge import recall
from edge.authenticate import Authenticator
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.principal import Principal
from tests.unit.edge.conftest import World

BEARER = b"Bearer key"
PRINCIPAL = Principal("k2", "acme", None, frozenset(), "free")


@pytest.fixture
def authenticator(world: World, settings: EdgeSettings) -> Authenticator:
    return Authenticator(world.ring, world.clock, settings)


async def test_a_fresh_key_costs_no_question(world: World, authenticator: Authenticator) -> None:
    principal = world.ring.principals["key"]
    assert await authenticator.principal(BEARER) == principal
    assert await authenticator.principal(b"bEARER key") == principal
    assert world.ring.asked == 1


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer ", b"Basic key", b"key", b"Bearer " + b"k" * 513])
async def test_what_holds_no_key_is_refused_unasked(
    world: World, authenticator: Authenticator, header: bytes | None
) -> None:
    assert await authenticator.principal(header) is None
    assert world.ring.asked == 0


async def test_a_revocation_binds_once_the_key_is_no_longer_fresh(
    world: World, authenticator: Authenticator, settings: EdgeSettings
) -> None:
    assert await authenticator.principal(BEARER) is not None
    del world.ring.principals["key"]
    world.clock.advance(settings.key_fresh_ms)
    assert await authenticator.principal(BEARER) is not None
    world.clock.advance(1)
    assert await authenticator.principal(BEARER) is None


async def test_an_unknown_key_is_not_asked_about_again_at_once_but_soon(
    world: World, authenticator: Authenticator, settings: EdgeSettings
) -> None:
    assert await authenticator.principal(b"Bearer new") is None
    assert await authenticator.principal(b"Bearer new") is None
    assert world.ring.asked == 1
    world.ring.principals["new"] = world.ring.principals["key"]
    world.clock.advance(settings.key_fresh_ms + 1)
    assert await authenticator.principal(b"Bearer new") is not None


async def test_simultaneous_requests_share_one_question(world: World, authenticator: Authenticator) -> None:
    answers = await asyncio.gather(*(authenticator.principal(BEARER) for _ in range(20)))
    assert answers == [world.ring.principals["key"]] * 20
    assert world.ring.asked == 1


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(
    world: World, authenticator: Authenticator
) -> None:
    waiting = [asyncio.create_task(authenticator.principal(BEARER)) for _ in range(2)]
    await world.ring.began.get()
    waiting[0].cancel()
    assert await waiting[1] == world.ring.principals["key"]
    assert waiting[0].cancelled()


async def test_with_the_database_away_a_key_stays_valid_for_its_time_and_no_longer(
    world: World, authenticator: Authenticator, settings: EdgeSettings
) -> None:
    principal = await authenticator.principal(BEARER)
    world.ring.answers = False
    world.clock.advance(settings.key_stale_ms_max)
    assert await authenticator.principal(BEARER) == principal
    asked = world.ring.asked
    assert await authenticator.principal(BEARER) == principal
    assert world.ring.asked == asked, "a database that is away is not asked for every request"
    world.clock.advance(1)
    with pytest.raises(NoAnswer):
        await authenticator.principal(BEARER)


async def test_with_the_database_away_an_unverified_key_gets_no_answer(
    world: World, authenticator: Authenticator
) -> None:
    world.ring.answers = False
    with pytest.raises(NoAnswer):
        await authenticator.principal(BEARER)
    world.ring.answers = True
    assert await authenticator.principal(BEARER) is not None


async def test_a_clock_set_back_makes_no_verdict_fresh(world: World, authenticator: Authenticator) -> None:
    assert await authenticator.principal(BEARER) is not None
    del world.ring.principals["key"]
    world.clock.advance(-3_600_000)
    assert await authenticator.principal(BEARER) is None
    world.ring.principals["key"] = PRINCIPAL
    world.clock.advance(-3_600_000)
    assert await authenticator.principal(BEARER) == PRINCIPAL


async def test_the_caches_are_bounded_and_the_oldest_goes_first(
    world: World, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ENTRIES_MAX", 2)
    for name in ("a", "b", "c"):
        world.ring.principals[name] = replace(world.ring.principals["key"], key_id=name)
        await authenticator.principal(f"Bearer {name}".encode())
        await authenticator.principal(f"Bearer no-{name}".encode())
    asked = world.ring.asked
    for kept in (b"b", b"c", b"no-b", b"no-c"):
        await authenticator.principal(b"Bearer " + kept)
    assert world.ring.asked == asked
    await authenticator.principal(b"Bearer a")
    await authenticator.principal(b"Bearer no-a")
    assert world.ring.asked == asked + 2


async def test_no_key_is_kept(world: World, authenticator: Authenticator) -> None:
    await authenticator.principal(BEARER)
    memory = vars(vars(authenticator)["_principals"])
    kept = [*memory["_found"], *memory["_absent"], *memory["_asking"]]
    assert kept
    assert all(b"key" not in one for one in kept)
    assert world.ring.asked == 1
