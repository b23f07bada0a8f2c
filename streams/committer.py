"""Group commit: concurrent publications coalesced into JetStream atomic batches (DESIGN decision 2).

One fsync pays for a whole batch. A batch the stream refuses is stored not at all and burns no id,
so it is split in halves until the guilty message stands alone; everyone else is stored. Every
message keeps its Nats-Msg-Id throughout, so no retry here can store it twice.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from schemas.answers import Duplicate, NoAnswer, PublishOutcome, Refused, Stored
from schemas.codes import Code
from schemas.meter import Meter
from schemas.metrics import PUBLISH_BATCH_EVENTS
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings
from streams.wire import PubAck, decode_ack, frame

log = logging.getLogger("streams")

DUPLICATE_IN_BATCH = 10201
SUBJECT_FULL = 10077
IN_PROCESS = frozenset({10158, 10164})
OF_ONE_MESSAGE = frozenset({DUPLICATE_IN_BATCH, SUBJECT_FULL}) | IN_PROCESS
"""Errors that one message of a batch brings upon the others; any other error is the stream's own."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
PENDING_MESSAGES_MAX = 20_000
PLAIN_MESSAGES_MAX = 8
"""So few are published one by one: an atomic batch costs the server as much as a dozen single messages, whatever its
size, because it makes and removes a file store of its own (docs/adr/0009)."""
START_MESSAGES = 16
"""So many need not wait for more while the stream is idle: it works on them while this process prepares the next."""
Barrier = Callable[[], Code | None]
"""Why nothing may be sent now, None when something may."""


def unbarred() -> None:
    """The barrier of publishers that acknowledge nothing to an agent."""


@dataclass(slots=True)
class _Message:
    subject: str
    data: bytes
    headers: str
    outcome: "asyncio.Future[PublishOutcome]"


class GroupCommitter:
    """Publishes to one stream. Not thread-safe: one event loop.

    `barrier` is asked immediately before every send: what held when a message was queued may hold no longer.
    """

    def __init__(
        self, jetstream: JetStream, settings: StreamSettings, stream: str, meter: Meter, barrier: Barrier
    ) -> None:
        self._barrier = barrier
        self._jetstream = jetstream
        self._settings = settings
        self._stream = stream
        self._meter = meter
        self._pending: deque[_Message] = deque()
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._name = secrets.token_hex(8)  # no other publisher's, in whichever process: ids of one stream must not meet
        self._batch_ids = itertools.count()
        self.answer_ms = 0.0
        """How long the stream took for its last answer, or was given before it counted as none."""
        self._full_subjects: set[str] = set()
        """Subjects at their cap publish alone until one message goes through, so that they refuse nobody's batch."""

    def submit(self, subject: str, message_id: str, data: bytes, traceparent: str) -> "asyncio.Future[PublishOutcome]":
        """Queue one message; the future resolves with what became of it, and raises for a defect of ours alone.

        `Refused(OUTCOME_UNKNOWN)` alone leaves open whether the message is stored; the same
        `message_id` may be submitted again within the stream's duplicate window.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[PublishOutcome] = loop.create_future()
        if len(self._pending) >= PENDING_MESSAGES_MAX:
            outcome.set_result(Refused(Code.STREAM_UNAVAILABLE))
            return outcome
        headers = f"Nats-Msg-Id: {message_id}\r\n"
        if traceparent:
            headers += f"traceparent: {traceparent}\r\n"
        self._pending.append(_Message(subject, data, headers, outcome))
        if len(self._pending) >= self._settings.batch_messages_max or (
            not self._in_flight and len(self._pending) >= START_MESSAGES
        ):
            self._pump()
        elif self._timer is None:
            self._timer = loop.call_later(self._settings.linger_ms / 1000, self._linger_over)
        return outcome

    async def ping(self) -> bool:
        """Whether the stream itself answers, not only the server this connection goes to: it has a leader."""
        try:
            await self._jetstream.api(f"STREAM.INFO.{self._stream}", None, dict, self._settings.publish_timeout_ms)
        except (ApiError, NoAnswer):
            return False
        return True

    async def close(self) -> None:
        """Send what is queued and return when every outcome is known."""
        while self._pending or self._tasks:
            self._pump()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _linger_over(self) -> None:
        self._timer = None
        self._pump()

    def _pump(self) -> None:
        while self._pending and self._in_flight < self._settings.batches_in_flight_max:
            task = asyncio.get_running_loop().create_task(self._commit_and_pump(self._take()))
            self._in_flight += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Message]:
        batch: list[_Message] = []
        size = 0
        while self._pending and len(batch) < self._settings.batch_messages_max:
            message = self._pending[0]
            alone = message.subject in self._full_subjects
            if batch and (alone or size + len(message.data) > BATCH_BYTES_MAX):
                break
            batch.append(self._pending.popleft())
            size += len(message.data)
            if alone:
                break
        return batch

    async def _commit_and_pump(self, batch: list[_Message]) -> None:
        try:
            await self._commit(batch)
        except Exception as bug:
            for message in batch:  # nobody may wait for ever on a defect of ours
                if not message.outcome.done():
                    message.outcome.set_exception(bug)
            raise
        finally:
            self._in_flight -= 1
            self._pump()

    async def _commit(self, batch: list[_Message]) -> None:
        if 1 < len(batch) <= PLAIN_MESSAGES_MAX:
            await asyncio.gather(*(self._commit([message]) for message in batch))
            return
        self._meter.add(PUBLISH_BATCH_EVENTS, len(batch), self._stream)
        try:
            ack = await self._publish(batch)
        except NoAnswer as failure:
            _resolve(batch, Refused(failure.code))
            return
        if ack.error is None:
            self._settle_stored(batch, ack)
        elif len(batch) == 1 or ack.error.err_code not in OF_ONE_MESSAGE:
            self._settle_refused(batch, ack.error.err_code)
        else:
            middle = len(batch) // 2
            await self._commit(batch[:middle])
            await self._commit(batch[middle:])

    async def _publish(self, batch: list[_Message]) -> PubAck:
        """Send one message plainly, several as an atomic batch; the stream answers the last one for all.

        Raises NoAnswer: with the barrier's code nothing was sent.
        """
        barred = self._barrier()
        if barred is not None:
            raise NoAnswer(barred)
        token = self._jetstream.reply_token()
        frames = [frame(batch[-1].subject, token, batch[-1].headers, batch[-1].data)]
        if len(batch) > 1:
            batch_id = f"Nats-Batch-Id: {self._name}-{next(self._batch_ids)}\r\nNats-Batch-Sequence: "
            frames = [
                frame(message.subject, "", f"{message.headers}{batch_id}{position}\r\n", message.data)
                for position, message in enumerate(batch[:-1], start=1)
            ]
            commit = f"{batch[-1].headers}{batch_id}{len(batch)}\r\nNats-Batch-Commit: 1\r\n"
            frames.append(frame(batch[-1].subject, token, commit, batch[-1].data))
        asked_s = time.perf_counter()
        try:
            reply = await self._jetstream.ask_with(b"".join(frames), token, self._settings.publish_timeout_ms)
        finally:
            self.answer_ms = (time.perf_counter() - asked_s) * 1000
        return decode_ack(reply)

    def _settle_stored(self, batch: list[_Message], ack: PubAck) -> None:
        if len(batch) > 1 and ack.count != len(batch):
            # Fewer stored than sent would shift every sequence: nothing may be claimed about any of them.
            _resolve(batch, Refused(Code.OUTCOME_UNKNOWN))
            return
        first = ack.seq - len(batch) + 1
        for position, message in enumerate(batch):
            self._full_subjects.discard(message.subject)
            seq = first + position
            stored: PublishOutcome = Duplicate(ack.stream, seq) if ack.duplicate else Stored(ack.stream, seq)
            if not message.outcome.done():
                message.outcome.set_result(stored)

    def _settle_refused(self, batch: list[_Message], err_code: int) -> None:
        if err_code == SUBJECT_FULL:
            self._full_subjects.add(batch[0].subject)
            code = Code.INGEST_BACKPRESSURE_HARDSTOP
        elif err_code in IN_PROCESS:
            code = Code.EVENT_IN_FLIGHT
        else:
            log.warning("stream %s refused a publish: %d", self._stream, err_code)
            code = Code.STREAM_UNAVAILABLE
        _resolve(batch, Refused(code))


def _resolve(batch: list[_Message], outcome: PublishOutcome) -> None:
    for message in batch:
        if not message.outcome.done():
            message.outcome.set_result(outcome)
