"""Nothing is acknowledged by a broker that has not proven, since this connection to it, that stored means on disk."""

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.embedded.nats import NATS_CONF
from schemas.answers import NoAnswer, PublishOutcome, Refused, Stored
from schemas.codes import Code
from schemas.meter import Meter
from schemas.subjects import lane
from streams.durability import NEVER, DurabilityWatch
from streams.jetstream import JetStream
from streams.publisher import IngestPublisher
from streams.settings import StreamSettings
from streams.topology import apply

RESTARTS = 3
PUBLISHERS = 20


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """A broker of their own, to be restarted with other promises."""
    with await DataDirectory.open(tmp_path_factory.mktemp("durability") / "data") as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start_one("nats")
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


@pytest.fixture
async def stream_settings(stream_settings: StreamSettings) -> StreamSettings:
    await apply(stream_settings.url, stream_settings)
    return dataclasses.replace(stream_settings, tenant_messages_max=12_000)


@pytest.fixture
async def system(servers: EmbeddedServers) -> AsyncIterator[JetStream]:
    system = await JetStream.connect(servers.nats_url("system"), "system")
    yield system
    await system.close()


@pytest.fixture
async def edge(servers: EmbeddedServers) -> AsyncIterator[JetStream]:
    edge = await JetStream.connect(servers.nats_url("edge"), "edge")
    yield edge
    await edge.close()


@contextlib.asynccontextmanager
async def watched(watch: DurabilityWatch) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch.run(stopping))
        try:
            yield
        finally:
            stopping.set()


@contextlib.asynccontextmanager
async def published_to(publisher: IngestPublisher, tenant: str) -> AsyncIterator[list[PublishOutcome]]:
    """Publish from many tasks at once while the block runs; yields the outcomes, which grow."""
    outcomes: list[PublishOutcome] = []
    done = asyncio.Event()

    async def publish(number: int) -> None:
        while not done.is_set():
            outcome = await publisher.submit(lane(tenant).ingest, f"{tenant}/{number}-{len(outcomes)}", b"{}", "")
            outcomes.append(outcome)
            await asyncio.sleep(0 if isinstance(outcome, Stored) else 0.001)

    async with asyncio.TaskGroup() as tasks:
        for number in range(PUBLISHERS):
            tasks.create_task(publish(number))
        try:
            yield outcomes
        finally:
            done.set()


async def until(outcomes: list[PublishOutcome], wanted: Callable[[PublishOutcome], bool]) -> None:
    """Return once some outcome from now on is a wanted one."""
    start = len(outcomes)
    async with asyncio.timeout(20):
        while not any(wanted(outcome) for outcome in outcomes[start:]):  # noqa: ASYNC110  (the list has no event)
            await asyncio.sleep(0.001)


def is_stored(outcome: PublishOutcome) -> bool:
    return isinstance(outcome, Stored)


def is_away(outcome: PublishOutcome) -> bool:
    return outcome == Refused(Code.STREAM_UNAVAILABLE)


def is_unproven(outcome: PublishOutcome) -> bool:
    return outcome == Refused(Code.DURABILITY_UNPROVEN)


@contextlib.contextmanager
def careless(directory: Path) -> Iterator[None]:
    """A broker that starts within the block acknowledges before the message is on disk."""
    conf = directory / "nats.conf"
    conf.write_text(NATS_CONF.read_text().replace("sync_interval: always", "sync_interval: 2m"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ops.embedded.nats.NATS_CONF", conf)
        yield


@pytest.fixture
def watch(edge: JetStream, system: JetStream, stream_settings: StreamSettings) -> DurabilityWatch:
    return DurabilityWatch(edge, system, stream_settings, SystemClock())


@pytest.fixture
async def publisher(
    edge: JetStream, watch: DurabilityWatch, stream_settings: StreamSettings, tally: Meter
) -> AsyncIterator[IngestPublisher]:
    publisher = IngestPublisher(edge, watch, dataclasses.replace(stream_settings, linger_ms=5.0), tally)
    yield publisher
    await publisher.close()


async def test_a_restarted_broker_stores_nothing_before_it_has_proven_itself(
    servers: EmbeddedServers, watch: DurabilityWatch, publisher: IngestPublisher, tmp_path: Path
) -> None:
    async with watched(watch), published_to(publisher, "restarted") as outcomes:
        await until(outcomes, is_stored)
        for _ in range(RESTARTS):
            await servers.stop_one("nats")
            await until(outcomes, is_away)
            start = len(outcomes)
            with careless(tmp_path):
                await servers.start_one("nats")
            await until(outcomes, is_unproven)
            async with asyncio.timeout(20):
                while "a server does not run with sync_interval: always" not in await watch.check():
                    continue
            assert not [outcome for outcome in outcomes[start:] if is_stored(outcome)]
        await servers.restart("nats")
        await until(outcomes, is_stored)


async def test_a_proof_lost_between_queue_and_send_keeps_the_message_back(
    edge: JetStream, watch: DurabilityWatch, publisher: IngestPublisher
) -> None:
    assert await watch.check() == []
    subject = lane("queued").ingest
    queued = [publisher.submit(subject, f"queued/{number}", b"{}", "") for number in range(10)]
    await edge._on_reconnected()
    assert await asyncio.gather(*queued) == [Refused(Code.DURABILITY_UNPROVEN)] * 10
    assert await publisher.oldest_stored_ms(subject) is None
    assert await watch.check() == []
    assert is_stored(await publisher.submit(subject, "queued/0", b"{}", ""))


async def test_a_reconnection_during_the_check_leaves_no_proof(
    edge: JetStream, system: JetStream, watch: DurabilityWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = system.collect

    async def answered_and_lost(subject: str, data: bytes, answers_min: int, timeout_ms: int) -> list[bytes]:
        answers = await collect(subject, data, answers_min, timeout_ms)
        await edge._on_reconnected()
        return answers

    monkeypatch.setattr(system, "collect", answered_and_lost)
    assert await watch.check() == ["the connection was lost during the check"]
    assert not watch.proven()
    assert watch.remembers_since_ms() == NEVER
    monkeypatch.undo()
    assert await watch.check() == []
    assert watch.remembers_since_ms() <= SystemClock().now_ms()


async def test_of_two_checks_the_one_that_asked_last_is_believed(
    system: JetStream, watch: DurabilityWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = system.collect
    asked, answered = asyncio.Event(), asyncio.Event()

    async def silent_once(subject: str, data: bytes, answers_min: int, timeout_ms: int) -> list[bytes]:
        if asked.is_set():
            assert answered.is_set(), "two checks at once"
            return await collect(subject, data, answers_min, timeout_ms)
        asked.set()
        await answered.wait()
        raise NoAnswer(Code.STREAM_UNAVAILABLE)

    monkeypatch.setattr(system, "collect", silent_once)
    earlier = asyncio.create_task(watch.check())
    await asked.wait()
    later = asyncio.create_task(watch.check())
    await asyncio.sleep(0)  # it has asked by now, or waits for its turn
    answered.set()
    assert await earlier != []
    assert await later == []
    assert watch.proven()


async def test_a_new_connection_counts_only_after_everyone_forgot_the_old_one(
    servers: EmbeddedServers, edge: JetStream
) -> None:
    seen: list[bool] = []
    told = asyncio.Event()

    def reconnected() -> None:
        seen.append(edge.connected)
        told.set()

    edge.on_reconnect(reconnected)
    await servers.restart("nats")
    async with asyncio.timeout(20):
        await told.wait()
    assert seen == [False]
    assert edge.connected


async def test_the_oldest_message_of_a_tenant_is_told_and_nobody_elses(
    watch: DurabilityWatch, publisher: IngestPublisher
) -> None:
    assert await watch.check() == []
    subject = lane("oldest").ingest
    before_ms = SystemClock().now_ms()
    first = await publisher.submit(subject, "oldest/1", b"{}", "")
    after_ms = SystemClock().now_ms()
    await publisher.submit(subject, "oldest/2", b"{}", "")
    assert isinstance(first, Stored)
    oldest_ms = await publisher.oldest_stored_ms(subject)
    assert oldest_ms is not None
    assert before_ms <= oldest_ms <= after_ms
    assert await publisher.oldest_stored_ms(lane("nobody").ingest) is None
