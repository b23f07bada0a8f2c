"""A consumer that has a backlog and brings nothing is bound anew; one that is busy, or somebody else's, is not."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.msg import Msg

from schemas.metrics import STAGE_STALLS
from streams import stall
from streams.delivery import ACK, Delivery
from streams.inbox import Inbox
from streams.jetstream import JetStream
from tests.integration.streams.conftest import OpenInbox, Tally

MESSAGES = 5
BOUND_S = 20.0
STALL_S = 0.3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of tenths of a second in place of tens."""
    monkeypatch.setattr(stall, "STALL_S", STALL_S)
    monkeypatch.setattr(stall, "PARKED_S_MAX", STALL_S)
    monkeypatch.setattr(stall, "LOOKS_S", STALL_S / 3)


async def _fill(admin: JetStream, stream: str) -> None:
    for number in range(MESSAGES):
        await admin.ask(f"{stream}.tenant-a", b"%d" % number, None, 2_000)


async def _take(inbox: Inbox) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(BOUND_S):
        while len(found) < MESSAGES:
            await inbox.pull()
            found += inbox.take(MESSAGES)
            await asyncio.sleep(0.01)
    return found


async def _unsettled(admin: JetStream, stream: str, inbox: Inbox, messages: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while (await admin.api(f"CONSUMER.INFO.{stream}.c", None, dict))["num_ack_pending"] != messages:
            await inbox.pull()


def _stalls(tally: Tally) -> int:
    return sum(name == STAGE_STALLS.name for name, _, _ in tally.told)


async def _for_several_stalls(act: Callable[[], Awaitable[None]]) -> None:
    end_s = asyncio.get_running_loop().time() + 5 * STALL_S
    while asyncio.get_running_loop().time() < end_s:
        await act()
        await asyncio.sleep(0.01)


async def test_deliveries_that_never_came_are_found_and_brought_again(
    admin: JetStream,
    pinned_stream: str,
    open_inbox: OpenInbox,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hears, losing, lost = Inbox._on_message, asyncio.Event(), list[Msg]()

    async def hears_badly(self: Inbox, generation: int, message: Msg) -> None:
        if not losing.is_set():
            await hears(self, generation, message)
        elif message.data:
            lost.append(message)

    monkeypatch.setattr(Inbox, "_on_message", hears_badly)
    inbox = await open_inbox()
    await _fill(admin, pinned_stream)
    first = await _take(inbox)
    await admin.settle([(delivery.reply, ACK) for delivery in first])
    await _unsettled(admin, pinned_stream, inbox, 0)
    losing.set()
    await _fill(admin, pinned_stream)
    async with asyncio.timeout(BOUND_S):
        while len(lost) < MESSAGES:
            await inbox.pull()
            await asyncio.sleep(0.01)
    losing.clear()
    found = await _take(inbox)
    assert [(d.seq, d.suspect) for d in found] == [(MESSAGES + 1 + n, False) for n in range(MESSAGES)]
    assert _stalls(tally) == 1
    assert sum("made no progress" in record.message for record in caplog.records) == 1


async def test_messages_that_are_never_delivered_because_every_request_was_lost_are_asked_for_anew(
    admin: JetStream, pinned_stream: str, open_inbox: OpenInbox, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, losing = JetStream.request, asyncio.Event()

    async def is_not_heard(self: JetStream, subject: str, data: bytes, inbox: str) -> None:
        if not losing.is_set():
            await asks(self, subject, data, inbox)

    monkeypatch.setattr(JetStream, "request", is_not_heard)
    inbox = await open_inbox()
    await _fill(admin, pinned_stream)
    await admin.settle([(delivery.reply, ACK) for delivery in await _take(inbox)])
    await _unsettled(admin, pinned_stream, inbox, 0)
    losing.set()
    async with asyncio.timeout(BOUND_S):
        while (await admin.api(f"CONSUMER.INFO.{pinned_stream}.c", None, dict)).get("num_waiting"):
            await inbox.pull()
    await _fill(admin, pinned_stream)
    before = _stalls(tally)
    async with asyncio.timeout(BOUND_S):
        while _stalls(tally) == before:
            await inbox.pull()
            await asyncio.sleep(0.01)
    assert (await admin.api(f"CONSUMER.INFO.{pinned_stream}.c", None, dict))["num_pending"] == MESSAGES
    losing.clear()
    assert [delivery.seq for delivery in await _take(inbox)] == [MESSAGES + 1 + n for n in range(MESSAGES)]


async def test_a_stage_busy_with_one_long_batch_is_not_stalled(
    admin: JetStream, pinned_stream: str, open_inbox: OpenInbox, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "IN_HAND_S", STALL_S / 3)
    inbox = await open_inbox()
    await _fill(admin, pinned_stream)
    assert len(await _take(inbox)) == MESSAGES
    await _for_several_stalls(inbox.tend)
    assert _stalls(tally) == 0


async def test_a_worker_that_stands_by_is_not_stalled_by_its_owners_backlog(
    admin: JetStream, pinned_stream: str, open_inbox: OpenInbox, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "IN_HAND_S", STALL_S / 3)
    owner = await open_inbox(pull_messages=1, buffer_messages_max=1)
    await _fill(admin, pinned_stream)
    async with asyncio.timeout(BOUND_S):
        while len(owner) == 0:
            await owner.pull()
            await asyncio.sleep(0.01)
    standby = await open_inbox()

    async def both() -> None:
        await owner.tend()
        await standby.pull()

    await _for_several_stalls(both)
    assert (await admin.api(f"CONSUMER.INFO.{pinned_stream}.c", None, dict))["num_pending"] > 0
    assert _stalls(tally) == 0
