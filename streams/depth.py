"""How many unsettled messages each tenant of a partition has, in every lane.

The queue streams keep settled messages until they are swept (docs/adr/0007), so a subject's count
is too high by what was settled within the last half second: at thousands of events a second that
alone would shed a tenant whose queue is empty. The consumer of the partition knows how many of its
messages are unsettled, whoever's they are, and no tenant can have more than all have together. So
a tenant's depth is the smaller of the two: never less than the truth, exact where one tenant makes
the depth, and nothing at all is listed where the partition is settled. The broker's own cap counts
the unswept ones too, and remains the last line.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.depth import LaneDepth
from schemas.subjects import STREAM_RETRY, consumer_name
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings
from streams.topology import STAGE_SUBJECT, UNKNOWN_STREAM, stage_stream

ANSWER_MS_MAX = 1_000
TENANT_TOKEN = 3
"""Where the tenant stands in every subject of a lane: `fg.<lane>.<partition>.<tenant>`."""


class _ConsumerInfo(msgspec.Struct):
    num_pending: int = 0
    num_ack_pending: int = 0


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _StreamInfo(msgspec.Struct):
    """One page: at most 100,000 subjects; `total` are there from `offset` 0 on."""

    state: _State
    total: int = 0


class LaneDepths:
    """Reads depths from the broker."""

    def __init__(self, jetstream: JetStream, settings: StreamSettings) -> None:
        self._jetstream = jetstream
        self._settings = settings

    async def read(self, partition: int) -> Mapping[str, LaneDepth]:
        """The depths of the partition's tenants that have any. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        try:
            ingest, decide, retry = await asyncio.gather(
                self._queue("dedupe", partition), self._queue("decision", partition), self._retry(partition)
            )
        except (NoAnswer, ApiError) as failure:
            raise NoAnswer(Code.STREAM_UNAVAILABLE) from failure  # a read has no outcome to be unsure of
        return {
            tenant_id: LaneDepth(ingest.get(tenant_id, 0), decide.get(tenant_id, 0), retry.get(tenant_id, 0))
            for tenant_id in {*ingest, *decide, *retry}
        }

    async def _queue(self, stage: str, partition: int) -> Mapping[str, int]:
        """Unsettled messages of each tenant before the stage; at most so many, where several tenants have some."""
        stream = stage_stream(stage, partition, self._settings)
        consumer = await self._ask(f"CONSUMER.INFO.{stream}.{consumer_name(stage, partition)}", None, _ConsumerInfo)
        unsettled = consumer.num_pending + consumer.num_ack_pending
        if unsettled == 0:
            return {}
        kept = await self._kept(stream, f"{STAGE_SUBJECT[stage]}.{partition}.*")
        return {tenant_id: min(messages, unsettled) for tenant_id, messages in kept.items()}

    async def _retry(self, partition: int) -> Mapping[str, int]:
        """Messages waiting to be tried again, and for about a second those that were."""
        try:
            return await self._kept(STREAM_RETRY, f"fg.*.{partition}.>")
        except ApiError as failure:
            if failure.error.err_code == UNKNOWN_STREAM:
                return {}
            raise

    async def _kept(self, stream: str, subjects: str) -> Mapping[str, int]:
        """Messages the stream holds under those subjects, by tenant."""
        found: dict[str, int] = {}
        offset = 0
        while True:
            request = {"subjects_filter": subjects, "offset": offset}
            page = await self._ask(f"STREAM.INFO.{stream}", request, _StreamInfo)
            counts = page.state.subjects or {}
            for subject, messages in counts.items():
                tenant_id = subject.split(".", TENANT_TOKEN + 1)[TENANT_TOKEN]
                found[tenant_id] = found.get(tenant_id, 0) + messages
            offset += len(counts)
            if not counts or offset >= page.total:
                return found

    async def _ask(self, subject: str, request: object, answer: type[Any]) -> Any:
        return await self._jetstream.api(subject, request, answer, ANSWER_MS_MAX)
