"""A backlog comes pull after pull, without anybody asking in between; its end is noticed."""

import asyncio

from streams.delivery import Delivery
from streams.jetstream import JetStream
from tests.integration.streams.conftest import OpenInbox

PULL = 8
MESSAGES = 1 + 5 * PULL
BOUND_S = 20.0


async def test_while_the_broker_holds_another_full_pull_it_is_asked_for_at_once(
    admin: JetStream, pinned_stream: str, open_inbox: OpenInbox
) -> None:
    for number in range(MESSAGES):
        await admin.ask(f"{pinned_stream}.tenant-a", b"%d" % number, None, 2_000)
    inbox = await open_inbox(pull_messages=PULL)
    async with asyncio.timeout(BOUND_S):
        while len(inbox) < 1:
            await inbox.pull()
            await asyncio.sleep(0)
        while len(inbox) < 1 + 2 * PULL:  # as many as it has room for, and nobody pulls
            await admin.api("INFO", None, dict)
        assert inbox.more
        taken: list[Delivery] = []
        while len(taken) < MESSAGES:
            await inbox.pull()
            taken += inbox.take(MESSAGES)
            await asyncio.sleep(0)
    assert [delivery.seq for delivery in taken] == list(range(1, MESSAGES + 1))
    assert not inbox.more
