"""A worker's inboxes are tended each by itself."""

import asyncio
import random
from itertools import pairwise
from typing import Any, cast

import msgspec

from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.metrics import Metric
from streams.budgets import budget_of
from streams.inbox import LOOK_S
from streams.keeper import TICK_S, Keeper
from streams.pin import ConsumerState
from tests.unit.streams.seeded_loop import run_seeded
from tests.unit.streams.test_work_seeded import RETRY, STREAMS

SILENT = "dedupe-p03"
API_S = 5.0
LIFE_S = 60.0


class Broker:
    """Consumers that all have another owner; the state of one is never told."""

    connected = True

    def __init__(self) -> None:
        self.looks: dict[str, list[float]] = {}

    def on_reconnect(self, callback: object) -> None: ...

    def add(self, metric: Metric, value: float, *labels: str) -> None: ...

    async def subscribe(self, name: str, callback: object) -> tuple[object, str]:
        return callback, name

    async def request(self, subject: str, data: bytes, reply: str) -> None: ...

    async def api(self, subject: str, *_request: object) -> ConsumerState:
        consumer = subject.rpartition(".")[2]
        self.looks.setdefault(consumer, []).append(asyncio.get_running_loop().time())
        if consumer == SILENT:
            await asyncio.sleep(API_S)
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        groups = [{"pinned_client_id": "another"}]
        known = {"config": {}, "delivered": {}, "ack_floor": {}, "priority_groups": groups}
        return msgspec.convert(known, ConsumerState)


def test_an_inbox_whose_consumer_does_not_answer_keeps_no_other_waiting() -> None:
    """A wait of 5 s for one would be twice the time in which the others' pins lapse."""
    broker = Broker()

    async def main() -> None:
        keeper = Keeper(cast("Any", broker), STREAMS, broker)
        inboxes = [keeper.inbox(budget_of("dedupe", STREAMS, RETRY), part, asyncio.Event()) for part in range(16)]
        for inbox in inboxes:
            await inbox.open()
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keeper.run(ended))
            await asyncio.sleep(LIFE_S)  # of the loop's own clock
            ended.set()

    run_seeded(main(), random.Random(1))
    silent = broker.looks.pop(SILENT)
    assert len(silent) < LIFE_S / API_S + 1
    assert len(broker.looks) == 15
    for consumer, looks in broker.looks.items():
        waits = [later - earlier for earlier, later in pairwise(looks)]
        assert max(waits) <= LOOK_S + 2 * TICK_S, consumer
        assert looks[-1] > LIFE_S - 1
