"""What a worker says of its stages: readiness, and the gauge of a storm, begin and end with what they tell."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ops.clock import SystemClock
from ops.evidence_files import EvidenceFiles
from ops.settings import load
from ops.stage_parts import StageParts
from ops.telemetry import PrometheusMeter
from ops.worker_service import Worker
from schemas.answers import NoAnswer
from schemas.codes import Code, DeadReason
from schemas.fate import DONE, Dead, Fate
from streams.delivery import IN_PROGRESS, Delivery
from streams.inbox import Inbox
from streams.runner import keep_settled
from streams.storm import ENDS_MIN
from tests.unit.streams.seeded_loop import run_seeded

WAIT_S_MAX = 600.0
"""On the loop's own clock, which jumps."""


class Stand:
    """One stage on a runner of a real worker, with stand-ins for all servers: what it is given ends as `fate` says."""

    connected = True

    def __init__(self, home: Path, stage: str) -> None:
        (home / "worm").mkdir()
        EvidenceFiles.of(home).ensure()
        settings = load({"FG_DATA_DIR": str(home)})
        self.name = stage
        self.fate: Fate = DONE
        self.away = False
        self.settled = 0
        self.meter = PrometheusMeter("worker")
        self._waiting: list[Delivery] = []
        servers = cast("Any", self)
        self.worker = Worker(settings, servers, servers, servers, self.meter)
        parts = StageParts(settings, servers, servers, servers, self.meter, SystemClock())
        self.runner = parts.runner(self, keep_settled)
        self.runner.add(cast("Inbox", self))
        self.worker._parts = parts
        self.worker._runners = [self.runner]

    def words(self) -> list[str]:
        """What readiness says about stages; nothing else of the worker runs."""
        return [reason for reason in self.worker.readiness().reasons if reason.startswith("stage ")]

    def storm_gauge(self) -> str:
        lines = self.meter.exposition()[0].decode().splitlines()
        return next((line for line in lines if line.startswith("frostgate_stage_dlq_storm{")), "")

    def give(self, *seqs: int) -> None:
        self._waiting += [Delivery("fg.x.3.acme", b"{}", f"q.{seq}.{self.name}", "FG_X", seq) for seq in seqs]
        self.runner.arrived.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not holds():  # noqa: ASYNC110  (the clock is the loop's own)
                await asyncio.sleep(0.05)

    # The stage.

    async def ready(self) -> bool:
        return not self.away

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        if self.away:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return [self.fate] * len(deliveries)

    # Its inbox.

    more = False

    async def open(self) -> None: ...

    async def pull(self) -> None: ...

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, messages_max: int) -> list[Delivery]:
        taken, self._waiting = self._waiting[:messages_max], self._waiting[messages_max:]
        return taken

    # The broker, the graveyard, the counts and the policy.

    findings: Sequence[str] = ()
    notices: Sequence[str] = ()

    async def settle(self, settlements: Iterable[tuple[str, bytes]]) -> None:
        self.settled += sum(verb != IN_PROGRESS for _, verb in settlements)

    async def bury(self, stage: str, dead: Sequence[object]) -> None: ...

    async def forget(self, stage: str, events: Sequence[object]) -> None: ...


@pytest.fixture
def on_a_stand(tmp_path: Path) -> Callable[..., None]:
    """Run a test's `steps` while the runner works."""

    def run(stage: str, steps: Callable[[Stand], Any]) -> None:
        async def main() -> None:
            stand, stopping = Stand(tmp_path, stage), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stand.runner.run(stopping))
                await steps(stand)
                stopping.set()

        run_seeded(main(), random.Random(1))

    return run


def test_readiness_names_a_paused_stage_until_it_goes_on(on_a_stand: Callable[..., None]) -> None:
    async def steps(stand: Stand) -> None:
        assert stand.words() == []
        stand.away = True
        stand.give(1)
        await stand.until(lambda: bool(stand.words()))
        assert stand.words() == ["stage decision is paused"]
        stand.away = False
        await stand.until(lambda: not stand.words())

    on_a_stand("decision", steps)


def test_readiness_and_the_gauge_name_a_storm_until_its_probe_is_done(on_a_stand: Callable[..., None]) -> None:
    async def steps(stand: Stand) -> None:
        stand.fate = Dead(DeadReason.STORE_REFUSED)
        stand.give(*range(ENDS_MIN - 1))
        await stand.until(lambda: stand.settled == ENDS_MIN - 1)
        assert (stand.words(), stand.storm_gauge()) == ([], "")
        stand.give(ENDS_MIN)
        await stand.until(lambda: bool(stand.words()))
        assert stand.words() == ["stage decision has a dead-letter storm"]
        assert stand.storm_gauge() == 'frostgate_stage_dlq_storm{stage="decision"} 1.0'
        stand.fate = DONE
        stand.give(ENDS_MIN + 1)
        await stand.until(lambda: not stand.words())
        assert stand.storm_gauge() == 'frostgate_stage_dlq_storm{stage="decision"} 0.0'

    on_a_stand("decision", steps)


def test_readiness_counts_the_evidence_that_does_not_get_through_until_it_does(
    on_a_stand: Callable[..., None],
) -> None:
    async def steps(stand: Stand) -> None:
        stand.fate = Dead(DeadReason.RETRY_BUDGET_EXHAUSTED)
        stand.give(1, 2)
        await stand.until(lambda: bool(stand.words()))
        assert stand.words() == ["stage evidence cannot get 2 of its events through"]
        stand.fate = DONE
        stand.give(2)
        await stand.until(lambda: stand.words() == ["stage evidence cannot get 1 of its events through"])
        stand.give(1)
        await stand.until(lambda: not stand.words())

    on_a_stand("evidence", steps)
