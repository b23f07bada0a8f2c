"""One stage's work on a bench: a world without faults of its own, and what the broker was told."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.fate import DONE, Fate
from streams.budgets import BACKOFF_MS, StageBudget, budget_of
from streams.delivery import Delivery
from streams.retry import Impatient, LaneSettler, RetryDesk
from streams.runner import keep_settled
from streams.storm import StormGuard
from streams.work import StageWork, Tools
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.stage_world import INNOCENT, SUBJECT, World
from tests.unit.streams.test_work_seeded import RETRY, STREAMS

SILENT = NoAnswer(Code.STORE_UNAVAILABLE)


def delivery_of(seq: int = 1, *, suspect: bool = False) -> Delivery:
    return Delivery(SUBJECT, INNOCENT, f"q.{seq}.1", "FG_DECIDE", seq, suspect)


def budget_named(stage: str) -> StageBudget:
    return budget_of(stage, STREAMS, RETRY)


class Bench:
    """One stage's work in a world without faults of its own; `settled` holds what the broker was told."""

    def __init__(self) -> None:
        self.world = World(random.Random(1))
        self.settled: list[tuple[str, bytes]] = []
        self.counted = 0
        self.answers: list[Fate | NoAnswer] = []
        self.runs: list[int] = []
        self.name = "decision"
        self.away = False
        self.main_paused = False
        self.guard = StormGuard(0.5, lambda: asyncio.get_running_loop().time())

    async def ready(self) -> bool:
        return not self.away and await self.world.ready()

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        self.runs.append(len(deliveries))
        if not await self.ready():
            raise SILENT
        answer = self.answers.pop(0) if self.answers else DONE
        if isinstance(answer, NoAnswer):
            raise answer
        return [answer] * len(deliveries)

    connected = True

    async def settle(self, settlements: Iterable[tuple[str, bytes]]) -> None:
        self.settled += [(reply, verb) for reply, verb in settlements if verb != b"+WPI"]

    async def begin(self, stage: str, events: Sequence[tuple[str, str]]) -> list[int]:
        self.counted += len(events)
        return await self.world.begin(stage, events)

    def __getattr__(self, name: str) -> object:
        """The ports this bench does not watch are the world's."""
        return getattr(self.world, name)

    def tools(self) -> Tools:
        ports = cast("World", self)
        return Tools(broker=self, graveyard=ports, attempts=ports, retry=ports, meter=self.world, chance=lambda: 0.5)

    def work(self, tools: Tools | None = None) -> StageWork:
        return StageWork(self, budget_named(self.name), self.guard, tools or self.tools(), keep_settled)

    def desk(self) -> RetryDesk:
        """The desk of a retry lane whose one stage is this one."""
        settler = LaneSettler(self, cast("World", self), BACKOFF_MS[0], self.world.settled_in_lane.append)
        tools = replace(self.tools(), broker=settler)
        work = StageWork(Impatient(self), budget_named(self.name), self.guard, tools, keep_settled)
        return RetryDesk({self.name: work}, work, settler, lambda _: self.main_paused)

    def try_out(self, *deliveries: Delivery) -> None:
        async def main() -> None:
            await self.work().work(deliveries, asyncio.Event())

        run_seeded(main(), random.Random(1))
