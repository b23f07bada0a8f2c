"""An event's own failures, on the real broker and database: counted, delayed, tried again, at last buried."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import pytest

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import DeadLetter
from schemas.fate import DONE, Fate, Later
from schemas.subjects import (
    STREAM_ADVISORIES,
    STREAM_DECIDE,
    STREAM_DLQ,
    STREAM_RETRY,
    fnv1a32,
    lane,
    tenant_of,
)
from sinks.attempts import Attempts
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from streams.attempting import Blame
from streams.budgets import PARKED_MS, RETRY_WINDOW, StageBudget, budget_of
from streams.committer import GroupCommitter, unbarred
from streams.delivery import Delivery
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.keeper import Keeper
from streams.retry import BrokenTasks, Impatient, LaneSettler, RetryDesk, ScheduledRetries
from streams.runner import Runner, keep_settled
from streams.settings import RetrySettings, StreamSettings
from streams.storm import StormGuard
from streams.sweeper import RetrySweeper
from streams.work import StageWork, Tools
from tests.integration.streams.conftest import Tally

ATTEMPTS_MAX = 5
SHORT_MS = (50, 50, 50, 50)
WAIT_S_MAX = 60.0
"""Far above what is needed; the machine may be busy."""
RETRY = RetrySettings(
    attempts_max=ATTEMPTS_MAX, window_seconds=900, dlq_age_seconds_max=1, dlq_alert_depth=1, dlq_storm_ratio=1.0
)


@dataclass
class Stubborn:
    """A stage whose dependencies answer, and which gets no answer for its first so many batches, while others do."""

    failures_left: int
    blame: Blame
    runs: int = 0
    name: str = "decision"

    async def ready(self) -> bool:
        return True

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        self.runs += 1
        self.blame.got_through += 1
        if self.failures_left:
            self.failures_left -= 1
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return [DONE] * len(deliveries)


@dataclass
class Full:
    """A stage whose next queue is full for one tenant."""

    tenant: str
    other_ran: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = "decision"

    async def ready(self) -> bool:
        return True

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        (delivery,) = deliveries
        if tenant_of(delivery.subject) == self.tenant:
            return [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, PARKED_MS)]
        self.other_ran.set()
        return [DONE]


class Lane(NamedTuple):
    """The parts of a worker between a stage and its retry lane."""

    jetstream: JetStream
    settings: StreamSettings
    attempts: Attempts
    tools: Tools
    keeper: Keeper
    sweeper: RetrySweeper

    def work(self, stage: Stubborn) -> StageWork:
        return StageWork(stage, self.budget(stage.name), self.guard(), self.tools, keep_settled)

    def runner(self, stage: Stubborn | Full, wait_ms: int = SHORT_MS[0]) -> Runner:
        settler = LaneSettler(self.jetstream, self.tools.retry, wait_ms, self.sweeper.settled)
        tools = replace(self.tools, broker=settler)
        work = StageWork(Impatient(stage), self.budget(stage.name), self.guard(), tools, keep_settled)
        broken = StageWork(BrokenTasks(), self.budget("retry"), self.guard(), tools, keep_settled)
        desk = RetryDesk({stage.name: work}, broken, settler, lambda _: False)
        runner = Runner(desk, self.budget("retry"), self.guard())
        runner.add(self.keeper.inbox(self.budget("retry"), 0, runner.arrived))
        return runner

    def budget(self, stage: str) -> StageBudget:
        return replace(budget_of(stage, self.settings, RETRY), backoff_ms=SHORT_MS)

    def guard(self) -> StormGuard:
        return StormGuard(1.0, asyncio.get_running_loop().time)

    def stubborn(self, failures_left: int) -> Stubborn:
        return Stubborn(failures_left, self.tools.blame["decision"])

    async def fail(self, stage: Stubborn, delivery: Delivery) -> int:
        """Run it, and again once others got through: now the failure is its own. Returns the runs of one time."""
        await self.work(stage).work([delivery], asyncio.Event())
        runs = stage.runs
        await self.work(stage).work([delivery], asyncio.Event())
        return runs

    async def waiting(self, tenant: str) -> dict[str, int]:
        """What FG_RETRY holds of a tenant, by subject."""
        request = {"subjects_filter": f"fg.*.{lane(tenant).partition}.>"}
        kept = (await self.jetstream.api(f"STREAM.INFO.{STREAM_RETRY}", request, dict))["state"].get("subjects") or {}
        return {subject: messages for subject, messages in kept.items() if subject.split(".")[3] == tenant}

    async def letters(self, tenant: str) -> list[DeadLetter]:
        found, seq = [], 1
        while (message := await self.jetstream.next_stored(STREAM_DLQ, seq, lane(tenant).dlq)) is not None:
            found.append(msgspec.json.decode(message.data, type=DeadLetter))
            seq = message.seq + 1
        return found


@pytest.fixture(scope="module")
def servers(own_servers: EmbeddedServers) -> EmbeddedServers:
    """What other tests leave unsettled or terminated would keep the lane from being swept."""
    return own_servers


@pytest.fixture
async def retry_lane(servers: EmbeddedServers, stream_settings: StreamSettings, tally: Tally) -> AsyncIterator[Lane]:
    jetstream = await JetStream.connect(servers.nats_url("worker"), "worker")
    pool = await Pool.open(PostgresSettings(dsn=servers.postgres_dsn("worker"), pool_size=2, statement_cache_size=100))
    attempts = Attempts(pool, RETRY.window_seconds, SystemClock())
    graveyard = Graveyard(GroupCommitter(jetstream, stream_settings, STREAM_DLQ, tally, unbarred))
    tools = Tools(
        broker=jetstream,
        graveyard=graveyard,
        attempts=attempts,
        retry=ScheduledRetries(jetstream, stream_settings, SystemClock()),
        meter=tally,
        chance=lambda: 0.5,
    )
    keeper, sweeper = Keeper(jetstream, stream_settings, tally), RetrySweeper(jetstream)
    yield Lane(jetstream, stream_settings, attempts, tools, keeper, sweeper)
    await pool.close()
    await jetstream.close()


def _delivery(tenant: str, data: bytes = b"not readable") -> Delivery:
    """As from a consumer that does not exist: its acknowledgement goes nowhere. Each tenant has one message."""
    seq = fnv1a32(tenant)
    reply = f"$JS.ACK.{STREAM_DECIDE}.nobody.1.{seq}.1.1.0"
    return Delivery(lane(tenant).decide, data, reply, STREAM_DECIDE, seq)


@asynccontextmanager
async def _running(*parts: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run these until the block is left, however it is left: nobody takes the messages of the next test."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for part in parts:
            tasks.create_task(part(stopping))
        try:
            yield
        finally:
            stopping.set()


async def _until(lane: Lane, tenant: str, stage: Stubborn, runs: int) -> None:
    """Run the retry lane until the stage was run so often and nothing of the tenant is in it any more."""
    async with _running(lane.runner(stage).run, lane.sweeper.run), asyncio.timeout(WAIT_S_MAX):
        while stage.runs < runs or await lane.waiting(tenant):  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


async def test_an_event_that_never_gets_an_answer_is_buried_once_after_its_attempts(
    retry_lane: Lane, tally: Tally
) -> None:
    tenant = "retry-never"
    stage = retry_lane.stubborn(1_000)
    tries_in_hand = await retry_lane.fail(stage, _delivery(tenant))
    event = (tenant, f"{STREAM_DECIDE}:{fnv1a32(tenant)}")
    assert await retry_lane.attempts.made("decision", [event]) == [1]
    assert list(await retry_lane.waiting(tenant)) == [
        f"fg.rs.{lane(tenant).partition}.{tenant}.{STREAM_DECIDE}-{fnv1a32(tenant)}"
    ]
    await _until(retry_lane, tenant, stage, (1 + ATTEMPTS_MAX) * tries_in_hand)
    assert stage.runs == (1 + ATTEMPTS_MAX) * tries_in_hand
    (letter,) = await retry_lane.letters(tenant)
    assert (letter.reason_code, letter.stage, letter.seq) == ("retry_budget_exhausted", "decision", fnv1a32(tenant))
    assert (letter.event_id, letter.attempts) == (event[1], ATTEMPTS_MAX)
    assert await retry_lane.attempts.made("decision", [event]) == [0]
    assert await retry_lane.waiting(tenant) == {}
    retried = [labels for name, _, labels in tally.told if name == "frostgate_retries_total"]
    assert retried == [("decision", "STORE_UNAVAILABLE")] * (ATTEMPTS_MAX - 1)


async def test_an_event_that_gets_its_answer_in_time_is_done_and_its_attempts_are_forgotten(
    retry_lane: Lane,
) -> None:
    tenant = "retry-twice"
    stage = retry_lane.stubborn(9)
    await retry_lane.fail(stage, _delivery(tenant))
    await _until(retry_lane, tenant, stage, 10)
    assert await retry_lane.letters(tenant) == []
    assert await retry_lane.attempts.made("decision", [(tenant, f"{STREAM_DECIDE}:{fnv1a32(tenant)}")]) == [0]
    assert await retry_lane.waiting(tenant) == {}


async def test_a_retry_that_is_parked_leaves_the_lane_until_its_time_and_holds_nobody_up(retry_lane: Lane) -> None:
    parked, other = "retry-parked", "retry-behind"
    for position in range(2 * RETRY_WINDOW):
        delivery = replace(_delivery(parked), seq=position + 1)
        assert await retry_lane.tools.retry.schedule("decision", delivery, 1, 1)
    assert await retry_lane.tools.retry.schedule("decision", _delivery(other), 1, 1)
    stage = Full(parked)
    runner = retry_lane.runner(stage, wait_ms=3_600_000)
    async with _running(runner.run, retry_lane.sweeper.run), asyncio.timeout(WAIT_S_MAX):
        await stage.other_ran.wait()
        while sum((await retry_lane.waiting(parked)).values()) != 2 * RETRY_WINDOW or any(  # noqa: ASYNC110
            subject.startswith("fg.rt") for subject in await retry_lane.waiting(parked)
        ):
            await asyncio.sleep(0.01)
    await retry_lane.jetstream.api(f"STREAM.PURGE.{STREAM_RETRY}", {"filter": f"fg.rs.*.{parked}.*"}, dict)


async def test_what_is_settled_leaves_the_lane_and_counts_for_nobody_as_terminated(retry_lane: Lane) -> None:
    tenant, stage = "retry-swept", retry_lane.stubborn(0)

    async def advisories() -> int:
        info = await retry_lane.jetstream.api(f"STREAM.INFO.{STREAM_ADVISORIES}", None, dict[str, Any])
        return int(info["state"]["messages"])

    before = await advisories()
    assert await retry_lane.tools.retry.schedule("decision", _delivery(tenant), 1, 1)
    await _until(retry_lane, tenant, stage, 1)
    assert await advisories() == before


async def test_what_an_earlier_worker_settled_and_did_not_sweep_is_swept(retry_lane: Lane) -> None:
    tenant, stage = "retry-left", retry_lane.stubborn(0)
    dead = retry_lane._replace(sweeper=RetrySweeper(retry_lane.jetstream))
    assert await retry_lane.tools.retry.schedule("decision", _delivery(tenant), 1, 1)
    async with _running(dead.runner(stage).run), asyncio.timeout(WAIT_S_MAX):
        while not stage.runs:  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)
    assert await retry_lane.waiting(tenant)
    await _until(retry_lane, tenant, stage, 1)


async def test_an_attempt_scheduled_again_waits_once(retry_lane: Lane) -> None:
    delivery = _delivery("retry-once")
    redelivered = replace(delivery, reply=delivery.reply + "1")
    for again in (delivery, delivery, redelivered, redelivered):
        assert await retry_lane.tools.retry.schedule("decision", again, 1, 3_600_000)
        assert list((await retry_lane.waiting("retry-once")).values()) == [1]


async def test_an_attempt_whose_count_was_forgotten_is_scheduled_anew(retry_lane: Lane) -> None:
    tenant, stage = "retry-anew", retry_lane.stubborn(0)
    for runs in (1, 2):
        again = replace(_delivery(tenant), reply=f"{_delivery(tenant).reply}{runs}")
        assert await retry_lane.tools.retry.schedule("decision", again, 1, 1)
        await _until(retry_lane, tenant, stage, runs)


async def test_a_message_too_large_for_the_lane_is_said_to_be(retry_lane: Lane) -> None:
    large = _delivery("retry-large", bytes(100 * 1024))
    assert not await retry_lane.tools.retry.schedule("decision", large, 1, 1_000)
    assert await retry_lane.waiting("retry-large") == {}


async def test_what_is_no_task_is_buried_as_poison(retry_lane: Lane) -> None:
    tenant = "retry-broken"
    stage = retry_lane.stubborn(0)
    await retry_lane.jetstream.ask(f"fg.rt.{lane(tenant).partition}.{tenant}", b"{}", None, 2_000)
    # Behind it, so that its run says when the broken one is through.
    await retry_lane.tools.retry.schedule("decision", _delivery(tenant), 1, 1)
    await _until(retry_lane, tenant, stage, 1)
    (letter,) = await retry_lane.letters(tenant)
    assert (letter.reason_code, letter.stage, letter.stream) == ("poison", "retry", STREAM_RETRY)
