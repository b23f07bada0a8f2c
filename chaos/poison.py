"""A worker that dies, -9, of certain events: `python -m chaos.poison`.

Only the wiring differs from the real worker: the ledger is wrapped, so that a batch with an event
whose id begins with `deadly-` ends the process before anything of the batch is committed.
"""

import asyncio
from collections.abc import Sequence

from chaos.worker import die
from ops.settings import Service, environment, load
from ops.worker_service import build, run
from schemas.decision import DecisionRecord
from streams.ports import Ledger
from streams.topology import STAGES

DEADLY = "deadly-"


class DeadlyLedger:
    """A ledger that does not survive a deadly event."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(self, records: Sequence[DecisionRecord]) -> list[bool]:
        if any(record.event_id.startswith(DEADLY) for record in records):
            die()
        return await self._ledger.record(records)


async def main() -> None:
    settings = load(environment(), Service.WORKER)
    worker, meter, _jetstream, _pool = await build(settings)
    worker.ledger = DeadlyLedger(worker.ledger)  # type: ignore[assignment]  # the one verb it uses
    await run(worker, STAGES, settings, meter)


if __name__ == "__main__":
    asyncio.run(main())
