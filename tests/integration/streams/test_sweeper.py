"""Settled messages leave the queues, and nothing else does."""

import asyncio

import msgspec
import pytest

from ops.embedded import EmbeddedServers
from ops.settings import load
from schemas.meter import Meter
from schemas.subjects import PARTITIONS, ingest_stream, lane
from streams.budgets import budget_of
from streams.committer import GroupCommitter, unbarred
from streams.delivery import ACK, Delivery, delayed
from streams.jetstream import JetStream
from streams.keeper import Keeper
from streams.settings import StreamSettings
from streams.sweeper import QueueSweeper

STREAM = ingest_stream(0)
MESSAGES = 30


async def _left(admin: JetStream, tenant: str) -> int:
    info = await admin.api(f"STREAM.INFO.{STREAM}", {"subjects_filter": lane(tenant).ingest}, dict)
    return sum((info["state"].get("subjects") or {}).values())


async def _until_left(admin: JetStream, tenant: str, messages: int) -> None:
    async with asyncio.timeout(20):
        while await _left(admin, tenant) != messages:  # noqa: ASYNC110  (the sweeper works at its own pace)
            await asyncio.sleep(0.05)


async def _fetch(jetstream: JetStream, settings: StreamSettings, tenant: str, meter: Meter) -> list[Delivery]:
    arrived = asyncio.Event()
    dedupe = budget_of("dedupe", settings, load({}).retry)
    inbox = Keeper(jetstream, settings, meter).inbox(dedupe, lane(tenant).partition, arrived)
    await inbox.open()
    found: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(found) < MESSAGES:
            await inbox.pull()
            arrived.clear()
            found += [d for d in inbox.take(MESSAGES) if d.subject == lane(tenant).ingest] or []
            if len(found) < MESSAGES:
                await arrived.wait()
    return found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around a parked message within two sweeps instead of an ack_wait."""
    monkeypatch.setattr("streams.sweeper.HELD_BACK_SWEEPS", 2)


@pytest.fixture(scope="module")
def servers(own_servers: EmbeddedServers) -> EmbeddedServers:
    """What other tests leave unsettled would hold these queues back."""
    return own_servers


@pytest.fixture
async def worker(servers: EmbeddedServers) -> JetStream:
    return await JetStream.connect(servers.nats_url("worker"), "worker")


async def _publish(admin: JetStream, settings: StreamSettings, tenant: str, meter: Meter) -> None:
    committer = GroupCommitter(admin, settings, STREAM, meter, unbarred)
    data = msgspec.json.encode({"poison": tenant})
    await asyncio.gather(*(committer.submit(lane(tenant).ingest, f"{tenant}/{n}", data, "") for n in range(MESSAGES)))


async def test_what_was_settled_leaves_the_queue_and_what_was_not_stays(
    admin: JetStream, worker: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant = "swept-a"
    await _publish(admin, stream_settings, tenant, tally)
    deliveries = await _fetch(worker, stream_settings, tenant, tally)
    sweeper = QueueSweeper(worker, "dedupe", STREAM, range(PARTITIONS))
    stopping = asyncio.Event()
    running = asyncio.create_task(sweeper.run(stopping))
    await worker.settle([(delivery.reply, ACK) for delivery in deliveries[:10]])
    sweeper.settled(deliveries[:10])
    await _until_left(admin, tenant, MESSAGES - 10)
    await worker.settle([(delivery.reply, ACK) for delivery in deliveries[10:]])
    sweeper.settled(deliveries[10:])
    await _until_left(admin, tenant, 0)
    stopping.set()
    await running
    await worker.close()


async def test_a_parked_message_keeps_its_place_and_does_not_hold_its_neighbours_in_the_queue(
    admin: JetStream,
    worker: JetStream,
    stream_settings: StreamSettings,
    tally: Meter,
) -> None:
    tenant = "swept-b"
    await _publish(admin, stream_settings, tenant, tally)
    deliveries = await _fetch(worker, stream_settings, tenant, tally)
    sweeper = QueueSweeper(worker, "dedupe", STREAM, range(PARTITIONS))
    stopping = asyncio.Event()
    running = asyncio.create_task(sweeper.run(stopping))
    parked, others = deliveries[0], deliveries[1:]
    await worker.settle([(parked.reply, delayed(60_000)), *((delivery.reply, ACK) for delivery in others)])
    sweeper.settled(others)
    await _until_left(admin, tenant, 1)
    left = await admin.stored(STREAM, parked.seq)
    assert left is not None
    assert left.subject == parked.subject
    stopping.set()
    await running
    await admin.delete_stored(STREAM, parked.seq)
    await worker.close()
