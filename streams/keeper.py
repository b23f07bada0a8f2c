"""The inboxes of a worker: one byte budget for all of them, tended while runners work, handed back at the end."""

import asyncio

from schemas.meter import Meter
from streams.budgets import StageBudget
from streams.fair import ByteBudget
from streams.inbox import Inbox
from streams.jetstream import JetStream
from streams.pin import Source
from streams.settings import StreamSettings
from streams.stopping import set_within

TICK_S = 0.25
"""Several times within the timeout of a pin."""


class Keeper:
    def __init__(self, jetstream: JetStream, settings: StreamSettings, meter: Meter) -> None:
        self._jetstream = jetstream
        self._settings = settings
        self._meter = meter
        self._budget = ByteBudget(settings.buffer_bytes_max)
        self._inboxes: list[Inbox] = []

    def inbox(self, stage: StageBudget, partition: int, arrived: asyncio.Event) -> Inbox:
        """The inbox of a stage's partition; of a stage without partitions, of all it reads."""
        source = Source(
            stage=stage.stage,
            stream=stage.stream(partition, self._settings),
            consumer=stage.consumer(partition),
            pinned=stage.partitioned,
            ack_wait_ms=stage.ack_wait_ms,
        )
        made = Inbox(
            jetstream=self._jetstream,
            settings=self._settings,
            source=source,
            budget=self._budget,
            meter=self._meter,
            arrived=arrived,
        )
        self._inboxes.append(made)
        return made

    async def run(self, ended: asyncio.Event) -> None:
        """Tend until `ended`, set once the runners have: a stage busy with one long batch stays the owner of its
        partitions, also while it stops.

        Each inbox by itself: one whose consumer does not answer for seconds must not cost the others their pins.
        """
        async with asyncio.TaskGroup() as tending:
            for inbox in self._inboxes:
                tending.create_task(_tend(inbox, ended))

    async def release(self) -> None:
        """Give every partition to whoever stands by. The runners have ended: what they took is settled or let go."""
        await asyncio.gather(*(inbox.close() for inbox in self._inboxes))


async def _tend(inbox: Inbox, ended: asyncio.Event) -> None:
    while not ended.is_set():
        await inbox.tend()
        await set_within(ended, TICK_S)
