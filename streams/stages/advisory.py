"""FG_ADV -> FG_DLQ: what the broker gave up on for us, or an operator terminated, is buried like any other dead event.

Only for a consumer of ours: whoever makes one beside them, to look, settles nothing with it. Such a
message counts against its tenant's cap, so it is deleted from its queue once its letter is stored;
until then nothing is swept, because the consumer's ack floor may have passed it. What is terminated
in a history, before its evidence or its dead letter's row exists, stays owed: it is stored there once
more. What is terminated in the retry lane is gone with its termination, and cannot be read.
"""

import logging
from collections.abc import Sequence

import msgspec

from schemas.answers import NoAnswer
from schemas.codes import Code, DeadReason
from schemas.fate import DONE, Fate
from schemas.subjects import STREAM_DLQ, STREAM_EVENTS
from streams.delivery import Delivery
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.ports import Death
from streams.settings import StreamSettings
from streams.topology import consumers
from streams.wire import StoredMessage, decode_ack

log = logging.getLogger("streams")

HISTORIES = (STREAM_EVENTS, STREAM_DLQ)


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
        self._publish_timeout_ms = settings.publish_timeout_ms
        self._ours = {(consumer.stream, consumer.name) for consumer in consumers(settings)}

    async def ready(self) -> bool:
        return self._jetstream.connected

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        for delivery in deliveries:
            advisory = read_advisory(delivery)
            if advisory is None:
                continue
            if (advisory.stream, advisory.consumer) in self._ours:
                await self._heed(advisory)
            else:
                log.info("an advisory of %s/%s, which is not ours, changes nothing", advisory.stream, advisory.consumer)
        return [DONE] * len(deliveries)

    async def _heed(self, advisory: _Advisory) -> None:
        message = await self._jetstream.stored(advisory.stream, advisory.stream_seq)
        if message is None:
            log.warning("sequence %d of %s was terminated and is gone", advisory.stream_seq, advisory.stream)
        elif advisory.stream in HISTORIES:
            await self._store_again(advisory, message)
        else:
            await self._bury(advisory, message)

    async def _store_again(self, advisory: _Advisory, message: StoredMessage) -> None:
        """On return the message comes again under a new sequence. What of it exists already is not made twice."""
        headers = {"Nats-Msg-Id": f"again/{advisory.stream}/{message.seq}"}
        reply = await self._jetstream.ask(message.subject, message.data, headers, self._publish_timeout_ms)
        if decode_ack(reply).error is not None:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        log.warning("sequence %d of %s was terminated: stored there again", message.seq, advisory.stream)

    async def _bury(self, advisory: _Advisory, message: StoredMessage) -> None:
        stage = advisory.consumer.rpartition("-")[0]
        dead = Delivery(message.subject, message.data, "", advisory.stream, message.seq)
        await self._graveyard.bury(stage, [Death(dead, DeadReason.RETRY_BUDGET_EXHAUSTED)])
        await self._jetstream.delete_stored(advisory.stream, message.seq)


def read_advisory(delivery: Delivery) -> _Advisory | None:
    """What the advisory names, None, reported, when it cannot be read: it then names nothing that could be buried."""
    try:
        return _advisory.decode(delivery.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        log.warning("an advisory cannot be read: sequence %d of %s", delivery.seq, delivery.stream)
        return None
