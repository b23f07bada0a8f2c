"""What turns a stage into runners: its budget, its guard against storms, and the tools all stages share."""

import asyncio
import random
from collections.abc import Mapping

from ops.settings import Settings
from schemas.meter import Meter
from schemas.units import Clock
from streams.budgets import StageBudget, stages
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.ports import Attempts
from streams.retry import BrokenTasks, RetryDesk, ScheduledRetries
from streams.runner import Runner, Settled, Stage, keep_settled
from streams.storm import StormGuard
from streams.work import StageWork, Tools

_chance = random.SystemRandom().random


class StageParts:
    """Makes the runners of one worker. Needs a running event loop: a guard counts by its clock."""

    def __init__(
        self,
        settings: Settings,
        jetstream: JetStream,
        graveyard: Graveyard,
        attempts: Attempts,
        meter: Meter,
        clock: Clock,
    ) -> None:
        self.budgets: Mapping[str, StageBudget] = {
            budget.stage: budget for budget in stages(settings.streams, settings.retry)
        }
        self._jetstream = jetstream
        self._tools = Tools(
            broker=jetstream,
            graveyard=graveyard,
            attempts=attempts,
            retry=ScheduledRetries(jetstream, settings.streams, clock),
            meter=meter,
            chance=_chance,
        )
        now_s = asyncio.get_running_loop().time
        self._guards = {stage: StormGuard(settings.retry.dlq_storm_ratio, now_s) for stage in self.budgets}

    @property
    def storms(self) -> list[str]:
        """The stages that take nothing because too many of their events ended dead."""
        return [stage for stage, guard in self._guards.items() if guard.storm]

    def runner(self, stage: Stage, settled: Settled) -> Runner:
        return Runner(self._work(stage, settled), self.budgets[stage.name], self._guards[stage.name])

    def retries(self, retried: Mapping[str, Stage]) -> Runner:
        """The runner of the retry lane, for these stages by name."""
        works = {name: self._work(stage, keep_settled) for name, stage in retried.items()}
        desk = RetryDesk(works, self._work(BrokenTasks(), keep_settled), self._jetstream)
        return Runner(desk, self.budgets[desk.name], self._guards[desk.name])

    def _work(self, stage: Stage, settled: Settled) -> StageWork:
        return StageWork(stage, self.budgets[stage.name], self._guards[stage.name], self._tools, settled)
