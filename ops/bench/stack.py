"""A whole data plane of the bench's own: `frostgate up` on a directory that is gone afterwards."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from ops.bench.processes import BenchError, Cpu, cpu_tree_us, cpu_us
from ops.bench.requests import Sender
from ops.embedded.directory import DataDirectory
from ops.embedded.process import Child, Command, NotAnsweringError, StartError, spawn, until_ready
from ops.instance import Stack, read_stack
from ops.settings import environment
from schemas.limits import NO_QUOTA
from schemas.principal import Scope
from sinks.api_keys import ApiKeys
from sinks.limits import RuntimeLimits
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from sinks.tenants import PlanTier, Tenants

START_WAIT_S = 60
STOP_WAIT_S = 20
POLL_S = 0.05
STALLED_S = 30
LOG_LINES = 12
LIMITS = {"rps": 1_000_000, "burst": 1_000_000, "events_per_month_max": NO_QUOTA}
_RUN = "from frostgate import main; main()"

_CHAINED = "SELECT coalesce(sum(seq), 0)::bigint FROM chain_heads"
_WAITING = "SELECT count(*) FROM evidence_outbox"
_DECIDED = "SELECT count(*) FROM decisions"
_DEAD = "SELECT count(*) FROM ingest_dlq"
_CLAIMED = "SELECT count(*) FROM event_keys"
_SEALED = "SELECT count(*) FROM decision_evidence_artifacts"


def tenant_name(number: int) -> str:
    return f"bench-{number:03d}"


class Outcomes(NamedTuple):
    decided: int
    dead: int


class RunningStack:
    """The stack while it runs. `start_s` is the time from its start to ready."""

    def __init__(self, stack: Stack, start_s: float, pool: Pool) -> None:
        self.stack = stack
        self.start_s = start_s
        self._pool = pool

    async def senders(self, count: int) -> list[Sender]:
        """New tenants, each with a key that may do nothing but ingest, and with limits that count and never refuse."""
        tenants, keys, limits = Tenants(self._pool), ApiKeys(self._pool), RuntimeLimits(self._pool)
        made = []
        for number in range(count):
            tenant_id = tenant_name(number)
            await tenants.add(tenant_id, PlanTier.ENTERPRISE)
            await limits.set(tenant_id, **LIMITS, updated_by="frostgate bench")
            made.append(Sender(tenant_id, (await keys.issue(tenant_id, None, [Scope.INGEST])).secret))
        return made

    def cpu(self) -> Cpu:
        pids = self.stack.pids
        return Cpu(cpu_us(pids.worker), cpu_us(pids.nats), cpu_tree_us(pids.postgres))

    def pause_worker(self) -> None:
        """Raises BenchError when it does not run."""
        self._signal_worker(signal.SIGSTOP)

    def resume_worker(self) -> None:
        """Raises BenchError when it does not run."""
        self._signal_worker(signal.SIGCONT)

    async def chained(self) -> int:
        """Events that have reached their end: a decision and a dead letter each have an entry in a chain."""
        return await self._ask(_CHAINED)

    async def until_chained(self, events: int) -> None:
        """Return when the chains hold that many entries. Raises BenchError when they stop growing before."""
        await _until(self.chained, events)

    async def claimed(self) -> int:
        """Events that the dedupe stage has stored."""
        return await self._ask(_CLAIMED)

    async def sealed(self) -> int:
        """Records that lie in sealed segments."""
        return await self._ask(_SEALED)

    async def until(self, grown: Callable[[], Awaitable[int]], enough: int) -> int:
        """Return the number once it is large enough. Raises BenchError when it stops growing before."""
        return await _until(grown, enough)

    async def until_relayed(self) -> None:
        """Return when the outbox is empty. Raises BenchError when it does not get any shorter."""
        await _until(self._relayed, 0)

    async def _relayed(self) -> int:
        return -await self._ask(_WAITING)

    async def outcomes(self) -> Outcomes:
        return Outcomes(await self._ask(_DECIDED), await self._ask(_DEAD))

    def check_whole(self) -> None:
        """Raises BenchError when a process was restarted: the figures would be of two of them."""
        now = read_stack(Path(self.stack.data_dir))
        if now is None or now.pids != self.stack.pids:
            raise BenchError("a process of the stack was restarted during the run")

    def _signal_worker(self, number: signal.Signals) -> None:
        try:
            os.kill(self.stack.pids.worker, number)
        except ProcessLookupError as cause:
            raise BenchError("the worker ended during the run") from cause

    async def _ask(self, question: str) -> int:
        async with self._pool.connection() as connection:
            return int(await connection.fetchval(question))


async def _until(grown: Callable[[], Awaitable[int]], enough: int) -> int:
    """Return the number when the number is large enough. Raises BenchError when it stops growing before."""
    seen: int | None = None
    stalled_at = time.monotonic() + STALLED_S
    while (now := await grown()) < enough:
        if seen is None or now > seen:
            seen, stalled_at = now, time.monotonic() + STALLED_S
        elif time.monotonic() > stalled_at:
            raise BenchError(f"the worker stopped {enough - now:,} events before the end")
        await asyncio.sleep(POLL_S)
    return now


@asynccontextmanager
async def running_stack(
    home: Path, arguments: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> AsyncIterator[RunningStack]:
    """Start the stack; on leaving it has ended and nothing of it is left. Raises StartError.

    Arguments of `frostgate up` and variables make it another than the default one.
    """
    logs = home / "logs"
    logs.mkdir(mode=0o700, parents=True)
    data_dir = home / "data"
    began = time.perf_counter()
    child = await spawn(_command(data_dir, arguments, settings or {}), logs)
    try:
        stack = await _ready(child, data_dir)
        start_s = time.perf_counter() - began
        pool = await Pool.open(PostgresSettings(dsn=stack.postgres_dsn, pool_size=1, statement_cache_size=0))
        try:
            yield RunningStack(stack, start_s, pool)
        except BenchError as failure:
            raise BenchError(f"{failure}\n{_last_words(child, data_dir)}") from failure
        finally:
            await pool.close()
    finally:
        await child.stop(STOP_WAIT_S)
        with await DataDirectory.open(data_dir) as directory:
            shutil.rmtree(directory.outside, ignore_errors=True)


def _command(data_dir: Path, arguments: Sequence[str], settings: Mapping[str, str]) -> Command:
    """`frostgate up` with these settings and else the defaults, whatever the caller's own environment says."""
    others = {name: value for name, value in environment().items() if not name.startswith("FG_")}
    return Command(
        name="up",
        arguments=(
            *(sys.executable, "-P", "-c", _RUN, "up", "--data-dir", str(data_dir)),
            *("--http-port", "0", "--admin-port", "0", *arguments),
        ),
        environment={**others, **settings},
    )


def _last_words(child: Child, data_dir: Path) -> str:
    """The ends of the supervisor's and the worker's logs, before they are removed."""
    worker = (data_dir / "logs" / "worker.log").read_text(errors="replace").splitlines()
    return "\n".join(["The supervisor said:", child.last_lines(), "The worker said:", *worker[-LOG_LINES:]])


async def _ready(child: Child, data_dir: Path) -> Stack:
    found: list[Stack] = []

    async def probe() -> None:
        stack = read_stack(data_dir)
        if stack is None:
            raise NotAnsweringError
        found.append(stack)

    try:
        await until_ready(child, probe, START_WAIT_S)
    except TimeoutError as cause:
        raise StartError(f"the stack was not ready within {START_WAIT_S} s:\n{child.last_lines()}") from cause
    return found[-1]
