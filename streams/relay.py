"""Outbox relay: committed chain entries -> FG_EVENTS, in (tenant, sequence) order within a partition.

A row leaves the outbox only after the stream acknowledged its message; a crash in between publishes
it again under the same id, and consumers are idempotent by (tenant, sequence) beyond that.
"""

import asyncio
import logging
import math
from collections.abc import Sequence

import msgspec

from schemas.answers import NoAnswer, Refused
from schemas.evidence import EvidenceEvent
from schemas.rows import OutboxRow
from schemas.subjects import PARTITIONS, lane
from streams.committer import GroupCommitter
from streams.ports import Outbox
from streams.stopping import set_within

log = logging.getLogger("streams")

ROWS_MAX = 1_000
SWEEP_S = 2.0
GATHER_S = 0.2
"""Rows committed meanwhile, of any partition, share a batch: each one costs the broker a dozen file operations."""
PAUSE_S = 1.0
BACKLOG_ROWS = 256
"""So many committed at once say that as many more wait to be decided: with less, no batch becomes so full."""
BACKLOG_S = 1.0
GIVE_WAY_S_MAX = 10.0
"""What was accepted is decided first; what is decided waits in the outbox, safe, but no longer than this."""


class Relay:
    """Moves outbox rows when told that some were committed, and sweeps for forgotten ones."""

    def __init__(self, outbox: Outbox, events: GroupCommitter) -> None:
        self._outbox = outbox
        self._events = events
        self._due: set[int] = set(range(PARTITIONS))
        self._wake = asyncio.Event()
        self._backlog_s = -math.inf

    def committed(self, partitions: set[int], rows: int = 0) -> None:
        """Rows of these partitions were committed, `rows` of them decided together."""
        self._due |= partitions
        if rows >= BACKLOG_ROWS:
            self._backlog_s = asyncio.get_running_loop().time()
        self._wake.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until `stopping` is set. A store or stream that is away is waited for; the rows stay."""
        while not stopping.is_set():
            await asyncio.sleep(GATHER_S)
            await self._give_way(stopping)
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

    async def _give_way(self, stopping: asyncio.Event) -> None:
        """Return once no backlog is being decided any more, `stopping` is set, or enough was waited."""
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + GIVE_WAY_S_MAX
        while (left_s := min(until_s, self._backlog_s + BACKLOG_S) - now_s()) > 0 and not stopping.is_set():
            await set_within(stopping, left_s)

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        submitted = [
            self._events.submit(
                lane(row.tenant_id).events, f"{row.tenant_id}/{row.seq}", msgspec.json.encode(_event_of(row)), ""
            )
            for row in rows
        ]
        for future in submitted:  # one after the other: gathering them would cost a callback each
            outcome = await future
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
