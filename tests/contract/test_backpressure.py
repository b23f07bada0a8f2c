"""A long queue sheds its tenant, a full one takes nothing, and an unknown one is as good as full.

The broker's own cap, which maps to the same code, is in test_dependencies.py.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge.depths import DepthView
from edge.redis_store import redis_client
from edge.settings import QueueSettings
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from schemas.metrics import Metric
from schemas.subjects import ingest_stream, lane
from schemas.units import UnixMs
from streams.depth import LaneDepths
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import Edge

QUEUES = QueueSettings(depth_warn=2, depth_shed=4, depth_hardstop=6, key_template="fg:q:{tenant_id}:{lane}")


class Silent:
    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Nothing is measured here."""


@pytest.fixture(scope="module")
async def small(run_edge: RunEdge) -> AsyncIterator[Edge]:
    """An edge with small thresholds."""
    async with run_edge(queues=QUEUES) as edge:
        yield edge


@pytest.fixture
async def broker(servers: EmbeddedServers) -> AsyncIterator[JetStream]:
    jetstream = await JetStream.connect(servers.nats_url("edge"), "edge")
    yield jetstream
    await jetstream.close()


async def enqueued(broker: JetStream, sender: Sender) -> int:
    """The tenant's events in the ingest stream."""
    subject = lane(sender.tenant_id).ingest
    info = await broker.api(f"STREAM.INFO.{ingest_stream(0)}", {"subjects_filter": subject}, dict)
    return int((info["state"].get("subjects") or {}).get(subject, 0))


async def fill(sender: Sender, small: Edge, events: int) -> list[bytes]:
    """Enqueue so many events at the usual edge, and return them once the small edge knows."""
    bodies = [sender.body(event_id=f"evt-{number}") for number in range(events)]
    assert {line["status"] for line in (await sender.client.batch(*bodies)).lines} == {202}
    there = sender.at(small)
    async with asyncio.timeout(20):
        while (await there.client.ask("GET", "/v1/limits")).document["depth"]["messages"] != events:  # noqa: ASYNC110  (the view has its own pace)
            await asyncio.sleep(0.05)
    return bodies


async def test_below_shed_events_pass(sender: Sender, small: Edge) -> None:
    await fill(sender, small, 3)
    answer = await sender.at(small).client.ingest(sender.body(event_id="another"))
    assert answer.status == 202


async def test_from_shed_on_429_says_when_to_come_back_and_nothing_is_enqueued(
    sender: Sender, other_sender: Sender, small: Edge, broker: JetStream
) -> None:
    await fill(sender, small, 4)
    here = sender.at(small)
    answer = await here.client.ingest(sender.body(event_id="another"))
    assert (answer.status, answer.code) == (429, "INGEST_BACKPRESSURE_SHED")
    retry_after_s = int(answer.headers["retry-after"])
    assert 1 <= retry_after_s <= 300
    assert answer.document["retry_after_ms"] == retry_after_s * 1_000
    (line,) = (await here.client.batch(sender.body(event_id="another"))).lines
    assert (line["status"], line["error_code"]) == (429, "INGEST_BACKPRESSURE_SHED")
    assert await enqueued(broker, sender) == 4
    assert (await other_sender.at(small).client.ingest(other_sender.body())).status == 202


async def test_from_hardstop_on_503_and_nothing_is_enqueued(sender: Sender, small: Edge, broker: JetStream) -> None:
    await fill(sender, small, 6)
    answer = await sender.at(small).client.ingest(sender.body(event_id="another"))
    assert (answer.status, answer.code) == (503, "INGEST_BACKPRESSURE_HARDSTOP")
    assert 1 <= int(answer.headers["retry-after"]) <= 300
    assert await enqueued(broker, sender) == 6


async def test_what_is_stored_is_answered_whatever_the_depth(sender: Sender, small: Edge) -> None:
    bodies = await fill(sender, small, 6)
    here = sender.at(small)
    lines = (await here.client.batch(*bodies, sender.body(event_id="another"))).lines
    assert [line["status"] for line in lines] == [202] * 6 + [503]
    assert (await here.client.ingest(bodies[0])).headers["idempotency-replayed"] == "true"


class MovableClock(SystemClock):
    """The system's time, or later."""

    ahead_ms = 0

    def now_ms(self) -> UnixMs:
        return UnixMs(super().now_ms() + self.ahead_ms)


async def refresh(view: DepthView, sender: Sender) -> None:
    """On return the view knows the depth of the sender's tenant: a sample may come after the turn it was begun in."""
    async with asyncio.timeout(20):
        await view.refresh()
        while view.of(sender.tenant_id) is None:
            await view.refresh()


async def test_a_view_too_old_refuses_until_it_is_renewed(
    sender: Sender,
    servers: EmbeddedServers,
    run_edge: RunEdge,
    stream_settings: StreamSettings,
    broker: JetStream,
) -> None:
    clock = MovableClock()
    redis = redis_client(servers.redis_url)
    view = DepthView(redis, QUEUES, LaneDepths(broker, stream_settings), clock, Silent())
    async with run_edge(queues=QUEUES) as whole, run_edge(queues=QUEUES, ports={"depths": view}) as edge:
        here = sender.at(edge)
        await refresh(view, sender)
        assert (await here.client.ingest(sender.body(event_id="fresh"))).status == 202
        clock.ahead_ms = 2_500
        refused = await here.client.ingest(sender.body(event_id="stale"))
        assert (refused.status, refused.code) == (503, "STREAM_UNAVAILABLE")
        assert (await here.client.ask("GET", "/v1/limits")).document["depth"]["messages"] is None
        assert await enqueued(broker, sender) == 1
        await refresh(view, sender)
        assert (await here.client.ingest(sender.body(event_id="renewed"))).status == 202
        assert (await sender.at(whole).client.ingest(sender.body(event_id="elsewhere"))).status == 202
    await redis.aclose()
