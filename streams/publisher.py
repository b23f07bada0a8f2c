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
            GroupCommitter(jetstream, settings, ingest_stream(shard), meter) for shard in range(settings.shards)
        ]

    def submit(self, subject: str, message_id: str, data: bytes, traceparent: str) -> "asyncio.Future[PublishOutcome]":
        """See `edge.ports.Publisher`. `subject` is `fg.in.<partition>.<tenant>`."""
        if self._jetstream.connected and not self._watch.proven():
            return refused(Code.DURABILITY_UNPROVEN)
        partition = int(subject.split(".", 3)[2])
        return self._committers[partition % len(self._committers)].submit(subject, message_id, data, traceparent)

    async def stored_message(self, stream: str, seq: int) -> bytes | None:
        """The data of a stored message, None when it is gone. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        message = await self._jetstream.stored(stream, seq)
        return None if message is None else message.data

    def answer_ms(self) -> float:
        """How long the slowest stream took for its last answer, without the wait in this process."""
        return max(committer.answer_ms for committer in self._committers)

    def durability_proven(self) -> bool:
        """Whether a publish may be tried: without a connection it refuses by itself, and says why better."""
        return self._watch.proven() or not self._jetstream.connected

    def remembers_since_ms(self) -> UnixMs:
        """Ids published after this moment are still known to the broker."""
        return self._watch.remembers_since_ms()

    def forgotten_before_ms(self) -> UnixMs:
        """An id from before this moment may be unsettled and forgotten by the broker; 0 while none can be."""
        return self._watch.forgotten_before_ms()

    async def close(self) -> None:
        """Return when the outcome of everything submitted is known."""
        await asyncio.gather(*(committer.close() for committer in self._committers))


def refused(code: Code) -> "asyncio.Future[PublishOutcome]":
    outcome: asyncio.Future[PublishOutcome] = asyncio.get_running_loop().create_future()
    outcome.set_result(Refused(code))
    return outcome
