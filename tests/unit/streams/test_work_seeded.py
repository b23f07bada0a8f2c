"""The stage core under a few hundred seeds of faults, on an event loop whose order is a seed's.

Whatever the seed, every delivery is settled, none before its effect, no effect is doubled, what can
be decided is, and only what cannot be ends dead. `FG_TEST_SEED` runs one seed alone.
"""

import asyncio
import os
import random
from dataclasses import replace
from typing import cast

import pytest

from schemas.codes import DeadReason
from streams.budgets import BACKOFF_MS, StageBudget, budget_of
from streams.inbox import Inbox
from streams.retry import BrokenTasks, Impatient, LaneSettler, RetryDesk
from streams.runner import Runner, keep_settled
from streams.settings import RetrySettings, StreamSettings
from streams.storm import StormGuard
from streams.work import StageWork, Tools
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.stage_world import DEADLY, INNOCENT, LATE, MUTE, REFUSED, Killed, World, WorldInbox

SEEDS = range(200)
ATTEMPTS_MAX = 5
WORLD_S_MAX = 3_000
STREAMS = StreamSettings(url="", system_url="", replicas=1, shards=1, tenant_messages_max=12_000)
RETRY = RetrySettings(
    attempts_max=ATTEMPTS_MAX, window_seconds=900, dlq_age_seconds_max=1, dlq_alert_depth=1, dlq_storm_ratio=1.0
)


def _budget(stage: str) -> StageBudget:
    return budget_of(stage, STREAMS, RETRY)


def _worker(world: World) -> list[Runner]:
    """A runner of the stage and one of the retry lane, as `ops/stage_parts.py` makes them."""
    loop = asyncio.get_running_loop()
    tools = Tools(broker=world, graveyard=world, attempts=world, retry=world, meter=world, chance=world.chance.random)
    guard = StormGuard(2.0, loop.time)  # never reached: what a storm does has tests of its own
    settler = LaneSettler(world, world, BACKOFF_MS[0], world.settled_in_lane.append)
    lane_tools = replace(tools, broker=settler)
    works = [
        StageWork(world, _budget("decision"), guard, tools, keep_settled),
        StageWork(Impatient(world), _budget("decision"), guard, lane_tools, keep_settled),
    ]
    broken = StageWork(BrokenTasks(), _budget("retry"), guard, lane_tools, keep_settled)
    stage = Runner(works[0], _budget("decision"), guard)
    desk = RetryDesk({"decision": works[1]}, broken, settler, lambda _: works[0].paused)
    retry = Runner(desk, _budget("retry"), guard)
    stage.add(cast("Inbox", WorldInbox(world, "FG_DECIDE")))
    retry.add(cast("Inbox", WorldInbox(world, "FG_RETRY")))
    return [stage, retry]


async def _live(world: World) -> None:
    """Work until everything is settled; a worker that is killed gets a successor."""
    while world.unsettled:
        stopping = asyncio.Event()
        tasks = [asyncio.ensure_future(runner.run(stopping)) for runner in _worker(world)]
        while world.unsettled and not any(task.done() for task in tasks):
            await asyncio.sleep(5)
            assert asyncio.get_running_loop().time() < WORLD_S_MAX, f"unsettled: {world.unsettled}"
            if world.silent_left:  # whose failure it is shows while others get through
                world.store(INNOCENT)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if ended is not None and not isinstance(ended, Killed | asyncio.CancelledError):
                raise ended
        world.restarted()


def _check(world: World, of: bytes, effects: bool, reason: DeadReason | None) -> None:
    for seq in (message.seq for message in world.messages.values() if message.data == of):
        letter = world.letters.get(seq)
        assert (seq in world.effects, letter and letter.reason) == (effects, reason), (of, seq)


@pytest.mark.parametrize("seed", [int(os.environ["FG_TEST_SEED"])] if "FG_TEST_SEED" in os.environ else SEEDS)
def test_whatever_fails_every_delivery_is_settled_once_after_its_effect(seed: int) -> None:
    print(f"FG_TEST_SEED={seed}")
    chance = random.Random(seed)
    # Company costs an innocent two attempts at most, so two kills from outside leave it its last one.
    world = World(chance, kills_left=chance.randint(0, 2), fault_rate=chance.choice((0.0, 0.02, 0.1)))
    kinds = [INNOCENT] * chance.randint(0, 80)
    for of in (MUTE, REFUSED, DEADLY, LATE):
        kinds += [of] * chance.randint(0, 2)
    chance.shuffle(kinds)
    world.store(*kinds)
    run_seeded(_live(world), chance)
    _check(world, INNOCENT, effects=True, reason=None)
    _check(world, REFUSED, effects=False, reason=DeadReason.STORE_REFUSED)
    _check(world, MUTE, effects=False, reason=DeadReason.RETRY_BUDGET_EXHAUSTED)
    _check(world, DEADLY, effects=False, reason=DeadReason.RETRY_BUDGET_EXHAUSTED)
    # A letter of what is decided is made, and takes no effect: tests/integration/sinks/test_dead_letters.py.
    _check(world, LATE, effects=True, reason=DeadReason.RETRY_BUDGET_EXHAUSTED)
    assert all(len(world.runs[letter.delivery.seq]) > 0 for letter in world.letters.values())


@pytest.mark.parametrize("seed", range(20))
def test_five_kills_in_a_row_bury_nobody(seed: int) -> None:
    chance = random.Random(seed)
    world = World(chance, kills_left=5)
    world.store(*[INNOCENT] * 70)
    run_seeded(_live(world), chance)
    assert world.letters == {}
    assert world.effects == set(world.messages)
