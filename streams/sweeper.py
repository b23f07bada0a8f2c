"""Removes settled messages from the queue streams, in bulk, behind what the consumers have settled.

A work-queue stream would delete each message as it is acknowledged, and with `sync_interval: always`
the server fsyncs every such deletion: 1,000 acknowledgements a second at 250 to 420 us of its CPU,
against 11,000 to 17,000 a second at 20 to 40 us for one purge behind the consumer's ack floor
(docs/adr/0007). So the queues keep messages until swept; an acknowledgement still comes after the
commit it stands for, and a message still there that was settled is at worst delivered again.

Only two things are ever removed: what lies at or below the consumer's own ack floor, which no
unsettled message can, and single messages this worker settled itself above a floor that is held
back by another tenant's parked message, so that one full tenant does not fill its neighbours' caps.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from schemas.answers import NoAnswer
from schemas.subjects import PARTITIONS, consumer_name
from streams.delivery import Delivery
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings
from streams.topology import STAGE_SUBJECT, stage_stream

log = logging.getLogger("streams")

SWEEP_S = 0.5
"""Each partition is swept this often: a tenant's depth counts settled messages for no longer."""
HELD_BACK_SWEEPS = 4
SINGLE_DELETIONS_MAX = 200


class _Floor(msgspec.Struct):
    stream_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    ack_floor: _Floor


class QueueSweeper:
    """Sweeps the queue of one stage."""

    def __init__(self, jetstream: JetStream, stage: str, settings: StreamSettings) -> None:
        self._jetstream = jetstream
        self._stage = stage
        self._settings = settings
        self._settled: defaultdict[int, set[int]] = defaultdict(set)
        """Sequences this worker settled and has not seen swept, by partition."""
        self._held_back: defaultdict[int, int] = defaultdict(int)
        self._unvisited = set(range(PARTITIONS))
        """Partitions where an earlier worker may have settled messages that it did not live to sweep."""

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """These deliveries were acknowledged."""
        for delivery in deliveries:
            self._settled[int(delivery.subject.split(".", 3)[2])].add(delivery.seq)

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep one partition after the other until `stopping` is set. What cannot be swept now is swept later."""
        partition = 0
        while not stopping.is_set():
            partition = (partition + 1) % PARTITIONS
            if (self._settled[partition] or partition in self._unvisited) and self._jetstream.connected:
                try:
                    await self._sweep(partition)
                except (NoAnswer, ApiError) as failure:
                    log.warning("sweeping %s waits: %s", consumer_name(self._stage, partition), failure)
            await asyncio.sleep(SWEEP_S / PARTITIONS)

    async def _sweep(self, partition: int) -> None:
        stream = stage_stream(self._stage, partition, self._settings)
        name = consumer_name(self._stage, partition)
        info = await self._jetstream.api(f"CONSUMER.INFO.{stream}.{name}", None, _ConsumerInfo)
        floor = info.ack_floor.stream_seq
        settled = self._settled[partition]
        behind = {seq for seq in settled if seq <= floor}
        if behind or (floor and partition in self._unvisited):
            subject = f"{STAGE_SUBJECT[self._stage]}.{partition}.*"
            await self._jetstream.api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": floor + 1}, dict)
            settled -= behind
        self._unvisited.discard(partition)
        self._held_back[partition] = 0 if behind or not settled else self._held_back[partition] + 1
        if self._held_back[partition] >= HELD_BACK_SWEEPS:
            for seq in sorted(settled)[:SINGLE_DELETIONS_MAX]:
                await self._jetstream.delete_stored(stream, seq)
                settled.discard(seq)
