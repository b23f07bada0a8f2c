"""Who waits for whom: a last attempt runs beside nobody, and nobody waits for what it waits for."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

import pytest

from schemas.answers import NotNow
from schemas.codes import Code
from schemas.fate import DONE, Fate
from streams.delivery import ACK, IN_PROGRESS, Delivery
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.stage_bench import SILENT, Bench, delivery_of
from tests.unit.streams.test_work_seeded import RETRY


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Beside:
    """A run that takes a second, and who was in one at the same time."""

    def __init__(self, silent: Iterable[int] = ()) -> None:
        """Those in `silent` get no answer in their first run."""
        self.now: list[int] = []
        self.pairs: list[tuple[int, int]] = []
        self.runs: list[int] = []
        self._silent = list(silent)

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        seq = deliveries[0].seq
        self.pairs += [(min(seq, other), max(seq, other)) for other in self.now]
        self.now.append(seq)
        self.runs.append(seq)
        await asyncio.sleep(1)
        self.now.remove(seq)
        if seq in self._silent:
            self._silent.remove(seq)
            raise SILENT
        return [DONE] * len(deliveries)


def test_suspects_of_all_lanes_run_one_company_at_a_time_and_a_last_attempt_beside_nobody(bench: Bench) -> None:
    beside = Beside()
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max - 1}
    bench.run = beside.run  # type: ignore[method-assign]  # the one run that takes time

    async def main() -> None:
        tools = bench.tools()
        lanes = [
            delivery_of(1, suspect=True),
            delivery_of(2, suspect=True),
            delivery_of(3, suspect=True),
            delivery_of(4),
        ]
        await asyncio.gather(*(bench.work(tools).work([delivery], asyncio.Event()) for delivery in lanes))

    run_seeded(main(), random.Random(1))
    assert all(1 not in pair for pair in beside.pairs)
    assert (2, 3) not in beside.pairs
    assert sorted(beside.runs) == [1, 2, 3, 4]


def test_a_last_attempt_that_gets_no_answer_is_alone_in_its_next_run_too(bench: Bench) -> None:
    beside = Beside(silent=[1])
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max - 1}
    bench.run = beside.run  # type: ignore[method-assign]  # the one run that takes time

    async def main() -> None:
        tools = bench.tools()
        last = asyncio.ensure_future(bench.work(tools).work([delivery_of(1, suspect=True)], asyncio.Event()))
        await asyncio.sleep(0.5)
        assert beside.now == [1]
        await asyncio.gather(last, bench.work(tools).work([delivery_of(2)], asyncio.Event()))

    run_seeded(main(), random.Random(1))
    assert (beside.runs, beside.pairs) == ([1, 1, 2], [])


def _no_letter_is_stored(bench: Bench, held: asyncio.Event) -> None:
    """FG_DLQ refuses, and the event has had all its attempts."""
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max}

    async def bury(stage: str, dead: Sequence[object]) -> None:
        del stage, dead
        held.set()
        raise SILENT

    bench.bury = bury  # type: ignore[attr-defined]  # the world's, but for this


def _no_attempt_is_counted(bench: Bench, held: asyncio.Event) -> None:
    """The table of attempts is locked, and the event is about to have its last one."""
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max - 1}

    async def begin(stage: str, events: Sequence[tuple[str, str]]) -> list[int]:
        del stage, events
        held.set()
        raise NotNow(Code.STORE_UNAVAILABLE)

    bench.begin = begin  # type: ignore[method-assign]


@pytest.mark.parametrize("trouble", [_no_letter_is_stored, _no_attempt_is_counted])
def test_a_suspect_that_waits_for_a_store_holds_up_nobody_who_is_none(
    bench: Bench, trouble: Callable[[Bench, asyncio.Event], None]
) -> None:
    async def main() -> None:
        held, stopping = asyncio.Event(), asyncio.Event()
        trouble(bench, held)
        tools = bench.tools()
        waiting = asyncio.ensure_future(bench.work(tools).work([delivery_of(1, suspect=True)], stopping))
        await held.wait()
        async with asyncio.timeout(60):  # of the world's clock
            for seq in range(2, 12):
                await bench.work(tools).work([delivery_of(seq)], asyncio.Event())
        assert not waiting.done()
        stopping.set()
        await waiting

    run_seeded(main(), random.Random(1))
    assert [reply for reply, _ in bench.settled] == [f"q.{seq}.1" for seq in range(2, 12)]


def test_what_waits_for_a_last_attempt_is_shown_to_the_broker_meanwhile(bench: Bench) -> None:
    shown: list[str] = []

    async def main() -> None:
        tools = bench.tools()
        tools.turns.close()
        settle = bench.settle

        async def watched(settlements: Iterable[tuple[str, bytes]]) -> None:
            settlements = list(settlements)
            shown.extend(reply for reply, verb in settlements if verb == IN_PROGRESS)
            await settle(settlements)

        bench.settle = watched  # type: ignore[method-assign]
        waiting = asyncio.ensure_future(bench.work(tools).work([delivery_of(1)], asyncio.Event()))
        await asyncio.sleep(10)
        assert bench.runs == []
        tools.turns.reopen()
        await waiting

    run_seeded(main(), random.Random(1))
    assert (len(shown) > 5, set(shown), bench.settled) == (True, {"q.1.1"}, [("q.1.1", ACK)])
