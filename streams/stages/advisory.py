"""FG_ADV -> FG_DLQ: what the broker gave up on for us, or an operator terminated, is buried like any other dead event.

Only for a consumer of ours: whoever makes one beside them, to look, settles nothing with it. Such a
message counts against its tenant's cap, so it is deleted from its queue once its letter is stored;
until then nothing is swept, because the consumer's ack floor may have passed it. What is terminated
in a history, before its evidence or its dead letter's row exists, stays owed: it is stored there once
more. What is terminated in the retry lane ends as it would have in the stage that it waited for. When
an advisory is terminated itself, what it told of is heeded all the same.
"""

import logging
from collections.abc import Sequence

import msgspec

from schemas.answers import NoAnswer
from schemas.codes import Code, DeadReason
from schemas.fate import DONE, Fate
from schemas.subjects import STREAM_ADVISORIES, STREAM_DLQ, STREAM_EVENTS, STREAM_RETRY
from streams.budgets import ADVISORY_CONSUMER
from streams.delivery import Delivery
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.ports import Death
from streams.retry import RetryDesk, read_task, unwrapped
from streams.settings import StreamSettings
from streams.topology import consumers
from streams.wire import decode_ack

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
        self._own_queue = (STREAM_ADVISORIES, ADVISORY_CONSUMER)
        self._ours = {(consumer.stream, consumer.name) for consumer in consumers(settings)} - {self._own_queue}

    async def ready(self) -> bool:
        return self._jetstream.connected

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        for delivery in deliveries:
            advisory = await self._meant(delivery)
            if advisory is None:
                log.warning("an advisory names nothing: sequence %d of %s", delivery.seq, delivery.stream)
            elif (advisory.stream, advisory.consumer) in self._ours:
                await self._heed(advisory)
            else:
                log.info("an advisory of %s/%s, which is not ours, changes nothing", advisory.stream, advisory.consumer)
        return [DONE] * len(deliveries)

    async def _meant(self, delivery: Delivery) -> _Advisory | None:
        """What the delivery tells of; where that is an advisory terminated in its turn, what that one told of.

        None where it cannot be read.
        """
        advisory, seq = read_advisory(delivery.data), delivery.seq
        while advisory is not None and (advisory.stream, advisory.consumer) == self._own_queue:
            message = await self._jetstream.stored(STREAM_ADVISORIES, advisory.stream_seq)
            if message is None or message.seq >= seq:  # the broker tells of earlier ones alone, which ends this
                return None
            advisory, seq = read_advisory(message.data), message.seq
        return advisory

    async def _heed(self, advisory: _Advisory) -> None:
        message = await self._jetstream.stored(advisory.stream, advisory.stream_seq)
        if message is None:
            log.warning("sequence %d of %s was terminated and is gone", advisory.stream_seq, advisory.stream)
        elif advisory.stream in HISTORIES:
            await self._store_again(advisory.stream, message.seq, message.subject, message.data)
        elif advisory.stream == STREAM_RETRY:
            await self._end_retry(Delivery(message.subject, message.data, "", STREAM_RETRY, message.seq))
        else:
            dead = Delivery(message.subject, message.data, "", advisory.stream, message.seq)
            await self._bury(advisory.consumer.rpartition("-")[0], Death(dead, DeadReason.RETRY_BUDGET_EXHAUSTED))
            await self._jetstream.delete_stored(advisory.stream, message.seq)

    async def _end_retry(self, delivery: Delivery) -> None:
        """On return the event that waited for its next attempt has ended as it would have in the stage it failed in."""
        task = read_task(delivery)
        if task is None:
            await self._bury(RetryDesk.name, Death(delivery, DeadReason.POISON))
        elif task.stream in HISTORIES:
            failed = unwrapped(task, "")
            await self._store_again(STREAM_RETRY, delivery.seq, failed.subject, failed.data)
        else:
            await self._bury(task.stage, Death(unwrapped(task, ""), DeadReason.RETRY_BUDGET_EXHAUSTED, task.attempt))
        await self._jetstream.delete_stored(STREAM_RETRY, delivery.seq)

    async def _store_again(self, stream: str, seq: int, subject: str, data: bytes) -> None:
        """On return what was terminated as `seq` of `stream` comes again in its history, under a new sequence.

        What of it exists already is not made twice.
        """
        headers = {"Nats-Msg-Id": f"again/{stream}/{seq}"}
        reply = await self._jetstream.ask(subject, data, headers, self._publish_timeout_ms)
        if decode_ack(reply).error is not None:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        log.warning("sequence %d of %s was terminated: stored once more where it is owed", seq, stream)

    async def _bury(self, stage: str, death: Death) -> None:
        await self._graveyard.bury(stage, [death])
        log.warning("sequence %d of %s was terminated: buried", death.delivery.seq, death.delivery.stream)


def read_advisory(data: bytes) -> _Advisory | None:
    """What the advisory names, None when it cannot be read: it then names nothing that could be buried."""
    try:
        return _advisory.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
