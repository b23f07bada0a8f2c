"""When the relay moves what was committed: at once, but behind a backlog of decisions, and never much later."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import cast

from schemas.rows import OutboxRow
from schemas.subjects import PARTITIONS
from streams.committer import GroupCommitter
from streams.relay import BACKLOG_ROWS, BACKLOG_S, GATHER_S, GIVE_WAY_S_MAX, Relay
from tests.unit.streams.seeded_loop import run_seeded

BATCH_S = 0.1


class _Outbox:
    """Empty; notes when it was asked."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def relay(
        self, partitions: Sequence[int], publish: Callable[[Sequence[OutboxRow]], Awaitable[None]], rows_max: int
    ) -> int:
        assert set(partitions) <= set(range(PARTITIONS))
        del publish, rows_max
        self.asked_s.append(asyncio.get_running_loop().time())
        return 0


def _passes(batches: int, rows: int) -> list[float]:
    """When the relay looks while so many batches are committed one after the other, and the 2 s after that."""
    outbox = _Outbox()

    async def main() -> None:
        relay = Relay(outbox, cast(GroupCommitter, None))
        stopping = asyncio.Event()
        relay.committed({1}, rows)
        running = asyncio.create_task(relay.run(stopping))
        for _ in range(batches):
            await asyncio.sleep(BATCH_S)
            relay.committed({1}, rows)
        await asyncio.sleep(2)
        stopping.set()
        relay.committed(set())
        await running

    run_seeded(main(), random.Random(1))
    return outbox.asked_s


def test_what_is_committed_in_small_batches_leaves_within_two_gatherings() -> None:
    passes = _passes(batches=20, rows=BACKLOG_ROWS - 1)
    assert passes[0] <= 2 * GATHER_S
    assert len(passes) >= 20 * BATCH_S / (2 * GATHER_S)


def test_behind_full_batches_it_waits_until_they_end() -> None:
    ended_s = 20 * BATCH_S
    passes = _passes(batches=20, rows=BACKLOG_ROWS)
    assert ended_s <= passes[0] <= ended_s + BACKLOG_S + 2 * GATHER_S


def test_a_backlog_without_end_holds_it_up_only_so_long() -> None:
    passes = _passes(batches=400, rows=BACKLOG_ROWS)
    assert passes[0] <= GIVE_WAY_S_MAX + 2 * GATHER_S
    assert all(later - earlier <= GIVE_WAY_S_MAX + 3 * GATHER_S for earlier, later in pairwise(passes))
