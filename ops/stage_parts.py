"""What turns a stage into runners: its budget, its guard against storms, and the tools all stages share."""

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from ops.settings import Settings
from schemas.meter import Meter
from schemas.metrics import STAGE_STORM
from schemas.units import Clock
from streams.budgets import StageBudget, stages
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.ports import Attempts
from streams.retry import BrokenTasks, Impatient, LaneSettler, RetryDesk, ScheduledRetries
from streams.runner import Runner, Settled, Stage, keep_settled
from streams.storm import StormGuard
from streams.work import StageWork, Tools

log = logging.getLogger("ops")

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
        ratio = settings.retry.dlq_storm_ratio
        self._guards = {
            stage: StormGuard(ratio, now_s, functools.partial(_report_storm, stage, meter)) for stage in self.budgets
        }

        self._lanes: dict[str, list[StageWork]] = {}

    @property
    def storms(self) -> list[str]:
        """The stages that take nothing because too many of their events ended dead."""
        return [stage for stage, guard in self._guards.items() if guard.storm]

    @property
    def overdue(self) -> dict[str, int]:
        """By stage, how many events it cannot get through and must not let end dead."""
        return {stage: len(blame.overdue) for stage, blame in self._tools.blame.items() if blame.overdue}

    def runner(self, stage: Stage, settled: Settled) -> Runner:
        work = StageWork(stage, self.budgets[stage.name], self._guards[stage.name], self._tools, settled)
        self._lanes.setdefault(stage.name, []).append(work)
        return Runner(work, self.budgets[stage.name], self._guards[stage.name])

    def retries(self, retried: Mapping[str, Stage], settled: Callable[[int], None]) -> Runner:
        """The runner of the retry lane, for these stages by name. `settled` is told what of the lane was settled."""
        budget = self.budgets[RetryDesk.name]
        settler = LaneSettler(self._jetstream, self._tools.retry, budget.backoff_ms[0], settled)
        tools = replace(self._tools, broker=settler)
        works = {
            name: StageWork(Impatient(stage), self.budgets[name], self._guards[name], tools, keep_settled)
            for name, stage in retried.items()
        }
        broken = StageWork(BrokenTasks(), budget, self._guards[RetryDesk.name], tools, keep_settled)
        desk = RetryDesk(works, broken, settler, self._paused)
        return Runner(desk, budget, self._guards[desk.name])

    def _paused(self, stage: str) -> bool:
        return any(work.paused for work in self._lanes.get(stage, ()))


def _report_storm(stage: str, meter: Meter, storm: bool) -> None:
    if storm:
        log.error("stage %s takes no more: too many of its events end dead", stage)
    else:
        log.warning("stage %s goes on: its probe was done, or it has nothing to probe with", stage)
    meter.add(STAGE_STORM, int(storm), stage)
