"""Removes settled messages from the queue streams, in bulk, behind what the consumers have settled.

A work-queue stream would delete each message as it is acknowledged, and with `sync_interval: always`
the server fsyncs every such deletion: 1,000 acknowledgements a second at 250 to 420 us of its CPU,
against 11,000 to 17,000 a second at 20 to 40 us for one purge behind the consumer's ack floor
(docs/adr/0007). So the queues keep messages until swept; an acknowledgement still comes after the
commit it stands for, and a message still there that was settled is at worst delivered again.

Three things are ever removed. First, everything up to the first message of the stream that any
partition has not settled: one purge, about 1 us a message. While a parked tenant holds that back,
also what a partition has settled up to its own consumer's ack floor, which no unsettled message of
it lies below (a purge with a filter: 20 to 35 us a message); and in the parked tenant's own
partition, single messages this worker settled itself above the floor. So one full tenant does not
fill its neighbours' caps.

FG_RETRY is swept too, behind its one consumer: were it a work queue, what an operator terminates in it
would be gone before it can be buried.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from schemas.answers import NoAnswer
from schemas.subjects import STREAM_ADVISORIES, STREAM_RETRY, consumer_name
from streams.budgets import ADVISORY_CONSUMER
from streams.delivery import Delivery
from streams.jetstream import ApiError, JetStream
from streams.topology import STAGE_SUBJECT, UNKNOWN_CONSUMER

log = logging.getLogger("streams")

SWEEP_S = 0.5
"""A tenant's depth counts settled messages for no longer than this."""
HELD_BACK_SWEEPS = 30
"""Longer than a takeover: after a crash the floors stand still until the dead worker's messages come again."""
SINGLE_DELETIONS_MAX = 200
RETRY_CONSUMER = "retry"
RETRY_SUBJECTS = "fg.rt.>"
"""Where what is due is delivered from."""


class _Floor(msgspec.Struct):
    stream_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    ack_floor: _Floor


class _Waiting(msgspec.Struct):
    num_pending: int = 0
    num_ack_pending: int = 0


class _State(msgspec.Struct):
    last_seq: int


class _StreamInfo(msgspec.Struct):
    state: _State


class QueueSweeper:
    """Sweeps one queue stream behind the stage that reads some or all of its partitions."""

    def __init__(self, jetstream: JetStream, stage: str, stream: str, partitions: Sequence[int]) -> None:
        self._jetstream = jetstream
        self._stage = stage
        self._stream = stream
        self._settled: dict[int, set[int]] = {partition: set() for partition in partitions}
        """Sequences this worker settled and has not seen swept, by partition."""
        self._oldest = dict.fromkeys(partitions, (0, 0))
        """Of each partition, the oldest settled sequence still there, and for how many sweeps it has been."""
        self._swept_to = -1
        """-1: an earlier worker may have settled messages that it did not live to sweep."""

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """These deliveries were acknowledged."""
        for delivery in deliveries:
            self._settled[int(delivery.subject.split(".", 3)[2])].add(delivery.seq)

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping` is set. What cannot be swept now is swept later."""
        while not stopping.is_set():
            if self._jetstream.connected and (self._swept_to < 0 or any(self._settled.values())):
                try:
                    await self._sweep()
                except (NoAnswer, ApiError) as failure:
                    log.warning("sweeping %s waits: %s", self._stream, failure)
            await asyncio.sleep(SWEEP_S)

    async def _sweep(self) -> None:
        floors, unsettled = await self._floors()
        if await terminated_unburied(self._jetstream):  # asked last: the floors may have passed one just now
            return
        if unsettled > 1 and unsettled - 1 != self._swept_to:  # lower only where the stream was made anew
            await purge(self._jetstream, self._stream, {"seq": unsettled})
        self._swept_to = unsettled - 1
        for partition, settled in self._settled.items():
            settled -= {seq for seq in settled if seq <= self._swept_to}
            oldest, sweeps = min(settled, default=0), 0
            if settled and oldest == self._oldest[partition][0]:
                sweeps = self._oldest[partition][1] + 1
            self._oldest[partition] = (oldest, sweeps)
            if sweeps >= HELD_BACK_SWEEPS:
                await self._sweep_around(partition, floors[partition])

    async def _floors(self) -> tuple[dict[int, int], int]:
        """Each partition's ack floor, and the sequence of the first message that any of them has not settled."""
        # Asked first: whatever a partition has up to this sequence is found by the questions that follow.
        info = await self._jetstream.api(f"STREAM.INFO.{self._stream}", None, _StreamInfo)
        first = info.state.last_seq + 1
        floors: dict[int, int] = {}
        for partition in self._settled:
            name = consumer_name(self._stage, partition)
            floors[partition] = await ack_floor(self._jetstream, self._stream, name)
            if floors[partition] + 1 < first:
                found = await self._jetstream.next_stored(self._stream, floors[partition] + 1, self._subject(partition))
                first = first if found is None else min(first, found.seq)
        return floors, first

    async def _sweep_around(self, partition: int, floor: int) -> None:
        settled = self._settled[partition]
        behind = {seq for seq in settled if seq <= floor}
        if behind:
            await purge(self._jetstream, self._stream, {"filter": self._subject(partition), "seq": floor + 1})
            settled -= behind
        for seq in sorted(settled)[:SINGLE_DELETIONS_MAX]:
            await self._jetstream.delete_stored(self._stream, seq)
            settled.discard(seq)

    def _subject(self, partition: int) -> str:
        return f"{STAGE_SUBJECT[self._stage]}.{partition}.*"


class RetrySweeper:
    """Sweeps FG_RETRY behind the retry lane. What waits for its time is under other subjects, and stays."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._settled_to = 0
        self._seen = -1
        """The floor of the sweep before: what was terminated up to it has been told of since."""
        self._swept_to = -1
        """-1: an earlier worker may have settled messages that it did not live to sweep."""

    def settled(self, seq: int) -> None:
        """This message of the lane was acknowledged."""
        self._settled_to = max(self._settled_to, seq)

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping` is set. What cannot be swept now is swept later."""
        while not stopping.is_set():
            if self._jetstream.connected and self._swept_to < self._settled_to:
                try:
                    await self._sweep()
                except (NoAnswer, ApiError) as failure:
                    log.warning("sweeping %s waits: %s", STREAM_RETRY, failure)
            await asyncio.sleep(SWEEP_S)

    async def _sweep(self) -> None:
        floor = await ack_floor(self._jetstream, STREAM_RETRY, RETRY_CONSUMER)
        if not await terminated_unburied(self._jetstream):
            if self._seen > self._swept_to:
                await purge(self._jetstream, STREAM_RETRY, {"filter": RETRY_SUBJECTS, "seq": self._seen + 1})
            self._swept_to = self._seen
        self._seen = floor


async def terminated_unburied(jetstream: JetStream) -> bool:
    """Whether a message was terminated and still waits in its queue to be buried: its floor has passed it."""
    waiting = await jetstream.api(f"CONSUMER.INFO.{STREAM_ADVISORIES}.{ADVISORY_CONSUMER}", None, _Waiting)
    return waiting.num_pending + waiting.num_ack_pending > 0


async def ack_floor(jetstream: JetStream, stream: str, consumer: str) -> int:
    """Everything the consumer is given up to this sequence is settled."""
    try:
        info = await jetstream.api(f"CONSUMER.INFO.{stream}.{consumer}", None, _ConsumerInfo)
    except ApiError as failure:
        if failure.error.err_code == UNKNOWN_CONSUMER:
            return 0  # nothing is known to be settled; the drift report names what is missing
        raise
    return info.ack_floor.stream_seq


async def purge(jetstream: JetStream, stream: str, request: Mapping[str, object]) -> None:
    await jetstream.api(f"STREAM.PURGE.{stream}", request, dict)
