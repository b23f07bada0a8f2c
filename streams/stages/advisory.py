"""FG_ADV -> FG_DLQ: what the broker gave up on, or an operator terminated, is buried like any other dead event.

Such a message counts against its tenant's cap, so it is deleted from its queue once its letter is
stored; until then nothing is swept, because the consumer's ack floor may have passed it. A history
keeps it. What is terminated in the retry lane is gone with its termination, and cannot be read.
"""

import logging
from collections.abc import Sequence

import msgspec

from schemas.codes import DeadReason
from schemas.fate import DONE, Fate
from schemas.subjects import STREAM_DECIDE, STREAM_EVENTS, ingest_stream
from streams.delivery import Delivery
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.ports import Death
from streams.settings import StreamSettings

log = logging.getLogger("streams")


class _Advisory(msgspec.Struct):
    stream: str
    consumer: str
    stream_seq: int


_advisory = msgspec.json.Decoder(_Advisory)


class AdvisoryStage:
    name = "advisory"

    def __init__(self, jetstream: JetStream, graveyard: Graveyard, settings: StreamSettings) -> None:
        self._jetstream = jetstream
        self._graveyard = graveyard
        self._queues = {STREAM_DECIDE, *(ingest_stream(shard) for shard in range(settings.shards))}

    async def ready(self) -> bool:
        return self._jetstream.connected

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        for delivery in deliveries:
            advisory = read_advisory(delivery)
            if advisory is not None and (advisory.stream in self._queues or advisory.stream == STREAM_EVENTS):
                await self._bury(advisory)
        return [DONE] * len(deliveries)

    async def _bury(self, advisory: _Advisory) -> None:
        message = await self._jetstream.stored(advisory.stream, advisory.stream_seq)
        if message is None:
            return  # settled since
        stage = advisory.consumer.rpartition("-")[0]
        dead = Delivery(message.subject, message.data, "", advisory.stream, message.seq)
        await self._graveyard.bury(stage, [Death(dead, DeadReason.RETRY_BUDGET_EXHAUSTED)])
        if advisory.stream in self._queues:
            await self._jetstream.delete_stored(advisory.stream, message.seq)


def read_advisory(delivery: Delivery) -> _Advisory | None:
    """What the advisory names, None, reported, when it cannot be read: it then names nothing that could be buried."""
    try:
        return _advisory.decode(delivery.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        log.warning("an advisory cannot be read: sequence %d of %s", delivery.seq, delivery.stream)
        return None
