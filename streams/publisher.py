"""The edge's way to the ingest streams: a group committer for each, and what a duplicate needs to be answered."""

import asyncio

from schemas.answers import PublishOutcome, Refused
from schemas.codes import Code
from schemas.meter import Meter
from schemas.subjects import ingest_stream
from schemas.units import UnixMs
from streams.committer import GroupCommitter
from streams.durability import DurabilityWatch
from streams.jetstream import JetStream
from streams.settings import StreamSettings


class IngestPublisher:
    """Durable publication to the ingest streams, sharded by partition."""

    def __init__(self, jetstream: JetStream, watch: DurabilityWatch, settings: StreamSettings, meter: Meter) -> None:
        self._jetstream = jetstream
        self._watch = watch
        self._committers = [
            GroupCommitter(jetstream, settings, ingest_stream(shard), meter, self._barrier)
            for shard in range(settings.shards)
        ]

    def submit(self, subject: str, message_id: str, data: bytes, traceparent: str) -> "asyncio.Future[PublishOutcome]":
        """See `edge.ports.Publisher`. `subject` is `fg.in.<partition>.<tenant>`."""
        barred = self._barrier()
        if barred is not None:
            return refused(barred)
        return self._committers[self._shard(subject)].submit(subject, message_id, data, traceparent)

    async def stored_message(self, stream: str, seq: int) -> bytes | None:
        """The data of a stored message, None when it is gone. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        message = await self._jetstream.stored(stream, seq)
        return None if message is None else message.data

    async def oldest_stored_ms(self, subject: str) -> UnixMs | None:
        """See `edge.ports.Publisher`. The stream's leader answers."""
        message = await self._jetstream.next_stored(ingest_stream(self._shard(subject)), 1, subject)
        return None if message is None else message.stored_ms

    def answer_ms(self) -> float:
        """How long the slowest stream took for its last answer, without the wait in this process."""
        return max(committer.answer_ms for committer in self._committers)

    def durability_proven(self) -> bool:
        """Whether a publish may be tried: without a connection it refuses by itself, and says why better."""
        return self._barrier() is not Code.DURABILITY_UNPROVEN

    def remembers_since_ms(self) -> UnixMs:
        """Ids published after this moment are still known to the broker."""
        return self._watch.remembers_since_ms()

    def forgotten_before_ms(self) -> UnixMs:
        """An id from before this moment may be unsettled and forgotten by the broker; 0 while none can be."""
        return self._watch.forgotten_before_ms()

    async def close(self) -> None:
        """Return when the outcome of everything submitted is known."""
        await asyncio.gather(*(committer.close() for committer in self._committers))

    def _barrier(self) -> Code | None:
        """Why nothing may be sent now. A proof holds for the connection over which it was made, and no other."""
        if not self._jetstream.connected:
            return Code.STREAM_UNAVAILABLE
        return None if self._watch.proven() else Code.DURABILITY_UNPROVEN

    def _shard(self, subject: str) -> int:
        return int(subject.split(".", 3)[2]) % len(self._committers)


def refused(code: Code) -> "asyncio.Future[PublishOutcome]":
    outcome: asyncio.Future[PublishOutcome] = asyncio.get_running_loop().create_future()
    outcome.set_result(Refused(code))
    return outcome
