"""Depths of tenants on a real broker: what is unsettled counts, what is settled does not."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from ops.embedded import EmbeddedServers
from ops.settings import load
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.depth import LaneDepth
from schemas.meter import Meter
from schemas.subjects import STREAM_DECIDE, ingest_stream, lane, partition_of
from streams.budgets import budget_of
from streams.committer import GroupCommitter, unbarred
from streams.delivery import ACK, Delivery
from streams.depth import LaneDepths
from streams.jetstream import JetStream
from streams.keeper import Keeper
from streams.settings import StreamSettings

STREAM = ingest_stream(0)


@pytest.fixture(scope="module")
def servers(own_servers: EmbeddedServers) -> EmbeddedServers:
    """What other tests leave unsettled would blur these depths."""
    return own_servers


@pytest.fixture
async def depths(servers: EmbeddedServers, stream_settings: StreamSettings) -> AsyncIterator[LaneDepths]:
    """As the edge's user of the broker, whose rights are enough."""
    jetstream = await JetStream.connect(servers.nats_url("edge"), "edge")
    yield LaneDepths(jetstream, stream_settings)
    await jetstream.close()


@pytest.fixture
async def worker(servers: EmbeddedServers) -> AsyncIterator[JetStream]:
    jetstream = await JetStream.connect(servers.nats_url("worker"), "worker")
    yield jetstream
    await jetstream.close()


def _neighbours(name: str, count: int) -> list[str]:
    """So many tenants that share the partition of the first."""
    found = [name]
    number = 0
    while len(found) < count:
        number += 1
        if partition_of(f"{name}-{number}") == partition_of(name):
            found.append(f"{name}-{number}")
    return found


async def _publish(admin: JetStream, settings: StreamSettings, meter: Meter, subjects: dict[str, int]) -> None:
    for subject, messages in subjects.items():
        committer = GroupCommitter(admin, settings, STREAM_DECIDE if "decide" in subject else STREAM, meter, unbarred)
        await asyncio.gather(*(committer.submit(subject, f"{subject}/{n}", b"{}", "") for n in range(messages)))


async def _settle(worker: JetStream, settings: StreamSettings, tenant: str, messages: int, meter: Meter) -> None:
    """Fetch and acknowledge the next messages of the tenant's partition before dedupe."""
    arrived = asyncio.Event()
    keeper = Keeper(worker, settings, meter)
    inbox = keeper.inbox(budget_of("dedupe", settings, load({}).retry), partition_of(tenant), arrived)
    await inbox.open()
    found: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(found) < messages:
            await inbox.pull()
            arrived.clear()
            found += inbox.take(messages - len(found))
            if len(found) < messages:
                await arrived.wait()
    await worker.settle((delivery.reply, ACK) for delivery in found)
    await keeper.release()


async def _until(depths: LaneDepths, tenant: str, wanted: dict[str, LaneDepth]) -> None:
    """Acknowledgements are not answered, so the broker may need a moment to have them."""
    async with asyncio.timeout(20):
        while await depths.read(partition_of(tenant)) != wanted:  # noqa: ASYNC110  (nothing tells when it has)
            await asyncio.sleep(0.02)


async def test_each_lane_counts_its_unsettled_messages_and_no_other_partition_is_named(
    depths: LaneDepths, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant, other = _neighbours("lanes", 2)
    partition = partition_of(tenant)
    published = {lane(tenant).ingest: 5, lane(tenant).decide: 3, lane(other).ingest: 2}
    await _publish(admin, stream_settings, tally, published)
    await admin.ask(f"fg.rt.{partition}.{tenant}", b"{}", None, 2_000)
    assert await depths.read(partition) == {tenant: LaneDepth(5, 3, 1), other: LaneDepth(2, 0, 0)}
    assert (await depths.read(partition))[tenant].messages == 9
    assert tenant not in await depths.read((partition + 1) % 16)


async def test_what_is_settled_does_not_count_although_nobody_has_swept_it(
    depths: LaneDepths, admin: JetStream, worker: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant = "settled-a"
    await _publish(admin, stream_settings, tally, {lane(tenant).ingest: 30})
    assert await depths.read(partition_of(tenant)) == {tenant: LaneDepth(30, 0, 0)}
    await _settle(worker, stream_settings, tenant, 20, tally)
    await _until(depths, tenant, {tenant: LaneDepth(10, 0, 0)})
    await _settle(worker, stream_settings, tenant, 10, tally)
    await _until(depths, tenant, {})
    info = await admin.api(f"STREAM.INFO.{STREAM}", {"subjects_filter": lane(tenant).ingest}, dict)
    assert info["state"]["subjects"] == {lane(tenant).ingest: 30}, "unswept, as the broker's own cap counts"


async def test_a_tenant_is_never_said_to_have_less_than_it_has(
    depths: LaneDepths, admin: JetStream, worker: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    first, second = _neighbours("floor-c", 2)
    await _publish(admin, stream_settings, tally, {lane(first).ingest: 20})
    await _publish(admin, stream_settings, tally, {lane(second).ingest: 10})
    await _settle(worker, stream_settings, first, 20, tally)
    await _until(depths, first, {first: LaneDepth(10, 0, 0), second: LaneDepth(10, 0, 0)})


async def test_more_subjects_than_one_page_holds_are_all_counted(
    depths: LaneDepths, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = {f"fg.in.3.t{number}": number for number in range(1, 251)}
    asked = []

    async def page(_self: JetStream, subject: str, request: dict[str, int], answer: type, _timeout_ms: int) -> object:
        if subject.startswith("CONSUMER"):
            return answer(num_pending=1_000)
        asked.append(request["offset"])
        names = list(everyone)[request["offset"] : request["offset"] + 100]
        state = {"subjects": {name: everyone[name] for name in names}} if "FG_INGEST" in subject else {}
        return msgspec.convert({"state": state, "total": len(everyone)}, answer)

    monkeypatch.setattr(JetStream, "api", page)
    found = await depths.read(3)
    assert len(found) == 250
    assert sum(depth.ingest for depth in found.values()) == sum(everyone.values())
    assert sorted(asked) == [0, 0, 0, 100, 200]


async def test_without_the_broker_there_is_no_depth(servers: EmbeddedServers, stream_settings: StreamSettings) -> None:
    jetstream = await JetStream.connect(servers.nats_url("edge"), "edge")
    await jetstream.close()
    with pytest.raises(NoAnswer) as refused:
        await LaneDepths(jetstream, stream_settings).read(0)
    assert refused.value.code is Code.STREAM_UNAVAILABLE
