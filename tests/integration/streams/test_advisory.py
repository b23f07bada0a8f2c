"""What an advisory of the broker may bury: what was terminated for a consumer of ours, and nothing else."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
import pytest
from nats.aio.msg import Msg

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.settings import load
from schemas.envelope import DeadLetter
from schemas.fate import DONE
from schemas.meter import Meter
from schemas.subjects import (
    STREAM_ADVISORIES,
    STREAM_DECIDE,
    STREAM_DLQ,
    STREAM_EVENTS,
    STREAM_RETRY,
    consumer_name,
    lane,
    tenant_of,
)
from streams.budgets import ADVISORY_CONSUMER, budget_of
from streams.committer import GroupCommitter, unbarred
from streams.delivery import ACK, Delivery, from_message
from streams.graveyard import Graveyard
from streams.inbox import Inbox
from streams.jetstream import ApiError, JetStream
from streams.keeper import Keeper
from streams.retry import ScheduledRetries
from streams.settings import StreamSettings
from streams.stages.advisory import AdvisoryStage
from streams.topology import update_consumers
from streams.wire import MessageAnswer, StoredMessage

TERM = b"+TERM"
BOUND_S = 10.0


class Desk(NamedTuple):
    """A worker's advisory stage, and its hold of other stages' partitions."""

    worker: JetStream
    admin: JetStream
    settings: StreamSettings
    meter: Meter
    stage: AdvisoryStage

    async def open(self, stage: str, tenant: str) -> Inbox:
        budget = budget_of(stage, self.settings, load({}).retry)
        inbox = Keeper(self.worker, self.settings, self.meter).inbox(budget, lane(tenant).partition, asyncio.Event())
        await inbox.open()
        return inbox

    async def told(self, stream: str, consumer: str, seq: int, kind: str = "MSG_TERMINATED") -> StoredMessage:
        """The advisory that the broker has stored of this message."""
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{stream}.{consumer}"
        async with asyncio.timeout(BOUND_S):
            while (told := await self._last(subject)) is None or msgspec.json.decode(told.data)["stream_seq"] != seq:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return told

    async def heed(self, stream: str, consumer: str, seq: int, kind: str = "MSG_TERMINATED") -> None:
        """Run that advisory."""
        told = await self.told(stream, consumer, seq, kind)
        assert await self.stage.run([Delivery(told.subject, told.data, "", STREAM_ADVISORIES, told.seq)]) == [DONE]

    async def retry_of(self, stage: str, delivery: Delivery, attempt: int) -> Delivery:
        """The delivery's retry, in the hands of the lane."""
        inbox = await self.open("retry", tenant_of(delivery.subject))
        assert await ScheduledRetries(self.worker, self.settings, SystemClock()).schedule(stage, delivery, attempt, 1)
        tenant = lane(tenant_of(delivery.subject))
        found = await _next(inbox, f"fg.rt.{tenant.partition}.{tenant.tenant_id}")
        await inbox.close()
        return found

    async def terminate_retry(self, delivery: Delivery) -> None:
        await self.worker.settle([(delivery.reply, TERM)])
        await self.heed(STREAM_RETRY, "retry", delivery.seq)
        assert await self.admin.stored(STREAM_RETRY, delivery.seq) is None

    async def _last(self, subject: str) -> StoredMessage | None:
        try:
            answer = await self.admin.api(
                f"STREAM.MSG.GET.{STREAM_ADVISORIES}", {"last_by_subj": subject}, MessageAnswer
            )
        except ApiError:
            return None
        return answer.message

    async def letter(self, tenant: str) -> DeadLetter | None:
        message = await self.admin.next_stored(STREAM_DLQ, 1, lane(tenant).dlq)
        return None if message is None else msgspec.json.decode(message.data, type=DeadLetter)


@pytest.fixture
async def desk(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> AsyncIterator[Desk]:
    worker = await JetStream.connect(servers.nats_url("worker"), "worker")
    graveyard = Graveyard(GroupCommitter(worker, stream_settings, STREAM_DLQ, tally, unbarred))
    yield Desk(worker, admin, stream_settings, tally, AdvisoryStage(worker, graveyard, stream_settings))
    await worker.close()


async def _next(inbox: Inbox, subject: str) -> Delivery:
    async with asyncio.timeout(BOUND_S):
        while True:
            await inbox.pull()
            for delivery in inbox.take(1):
                if delivery.subject == subject:
                    return delivery
            await asyncio.sleep(0.01)


async def test_what_was_terminated_for_a_stage_is_buried_and_leaves_its_queue(desk: Desk) -> None:
    tenant = "advised-ours"
    inbox = await desk.open("decision", tenant)
    await desk.admin.ask(lane(tenant).decide, b"{}", None, 2_000)
    delivery = await _next(inbox, lane(tenant).decide)
    await desk.worker.settle([(delivery.reply, TERM)])
    await desk.heed(STREAM_DECIDE, consumer_name("decision", lane(tenant).partition), delivery.seq)
    letter = await desk.letter(tenant)
    assert letter is not None
    assert (letter.reason_code, letter.stage, letter.seq) == ("retry_budget_exhausted", "decision", delivery.seq)
    assert await desk.admin.stored(STREAM_DECIDE, delivery.seq) is None
    await inbox.close()


@pytest.mark.parametrize("stream", [STREAM_DECIDE, STREAM_EVENTS])
async def test_what_a_consumer_beside_ours_gives_up_on_stays_where_it_is(desk: Desk, stream: str) -> None:
    tenant = f"advised-{stream.lower()[3:]}"
    subject = lane(tenant).decide if stream == STREAM_DECIDE else lane(tenant).events
    await desk.admin.ask(subject, b"{}", None, 2_000)
    config = {"durable_name": "looking", "ack_policy": "explicit", "deliver_policy": "all", "filter_subject": subject}
    request = {"stream_name": stream, "config": config, "action": "create"}
    await desk.admin.api(f"CONSUMER.CREATE.{stream}.looking", request, dict)
    try:
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        subscription, asking = await desk.admin.subscribe("looking", arrived.put)
        await desk.admin.request(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.looking", b"", asking)
        async with asyncio.timeout(BOUND_S):
            seen = from_message(await arrived.get())
        await desk.admin.unsubscribe(subscription)
        seq = seen.seq
        await desk.admin.settle([(seen.reply, TERM)])
        await desk.heed(stream, "looking", seq)
    finally:
        await desk.admin.api(f"CONSUMER.DELETE.{stream}.looking", None, dict)
    assert await desk.letter(tenant) is None
    assert await desk.admin.stored(stream, seq) is not None
    assert await desk.admin.next_stored(stream, seq + 1, subject) is None


async def test_evidence_that_was_terminated_is_owed_still_and_comes_again(desk: Desk) -> None:
    tenant = "advised-evidence"
    inbox = await desk.open("evidence", tenant)
    await desk.admin.ask(lane(tenant).events, b"{}", None, 2_000)
    delivery = await _next(inbox, lane(tenant).events)
    await desk.worker.settle([(delivery.reply, TERM)])
    for _ in range(2):  # an advisory that comes twice
        await desk.heed(STREAM_EVENTS, consumer_name("evidence", lane(tenant).partition), delivery.seq)
    again = await _next(inbox, lane(tenant).events)
    assert (again.data, again.seq > delivery.seq) == (delivery.data, True)
    assert await desk.admin.next_stored(STREAM_EVENTS, again.seq + 1, lane(tenant).events) is None
    assert await desk.letter(tenant) is None
    await desk.worker.settle([(again.reply, ACK)])
    await inbox.close()


def _failed(tenant: str, stage: str) -> Delivery:
    """A delivery of the stage, long acknowledged where it was."""
    if stage == "evidence":
        return Delivery(lane(tenant).events, b'{"an": "entry"}', "", STREAM_EVENTS, 7)
    return Delivery(lane(tenant).decide, b"not readable", "", STREAM_DECIDE, 7)


async def test_a_retry_that_was_terminated_is_buried_as_its_stage_would_have_and_leaves_the_lane(desk: Desk) -> None:
    tenant = "advised-retry"
    retry = await desk.retry_of("decision", _failed(tenant, "decision"), 3)
    await desk.terminate_retry(retry)
    letter = await desk.letter(tenant)
    assert letter is not None
    assert (letter.reason_code, letter.stage, letter.attempts) == ("retry_budget_exhausted", "decision", 3)
    assert (letter.stream, letter.seq, base64.b64decode(letter.message_base64)) == (STREAM_DECIDE, 7, b"not readable")


async def test_a_retry_of_evidence_that_was_terminated_is_owed_still(desk: Desk) -> None:
    tenant = "advised-retried-evidence"
    retry = await desk.retry_of("evidence", _failed(tenant, "evidence"), 2)
    await desk.terminate_retry(retry)
    again = await desk.admin.next_stored(STREAM_EVENTS, 1, lane(tenant).events)
    assert again is not None
    assert again.data == _failed(tenant, "evidence").data
    assert await desk.letter(tenant) is None


async def test_what_is_no_task_and_was_terminated_in_the_lane_is_buried_as_poison(desk: Desk) -> None:
    tenant = "advised-no-task"
    inbox = await desk.open("retry", tenant)
    subject = f"fg.rt.{lane(tenant).partition}.{tenant}"
    await desk.admin.ask(subject, b"{}", None, 2_000)
    await desk.terminate_retry(await _next(inbox, subject))
    await inbox.close()
    letter = await desk.letter(tenant)
    assert letter is not None
    assert (letter.reason_code, letter.stage, letter.stream) == ("poison", "retry", STREAM_RETRY)


async def test_what_an_advisory_told_of_that_was_terminated_itself_is_buried_all_the_same(desk: Desk) -> None:
    tenant = "advised-twice"
    inbox = await desk.open("decision", tenant)
    await desk.admin.ask(lane(tenant).decide, b"{}", None, 2_000)
    delivery = await _next(inbox, lane(tenant).decide)
    await desk.worker.settle([(delivery.reply, TERM)])
    told = await desk.told(STREAM_DECIDE, consumer_name("decision", lane(tenant).partition), delivery.seq)
    advisories = await desk.open("advisory", tenant)
    seq = told.seq
    for _ in range(2):  # and the advisory about that, too
        await _terminate(desk, advisories, seq)
        seq = (await desk.told(STREAM_ADVISORIES, ADVISORY_CONSUMER, seq)).seq
    await advisories.close()
    last = await desk.admin.stored(STREAM_ADVISORIES, seq)
    assert last is not None
    assert await desk.stage.run([Delivery(last.subject, last.data, "", STREAM_ADVISORIES, seq)]) == [DONE]
    letter = await desk.letter(tenant)
    assert letter is not None
    assert (letter.reason_code, letter.stage, letter.seq) == ("retry_budget_exhausted", "decision", delivery.seq)
    await inbox.close()


async def _terminate(desk: Desk, advisories: Inbox, seq: int) -> None:
    """Terminate one advisory; those before it are somebody else's, and are acknowledged."""
    async with asyncio.timeout(BOUND_S):
        while True:
            await advisories.pull()
            for delivery in advisories.take(1):
                await desk.worker.settle([(delivery.reply, TERM if delivery.seq == seq else ACK)])
                if delivery.seq == seq:
                    return
            await asyncio.sleep(0.01)


async def test_an_advisory_of_itself_names_nothing(desk: Desk) -> None:
    data = msgspec.json.encode({"stream": STREAM_ADVISORIES, "consumer": ADVISORY_CONSUMER, "stream_seq": 1})
    assert await desk.stage.run([Delivery("$JS.EVENT", data, "", STREAM_ADVISORIES, 1)]) == [DONE]


async def test_what_the_broker_gave_up_delivering_is_buried_like_what_was_terminated(desk: Desk) -> None:
    tenant = "advised-given-up"
    partition = lane(tenant).partition
    name = consumer_name("decision", partition)
    config = (await desk.admin.api(f"CONSUMER.INFO.{STREAM_DECIDE}.{name}", None, dict))["config"]
    limited = {**config, "max_deliver": 1, "ack_wait": 50_000_000}
    request = {"stream_name": STREAM_DECIDE, "config": limited, "action": "update"}
    await desk.admin.api(f"CONSUMER.CREATE.{STREAM_DECIDE}.{name}", request, dict)
    try:
        inbox = await desk.open("decision", tenant)
        await desk.admin.ask(lane(tenant).decide, b"{}", None, 2_000)
        delivery = await _next(inbox, lane(tenant).decide)
        await desk.heed(STREAM_DECIDE, name, delivery.seq, "MAX_DELIVERIES")
        await inbox.close()
    finally:
        assert await update_consumers(desk.admin, desk.settings) == [f"{STREAM_DECIDE}/{name}"]
    letter = await desk.letter(tenant)
    assert letter is not None
    assert (letter.reason_code, letter.stage, letter.seq) == ("retry_budget_exhausted", "decision", delivery.seq)
    assert await desk.admin.stored(STREAM_DECIDE, delivery.seq) is None
