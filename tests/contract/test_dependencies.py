"""A server that is cut off, held or full: the exact code, no effect, and recovery by itself."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from edge.coordination import RedisCoordination
from edge.ports import Ask, Budget
from edge.redis_store import redis_client
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer, PublishOutcome
from schemas.envelope import EventKey
from schemas.metrics import Metric
from schemas.units import UnixMs, format_rfc3339
from sinks.limits import RuntimeLimits
from sinks.pg import Pool
from streams.committer import GroupCommitter, unbarred
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from tests.contract.conftest import RunEdge, Sender, forget_hints, until_hinted
from tests.contract.proxy import Proxy
from tests.contract.running import HASTY, ShiftedClock
from tests.contract.wire import Answer

Proxied = tuple[Proxy, str]
AHEAD_MS = 60_000
"""So far ahead of the broker's start that the broker must know every id published since."""


async def until_accepted(sender: Sender, event_id: str) -> Answer:
    async with asyncio.timeout(20):
        while (answer := await sender.client.ingest(sender.body(event_id=event_id))).status == 503:
            continue
        return answer


@pytest.mark.parametrize("fault", ["cut", "hold"])
async def test_without_redis_ingest_is_refused_and_comes_back_by_itself(
    sender: Sender, run_edge: RunEdge, redis_proxy: Proxied, fault: str
) -> None:
    proxy, url = redis_proxy
    async with run_edge(redis_url=url, settings=HASTY) as edge:
        here = sender.at(edge)
        assert (await until_accepted(here, "evt-1")).status == 202
        getattr(proxy, fault)()
        for _ in range(3):
            answer = await here.client.ingest(here.body(event_id="evt-2"))
            assert (answer.status, answer.code) == (503, "RATE_LIMIT_BACKEND_UNAVAILABLE")
            assert answer.headers["retry-after"] == "1"
            (line,) = (await here.client.batch(here.body(event_id="evt-2"))).lines
            assert (line["status"], line["error_code"]) == (503, "RATE_LIMIT_BACKEND_UNAVAILABLE")
        proxy.restore()
        answer = await until_accepted(here, "evt-2")
        assert answer.status == 202
        assert "idempotency-replayed" not in answer.headers, "the refusals had no effect"


async def test_an_answer_that_came_too_late_is_never_taken_for_another(
    servers: EmbeddedServers, redis_proxy: Proxied
) -> None:
    """Answers held back beyond the deadline must not be read by the questions that follow."""
    del servers
    proxy, url = redis_proxy
    store = RedisCoordination(redis_client(url), HASTY)
    known = [EventKey("late", f"evt-{number}", "t", "r", "ts", "S", number, "h") for number in range(20)]
    store.remember(known)
    while None in (await store.admit(asking(*(key.event_id for key in known)))).keys:
        continue
    for _ in range(3):
        proxy.hold()
        asked = [store.admit(asking(key.event_id)) for key in known]
        assert {type(one) for one in await asyncio.gather(*asked, return_exceptions=True)} == {NoAnswer}
        proxy.restore()
        async with asyncio.timeout(20):
            for key in known:
                assert await answered(store, key) == [key]
    await store.close()


def asking(*event_ids: str) -> Ask:
    return Ask("late", event_ids, Budget(1_000_000, 1_000_000))


async def answered(store: RedisCoordination, key: EventKey) -> list[EventKey | None]:
    while True:
        try:
            return list((await store.admit(asking(key.event_id))).keys)
        except NoAnswer:
            continue


async def test_with_postgres_away_only_events_the_broker_must_know_go_on(
    sender: Sender, run_edge: RunEdge, postgres_proxy: Proxied, redis: str
) -> None:
    proxy, dsn = postgres_proxy
    clock = ShiftedClock(AHEAD_MS)
    async with run_edge(postgres_dsn=dsn, clock=clock) as edge:
        here = sender.at(edge)
        first = await here.client.ingest(here.body())
        assert first.status == 202
        proxy.cut()
        young = {"created_at": format_rfc3339(clock.now_ms())}
        old = {"created_at": format_rfc3339(UnixMs(SystemClock().now_ms() - 3_600_000))}
        answer = await here.client.ingest(here.body(event_id="old", **old))
        assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")
        accepted = await here.client.ingest(here.body(event_id="young", **young))
        assert accepted.status == 202
        await forget_hints(redis, here, count=2)
        again = await here.client.ingest(here.body(event_id="young", **young))
        assert (again.status, again.body) == (202, accepted.body)
        proxy.restore()
        assert (await until_accepted(here, "evt-3")).status == 202


async def test_with_postgres_away_known_limits_hold_and_unknown_ones_are_no_leave(
    sender: Sender, other_sender: Sender, run_edge: RunEdge, postgres_proxy: Proxied, operator_pool: Pool
) -> None:
    proxy, dsn = postgres_proxy
    await RuntimeLimits(operator_pool).set(
        sender.tenant_id, rps=7, burst=11, events_per_month_max=None, updated_by="a test"
    )
    clock = ShiftedClock(AHEAD_MS)
    async with run_edge(postgres_dsn=dsn, clock=clock) as edge:
        known, unknown = sender.at(edge), other_sender.at(edge)
        assert (await known.client.ingest(known.body())).status == 202
        assert (await unknown.client.ask("GET", "/v1/events/evt-1")).status == 404, "its key is known now"
        proxy.cut()
        young = {"event_id": "young", "created_at": format_rfc3339(clock.now_ms())}
        assert (await known.client.ingest(known.body(**young))).status == 202
        limits = (await known.client.ask("GET", "/v1/limits")).document
        assert (limits["rps"], limits["burst"], limits["rule"]) == (7, 11, "tenant")
        answer = await unknown.client.ingest(unknown.body(**young))
        assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")
        (line,) = (await unknown.client.batch(unknown.body(**young))).lines
        assert (line["status"], line["error_code"]) == (503, "STORE_UNAVAILABLE")
        proxy.restore()
        assert (await until_accepted(unknown, "young")).status == 202


async def test_with_postgres_away_a_key_never_seen_gets_no_verdict(
    sender: Sender, run_edge: RunEdge, postgres_proxy: Proxied
) -> None:
    proxy, dsn = postgres_proxy
    async with run_edge(postgres_dsn=dsn) as edge:
        proxy.cut()
        answer = await sender.at(edge).client.ingest(sender.body())
        assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")
        life = await sender.at(edge).client.ask("GET", "/v1/events/evt-1")
        assert (life.status, life.code) == (503, "STORE_UNAVAILABLE")


async def test_without_the_broker_nothing_is_accepted_and_it_comes_back_by_itself(
    sender: Sender, run_edge: RunEdge, nats_proxy: Proxied, redis: str
) -> None:
    proxy, url = nats_proxy
    async with run_edge(nats_url=url) as edge:
        here = sender.at(edge)
        body = here.body()
        first = await here.client.ingest(body)
        await until_hinted(redis, here)
        proxy.cut()
        answer = await here.client.ingest(here.body(event_id="evt-2"))
        assert answer.status == 503
        assert answer.code in {"STREAM_UNAVAILABLE", "OUTCOME_UNKNOWN"}
        assert (await here.client.ingest(here.body(event_id="evt-2"))).code == "STREAM_UNAVAILABLE"
        assert (await here.client.ingest(body)).body == first.body, "a duplicate is told by its hint"
        proxy.restore()
        async with asyncio.timeout(20):
            while await edge.watch.check():
                continue
        assert (await until_accepted(here, "evt-2")).status == 202


async def test_a_broker_that_does_not_answer_leaves_the_outcome_unknown_and_the_retry_tells(
    sender: Sender, run_edge: RunEdge, nats_proxy: Proxied
) -> None:
    proxy, url = nats_proxy
    async with run_edge(nats_url=url) as edge:
        here = sender.at(edge)
        body = here.body()
        proxy.hold()
        answer = await here.client.ingest(body)
        assert (answer.status, answer.code) == (503, "OUTCOME_UNKNOWN")
        proxy.restore()
        async with asyncio.timeout(20):
            while (again := await here.client.ingest(body)).status == 503:
                await edge.watch.check()
        assert again.status == 202


async def test_without_proof_of_durability_only_duplicates_are_answered(
    sender: Sender, run_edge: RunEdge, redis: str
) -> None:
    body = sender.body()
    first = await sender.client.ingest(body)
    await until_hinted(redis, sender)
    async with run_edge(proves_durability=False) as edge:
        here = sender.at(edge)
        assert (await here.client.ingest(body)).body == first.body
        answer = await here.client.ingest(here.body(event_id="evt-2"))
        assert (answer.status, answer.code) == (503, "DURABILITY_UNPROVEN")


class SmallQueue:
    """The edge's publisher, over a stream of its own with a small cap per tenant."""

    def __init__(self, committer: GroupCommitter, jetstream: JetStream, name: str) -> None:
        self._committer = committer
        self._jetstream = jetstream
        self._name = name

    def submit(self, subject: str, message_id: str, data: bytes, traceparent: str) -> "asyncio.Future[PublishOutcome]":
        tenant_id = subject.rsplit(".", 1)[1]
        return self._committer.submit(f"{self._name}.{tenant_id}", message_id, data, traceparent)

    async def stored_message(self, stream: str, seq: int) -> bytes | None:
        message = await self._jetstream.stored(stream, seq)
        return None if message is None else message.data

    async def oldest_stored_ms(self, subject: str) -> UnixMs | None:
        message = await self._jetstream.next_stored(self._name, 1, f"{self._name}.{subject.rsplit('.', 1)[1]}")
        return None if message is None else message.stored_ms

    def answer_ms(self) -> float:
        return self._committer.answer_ms

    def forgotten_before_ms(self) -> UnixMs:
        return UnixMs(0)

    def durability_proven(self) -> bool:
        return True

    def remembers_since_ms(self) -> UnixMs:
        return UnixMs(0)


class Silent:
    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Nothing is measured here."""


QUEUE = "CONTRACT_SMALL"
CAP = 3


@pytest.fixture
async def small_queue(servers: EmbeddedServers, stream_settings: StreamSettings) -> AsyncIterator[SmallQueue]:
    settings = dataclasses.replace(stream_settings, url=servers.nats_url("admin"))
    jetstream = await JetStream.connect(settings.url, "admin")
    config = {
        "name": QUEUE,
        "subjects": [f"{QUEUE}.*"],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "discard_new_per_subject": True,
        "max_msgs_per_subject": CAP,
        "allow_atomic": True,
        "allow_direct": True,
        "duplicate_window": 120_000_000_000,
    }
    await jetstream.api(f"STREAM.CREATE.{QUEUE}", config, dict)
    committer = GroupCommitter(jetstream, settings, QUEUE, Silent(), unbarred)
    yield SmallQueue(committer, jetstream, QUEUE)
    await committer.close()
    await jetstream.api(f"STREAM.DELETE.{QUEUE}", None, dict)
    await jetstream.close()


async def test_a_full_queue_refuses_its_tenant_alone_and_still_answers_duplicates(
    sender: Sender, other_sender: Sender, run_edge: RunEdge, small_queue: SmallQueue
) -> None:
    async with run_edge(ports={"publisher": small_queue}) as edge:
        here, there = sender.at(edge), other_sender.at(edge)
        bodies = [here.body(event_id=f"evt-{number}") for number in range(CAP + 2)]
        first = await here.client.batch(*bodies)
        assert sorted(line["status"] for line in first.lines) == [202] * CAP + [503] * 2
        refused = next(line for line in first.lines if line["status"] == 503)
        assert (refused["error_code"], refused["retry_after_ms"]) == ("INGEST_BACKPRESSURE_HARDSTOP", 1_000)
        answer = await here.client.ingest(here.body(event_id="one-more"))
        assert (answer.status, answer.code) == (503, "INGEST_BACKPRESSURE_HARDSTOP")
        stored = next(line for line in first.lines if line["status"] == 202)
        again = await here.client.ingest(bodies[stored["line"] - 1])
        assert (again.status, again.document["seq"]) == (202, stored["seq"])
        assert (await there.client.ingest(there.body())).status == 202
