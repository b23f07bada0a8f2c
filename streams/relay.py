"""Outbox relay: committed chain entries -> FG_EVENTS, in (tenant, sequence) order within a partition.

A row leaves the outbox only after the stream acknowledged its message; a crash in between publishes
it again under the same id, and consumers are idempotent by (tenant, sequence) beyond that.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from schemas.answers import NoAnswer, Refused
from schemas.evidence import EvidenceEvent
from schemas.rows import OutboxRow
from schemas.subjects import PARTITIONS, lane
from streams.committer import GroupCommitter
from streams.ports import Outbox

log = logging.getLogger("streams")

ROWS_MAX = 1_000
SWEEP_S = 2.0
GATHER_S = 0.2
"""Rows committed meanwhile, of any partition, share a batch: each one costs the broker a dozen file operations."""
PAUSE_S = 1.0


class Relay:
    """Moves outbox rows when told that some were committed, and sweeps for forgotten ones."""

    def __init__(self, outbox: Outbox, events: GroupCommitter) -> None:
        self._outbox = outbox
        self._events = events
        self._due: set[int] = set(range(PARTITIONS))
        self._wake = asyncio.Event()

    def committed(self, partitions: set[int]) -> None:
        """Rows of these partitions were committed."""
        self._due |= partitions
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until `stopping` is set. A store or stream that is away is waited for; the rows stay."""
        while not stopping.is_set():
            await asyncio.sleep(GATHER_S)
            due, self._due = self._due, set()
            self._wake.clear()
            try:
                while await self._outbox.relay(sorted(due), self._publish, ROWS_MAX) == ROWS_MAX:
                    pass
            except NoAnswer as failure:
                log.warning("the relay waits", extra={"error_code": failure.code.value})
                self._due |= due
                await asyncio.sleep(PAUSE_S)
                continue
            if self._due:
                continue
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._wake.wait()
            except TimeoutError:
                self._due.update(range(PARTITIONS))  # rows left by a crash have nobody to announce them

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        outcomes = await asyncio.gather(
            *(
                self._events.submit(
                    lane(row.tenant_id).events, f"{row.tenant_id}/{row.seq}", msgspec.json.encode(_event_of(row)), ""
                )
                for row in rows
            )
        )
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                raise NoAnswer(outcome.code)


def _event_of(row: OutboxRow) -> EvidenceEvent:
    return EvidenceEvent(
        tenant_id=row.tenant_id,
        seq=row.seq,
        kind=row.kind,
        event_id=row.event_id,
        chain_hash=row.chain_hash,
        entry=msgspec.Raw(row.entry.encode()),
        record=msgspec.Raw(row.record.encode()),
    )
