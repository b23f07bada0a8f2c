"""A worker that kills itself, -9, at a named point: `python -m chaos.worker POINT [CALLS]`.

Only the wiring differs from the real worker: one collaborator is wrapped, so every line up to the
point is the product's own. CALLS (default 1) is the call of the wrapped verb that is the last.
"""

import asyncio
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

from ops.settings import Service, environment, load
from ops.worker_service import Worker, build, run
from schemas.rows import OutboxRow
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from streams.topology import STAGES

T = TypeVar("T")
Verb = Callable[..., Awaitable[T]]


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class Countdown:
    """True on the last of so many calls."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def due(self) -> bool:
        self._left -= 1
        return self._left <= 0


def before(verb: Verb[T], countdown: Countdown) -> Verb[T]:
    @functools.wraps(verb)
    async def wrapped(*arguments: Any, **named: Any) -> T:
        if countdown.due():
            die()
        return await verb(*arguments, **named)

    return wrapped


def after(verb: Verb[T], countdown: Countdown) -> Verb[T]:
    @functools.wraps(verb)
    async def wrapped(*arguments: Any, **named: Any) -> T:
        result = await verb(*arguments, **named)
        if countdown.due():
            die()
        return result

    return wrapped


class DyingPool:
    """A pool whose transactions end with the process, all statements done, not committed."""

    def __init__(self, pool: Pool, countdown: Countdown) -> None:
        self._pool = pool
        self._countdown = countdown

    @asynccontextmanager
    async def writing(self, tenant_ids: Sequence[str], table: str, operation: str) -> AsyncIterator[Any]:
        async with self._pool.writing(tenant_ids, table, operation) as connection:
            yield connection
            if self._countdown.due():
                die()


def arm(worker: Worker, pool: Pool, point: str, calls: int) -> None:
    """Wrap the collaborator the point lies in. Raises KeyError for an unknown point."""
    countdown = Countdown(calls)
    relay = worker.outbox.relay

    async def relay_and_die(
        partitions: Sequence[int], publish: Callable[[Sequence[OutboxRow]], Awaitable[None]], rows_max: int
    ) -> int:
        return await relay(partitions, after(publish, countdown), rows_max)

    worm = worker.evidence._worm  # noqa: SLF001  (the store that segments and rounds share)
    put = worm.put

    def dying_put(folder: str, dying: Verb[None]) -> None:
        async def chosen(key: str, data: bytes, **named: Any) -> None:
            await (dying if key.startswith(folder) else put)(key, data, **named)

        worm.put = chosen  # type: ignore[method-assign]  # a fault is put in its place

    points: dict[str, Callable[[], None]] = {
        "fetched": lambda: setattr(worker.keys, "claim", before(worker.keys.claim, countdown)),
        "claimed": lambda: setattr(worker.keys, "claim", after(worker.keys.claim, countdown)),
        "undecided": lambda: setattr(worker.ledger, "record", before(worker.ledger.record, countdown)),
        "in-transaction": lambda: setattr(worker, "ledger", DecisionLedger(DyingPool(pool, countdown))),  # type: ignore[arg-type]  # the one verb it uses
        "committed": lambda: setattr(worker.ledger, "record", after(worker.ledger.record, countdown)),
        "relayed": lambda: setattr(worker.outbox, "relay", relay_and_die),
        "unsealed": lambda: setattr(worker.evidence, "keep", before(worker.evidence.keep, countdown)),
        "put": lambda: dying_put("segments/", after(put, countdown)),
        "sealed": lambda: setattr(worker.evidence, "keep", after(worker.evidence.keep, countdown)),
        "round-committed": lambda: dying_put("checkpoints/", before(put, countdown)),
        "round-put": lambda: dying_put("checkpoints/", after(put, countdown)),
    }
    points[point]()


POINTS = (
    *("fetched", "claimed", "undecided", "in-transaction", "committed", "relayed"),
    *("unsealed", "put", "sealed", "round-committed", "round-put"),
)


async def main(point: str, calls: int) -> None:
    settings = load(environment(), Service.WORKER)
    worker, meter, _jetstream, pool = await build(settings)
    arm(worker, pool, point, calls)
    await run(worker, STAGES, settings, meter)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
