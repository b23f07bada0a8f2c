"""What a batch's trouble costs: nothing while a dependency is away or a queue is full, an attempt for one's own."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import pytest

from schemas.answers import NotNow
from schemas.codes import Code, DeadReason
from schemas.fate import DONE, Dead, Fate, Later
from streams.budgets import BACKOFF_MS, LETTER_PARKED_MS, PARKED_MS
from streams.delivery import ACK, Delivery, delayed
from streams.inbox import Inbox
from streams.runner import Runner, keep_settled
from streams.storm import ENDS_MIN, PROBE_S, StormGuard
from streams.work import TRIES_IN_HAND, StageWork, Tools
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.stage_bench import SILENT, Bench, budget_named, delivery_of
from tests.unit.streams.stage_world import INNOCENT, MUTE, REFUSED, Message, World, WorldInbox
from tests.unit.streams.test_work_seeded import RETRY

LANES = 4


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_dependency_that_is_away_costs_no_attempt_however_long(bench: Bench) -> None:
    bench.world.away_until_s = 3_600.0
    bench.try_out(delivery_of(1), delivery_of(2))
    assert (bench.runs, bench.counted) == ([2, 2], 0)
    assert bench.settled == [("q.1.1", ACK), ("q.2.1", ACK)]


def test_silence_that_is_short_costs_no_attempt_either(bench: Bench) -> None:
    bench.answers = [SILENT] * TRIES_IN_HAND
    bench.try_out(delivery_of(1), delivery_of(2))
    assert (bench.runs, bench.counted) == ([2] * (TRIES_IN_HAND + 1), 0)


def test_a_full_queue_parks_without_an_attempt(bench: Bench) -> None:
    bench.answers = [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, 1_000)]
    bench.try_out(delivery_of())
    assert (bench.settled, bench.counted) == ([("q.1.1", delayed(1_000))], 0)


def test_a_suspect_that_is_parked_gets_its_attempt_back(bench: Bench) -> None:
    bench.answers = [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, 1_000)]
    bench.try_out(delivery_of(suspect=True))
    assert (bench.counted, bench.world.attempts) == (1, {})


def _parked(bench: Bench) -> None:
    bench.answers = [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, 1_000)]


def _silent_like_all(bench: Bench) -> None:
    bench.answers = [SILENT] * 100


@pytest.mark.parametrize("trouble", [_parked, _silent_like_all])
def test_what_is_given_back_is_one_attempt_and_those_before_it_stay(
    bench: Bench, trouble: Callable[[Bench], None]
) -> None:
    bench.world.attempts = {"FG_DECIDE:1": 3}
    trouble(bench)
    bench.try_out(delivery_of(suspect=True))
    assert (bench.counted, bench.world.attempts) == (1, {"FG_DECIDE:1": 3})


def test_an_event_alone_without_an_answer_goes_to_the_retry_lane_and_its_neighbours_are_done(bench: Bench) -> None:
    bench.answers = [*[SILENT] * (TRIES_IN_HAND + 1), SILENT]  # the whole, then its first half
    bench.try_out(delivery_of(1), delivery_of(2))
    assert bench.runs == [*[2] * (TRIES_IN_HAND + 1), 1, 1]
    assert (bench.counted, list(bench.world.retries)) == (1, [1])
    assert bench.settled == [("q.2.1", ACK), ("q.1.1", ACK)]


def test_a_suspect_is_counted_before_it_runs_and_not_again_for_its_failure(bench: Bench) -> None:
    bench.answers = [*[SILENT] * (TRIES_IN_HAND + 1), SILENT]
    bench.try_out(delivery_of(1, suspect=True), delivery_of(2, suspect=True))
    assert (bench.counted, list(bench.world.retries)) == (2, [1])


def test_while_nobody_gets_an_answer_nobody_is_charged(bench: Bench) -> None:
    bench.answers = [SILENT] * 100
    bench.try_out(*map(delivery_of, range(1, 5)))
    assert (bench.counted, list(bench.world.retries), bench.world.letters) == (0, [], {})
    assert [verb for _, verb in bench.settled] == [delayed(BACKOFF_MS[0])] * 4


def test_what_got_no_answer_before_is_charged_once_others_got_through(bench: Bench) -> None:
    whole = [SILENT] * (TRIES_IN_HAND + 1)
    bench.answers = [*whole, DONE, *whole]

    async def main() -> None:
        work = bench.work()
        for delivery in (delivery_of(1), delivery_of(2), delivery_of(1, suspect=True)):
            await work.work([delivery], asyncio.Event())

    run_seeded(main(), random.Random(1))
    assert [verb for _, verb in bench.settled] == [delayed(BACKOFF_MS[0]), ACK, ACK]
    assert (bench.counted, list(bench.world.retries)) == (1, [1])


@pytest.mark.parametrize("suspect", [False, True])
def test_a_store_that_says_it_cannot_pauses_the_stage_and_charges_nobody(bench: Bench, suspect: bool) -> None:
    bench.answers = [NotNow(Code.STORE_UNAVAILABLE)] * 50
    bench.try_out(delivery_of(1, suspect=suspect), delivery_of(2, suspect=suspect))
    assert (list(bench.world.retries), bench.world.letters, bench.world.attempts) == ([], {}, {})
    assert bench.settled == [("q.1.1", ACK), ("q.2.1", ACK)]


def test_a_suspect_in_a_pause_has_its_attempt_back_when_the_worker_is_told_to_stop(bench: Bench) -> None:
    bench.answers = [NotNow(Code.STORE_UNAVAILABLE)] * 1_000
    bench.world.attempts = {"FG_DECIDE:1": 2}

    async def main() -> None:
        stopping = asyncio.Event()
        task = asyncio.ensure_future(bench.work().work([delivery_of(suspect=True)], stopping))
        await asyncio.sleep(30)
        stopping.set()
        await task

    run_seeded(main(), random.Random(1))
    assert (bench.counted, bench.world.attempts, bench.settled) == (1, {"FG_DECIDE:1": 2}, [])


def test_an_attempt_whose_giving_back_was_not_answered_is_given_back_once(bench: Bench) -> None:
    bench.answers = [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, 1_000)]
    bench.world.attempts = {"FG_DECIDE:1": 3}
    asked = 0

    async def give_back(stage: str, events: Sequence[tuple[str, str]], counted: Sequence[int]) -> None:
        nonlocal asked
        asked += 1
        await bench.world.give_back(stage, events, counted)
        if asked < 3:
            raise SILENT

    bench.give_back = give_back  # type: ignore[attr-defined]  # the world's, but for this
    bench.try_out(delivery_of(suspect=True))
    assert (asked, bench.counted, bench.world.attempts) == (3, 1, {"FG_DECIDE:1": 3})


@pytest.mark.parametrize("attempts_before", [2, RETRY.attempts_max - 1])
def test_an_attempt_that_was_ones_own_failure_stays_counted_when_the_worker_is_told_to_stop(
    bench: Bench, attempts_before: int
) -> None:
    bench.world.attempts = {"FG_DECIDE:1": attempts_before}
    bench.run = _silent_alone  # type: ignore[method-assign]

    async def main() -> None:
        stopping = asyncio.Event()

        async def refuse(*_: object) -> bool:
            stopping.set()
            raise SILENT

        bench.schedule = bench.bury = refuse  # type: ignore[attr-defined]  # the world's, but for these
        tools = bench.tools()
        work = asyncio.ensure_future(bench.work(tools).work([delivery_of(1, suspect=True)], stopping))
        while not work.done():
            await asyncio.sleep(0.05)  # of the world's clock
            await bench.work(tools).work([delivery_of(2)], asyncio.Event())

    run_seeded(main(), random.Random(1))
    assert (bench.counted, bench.world.attempts) == (1, {"FG_DECIDE:1": attempts_before + 1})


async def _silent_alone(deliveries: Sequence[Delivery]) -> list[Fate]:
    """The first message gets no answer, and all others do."""
    if deliveries[0].seq == 1:
        raise SILENT
    return [DONE] * len(deliveries)


def test_evidence_that_has_had_its_attempts_waits_and_says_so_but_never_dies(bench: Bench) -> None:
    bench.name = "evidence"
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max}
    tools = bench.tools()

    async def main() -> None:
        await bench.work(tools).work([delivery_of(suspect=True)], asyncio.Event())
        assert tools.blame["evidence"].overdue == {("FG_DECIDE", 1)}
        bench.world.attempts = {}  # its window is over
        await bench.work(tools).work([delivery_of(suspect=True)], asyncio.Event())
        assert tools.blame["evidence"].overdue == set()

    run_seeded(main(), random.Random(1))
    assert (bench.world.letters, list(bench.world.retries)) == ({}, [1])


def test_evidence_that_is_overdue_stays_named_when_its_attempts_are_counted_anew(bench: Bench) -> None:
    bench.name = "evidence"
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max}
    bench.run = _silent_alone  # type: ignore[method-assign]
    tools = bench.tools()

    async def main() -> None:
        await bench.work(tools).work([delivery_of(1, suspect=True)], asyncio.Event())
        bench.world.attempts = {}  # its window is over
        for wait_ms in (BACKOFF_MS[-1], *BACKOFF_MS):
            await asyncio.sleep(wait_ms / 1_000)
            assert tools.blame["evidence"].overdue == {("FG_DECIDE", 1)}
            await bench.work(tools).work([delivery_of(1), delivery_of(2)], asyncio.Event())

    run_seeded(main(), random.Random(1))
    assert bench.world.attempts == {"FG_DECIDE:1": RETRY.attempts_max}


def test_what_another_worker_may_have_got_through_is_not_named_for_ever(bench: Bench) -> None:
    bench.name = "evidence"
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max}
    tools = bench.tools()

    async def main() -> None:
        await bench.work(tools).work([delivery_of(suspect=True)], asyncio.Event())
        await asyncio.sleep(1.2 * BACKOFF_MS[-1] / 1_000)
        assert tools.blame["evidence"].overdue == {("FG_DECIDE", 1)}  # it can only now come again
        await asyncio.sleep(BACKOFF_MS[-1] / 1_000)
        assert tools.blame["evidence"].overdue == set()

    run_seeded(main(), random.Random(1))


@pytest.mark.parametrize("suspect", [False, True])
def test_no_letter_is_made_of_a_letter(bench: Bench, suspect: bool) -> None:
    bench.name = "dlq"
    bench.answers = [Dead(DeadReason.STORE_REFUSED)]
    bench.try_out(delivery_of(suspect=suspect))
    assert (bench.settled, bench.counted, bench.world.letters) == ([("q.1.1", delayed(LETTER_PARKED_MS))], 0, {})


def test_a_suspect_whose_attempts_are_used_up_is_buried_without_a_run(bench: Bench) -> None:
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max}
    bench.try_out(delivery_of(suspect=True))
    (death,) = bench.world.letters.values()
    assert (bench.runs, death.reason, death.attempts) == (
        [],
        DeadReason.RETRY_BUDGET_EXHAUSTED,
        RETRY.attempts_max,
    )


def test_a_dead_letter_that_gets_no_answer_waits_and_never_dies(bench: Bench) -> None:
    bench.name = "dlq"
    bench.answers = [SILENT] * (TRIES_IN_HAND + 1)
    bench.try_out(delivery_of())
    assert (bench.settled, bench.counted) == ([("q.1.1", delayed(LETTER_PARKED_MS))], 0)


def test_a_storm_stops_the_stage_until_a_probe_is_done() -> None:
    world = World(random.Random(3))
    world.store(*[REFUSED] * (ENDS_MIN + 30), *[MUTE])

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        guard = StormGuard(0.5, loop.time)
        tools = Tools(
            broker=world, graveyard=world, attempts=world, retry=world, meter=world, chance=world.chance.random
        )
        work = StageWork(world, budget_named("decision"), guard, tools, keep_settled)
        runner = Runner(work, budget_named("decision"), guard)
        runner.add(cast("Inbox", WorldInbox(world, "FG_DECIDE")))
        stopping = asyncio.Event()
        task = asyncio.ensure_future(runner.run(stopping))
        await asyncio.sleep(PROBE_S / 2)
        assert runner.storm
        at_first = len(world.letters)
        await asyncio.sleep(PROBE_S)
        probed = len(world.letters)
        for message in world.messages.values():
            message.data = INNOCENT
        await asyncio.sleep(2 * PROBE_S)
        stopping.set()
        await task
        return at_first, probed

    at_first, probed = run_seeded(main(), random.Random(3))
    assert at_first == ENDS_MIN
    assert probed == at_first + 1
    assert len(world.effects) == len(world.messages) - len(world.letters)


def test_a_storm_buries_no_more_than_it_took_to_see_it_whatever_all_lanes_have_in_hand(bench: Bench) -> None:
    bench.answers = [Dead(DeadReason.POISON)] * LANES
    batches = [[delivery_of(LANES * number + lane) for number in range(200)] for lane in range(LANES)]

    async def main() -> None:
        tools = bench.tools()
        await asyncio.gather(*(bench.work(tools).work(batch, asyncio.Event()) for batch in batches))

    run_seeded(main(), random.Random(1))
    assert bench.guard.storm
    assert len(bench.world.letters) == ENDS_MIN
    waits = [verb for _, verb in bench.settled if verb != ACK]
    assert waits == [delayed(LETTER_PARKED_MS)] * (200 * LANES - ENDS_MIN)


def test_what_has_had_all_its_attempts_is_buried_in_a_storm_too_and_never_run_again(bench: Bench) -> None:
    bench.world.attempts = {"FG_DECIDE:1": RETRY.attempts_max}

    async def main() -> None:
        _storm(bench)
        await bench.work().work([delivery_of(suspect=True)], asyncio.Event())

    run_seeded(main(), random.Random(1))
    assert (list(bench.world.letters), bench.runs, bench.settled) == ([1], [], [("q.1.1", ACK)])


def _storm(bench: Bench) -> None:
    for _ in range(ENDS_MIN):
        bench.guard.ended("q.0.1", Dead(DeadReason.POISON))


def _paused(bench: Bench) -> None:
    bench.main_paused = True


def _away(bench: Bench) -> None:
    bench.away = True


def _full(bench: Bench) -> None:
    bench.answers = [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, PARKED_MS)]


@pytest.mark.parametrize("trouble", [_storm, _paused, _away, _full])
def test_a_retry_that_has_to_wait_is_scheduled_anew_without_an_attempt_and_leaves_the_lane(
    bench: Bench, trouble: Callable[[Bench], None]
) -> None:
    bench.world.retries[1] = Message(1, INNOCENT)

    async def main() -> None:
        trouble(bench)
        (task,) = bench.world.deliver(bench.world.retries, 1, "FG_RETRY")
        await bench.desk().work([task], asyncio.Event())

        assert asyncio.get_running_loop().time() < 1.0  # it held nobody up
        assert bench.world.retries[1].due_s >= BACKOFF_MS[0] / 1000

    run_seeded(main(), random.Random(1))
    assert (bench.world.attempts, [verb for _, verb in bench.settled]) == ({}, [ACK])


def test_a_retry_is_counted_before_it_runs_should_it_end_the_worker_too(bench: Bench) -> None:
    bench.world.retries[1] = Message(1, INNOCENT)
    run, counts = bench.run, []

    async def watched(deliveries: Sequence[Delivery]) -> list[Fate]:
        counts.append(dict(bench.world.attempts))
        return await run(deliveries)

    bench.run = watched  # type: ignore[method-assign]

    async def main() -> None:
        (task,) = bench.world.deliver(bench.world.retries, 1, "FG_RETRY")
        await bench.desk().work([task], asyncio.Event())

    run_seeded(main(), random.Random(1))
    assert (counts, bench.counted, bench.world.attempts) == ([{"FG_DECIDE:1": 1}], 1, {})
    assert [verb for _, verb in bench.settled] == [ACK]


def test_a_retry_is_told_to_be_settled_once_it_is_acknowledged_and_not_before(bench: Bench) -> None:
    bench.world.retries[1] = Message(1, INNOCENT)
    told: list[list[int]] = []

    async def settle(settlements: Iterable[tuple[str, bytes]]) -> None:
        told.extend(list(bench.world.settled_in_lane) for _, verb in settlements if verb == ACK)

    bench.settle = settle  # type: ignore[method-assign]

    async def main() -> int:
        (task,) = bench.world.deliver(bench.world.retries, 1, "FG_RETRY")
        await bench.desk().work([task], asyncio.Event())
        return task.seq

    seq = run_seeded(main(), random.Random(1))
    assert (told, bench.world.settled_in_lane) == ([[]], [seq])
