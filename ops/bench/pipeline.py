"""What an event costs behind the edge: each stage by itself, in a worker that runs nothing else."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from ops.bench.processes import APP_ROOT, cpu_tree_us, cpu_us
from ops.bench.report import StageCost
from ops.bench.stack import RunningStack

STOP_S_MAX = 15.0
_RUN = "from frostgate import main; main()"


class _Used(NamedTuple):
    worker: int
    nats: int
    postgres: int


async def stage_costs(running: RunningStack, waiting: int, say: Callable[[str], None]) -> list[StageCost]:
    """Take `waiting` accepted events through one stage after the other; the stack's own worker must be stopped.

    What a stage spends before its first event and after its last one is left out. Raises BenchError.
    """
    stages: tuple[tuple[str, Callable[[], Awaitable[int]]], ...] = (
        ("dedupe", running.claimed),
        ("decision", running.chained),
        ("evidence", running.sealed),
    )
    goals = {stage: await done() + waiting for stage, done in stages}
    costs = []
    for stage, done in stages:
        async with _stage_worker(running, stage) as pid:
            costs.append(await _cost(running, pid, stage, done, goals[stage]))
        say(f"  {stage}: {costs[-1].events_per_s:,.0f} events/s")
    return costs


async def _cost(
    running: RunningStack, pid: int, stage: str, done: Callable[[], Awaitable[int]], goal: int
) -> StageCost:
    before = await done()
    first = await running.until(done, before + 1)
    used, began_s = _used(running, pid), time.perf_counter()
    await running.until(done, goal)
    seconds = time.perf_counter() - began_s
    events = max(goal - first, 1)
    now = _used(running, pid)
    return StageCost(
        stage=stage,
        events=events,
        events_per_s=events / seconds,
        worker_cpu_us=(now.worker - used.worker) / events,
        nats_cpu_us=(now.nats - used.nats) / events,
        postgres_cpu_us=(now.postgres - used.postgres) / events,
    )


def _used(running: RunningStack, pid: int) -> _Used:
    pids = running.stack.pids
    return _Used(cpu_us(pid), cpu_us(pids.nats), cpu_tree_us(pids.postgres))


def _environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs if "=" in pair)


@asynccontextmanager
async def _stage_worker(running: RunningStack, stage: str) -> AsyncIterator[int]:
    """The stack's worker once more, with one stage. Its settings are those of the worker that is stopped."""
    settings = _environment(running.stack.pids.worker)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _RUN, "worker", "--stages", stage),
        env={**settings, "FG_ADMIN_PORT": "0", "FG_LOG_LEVEL": "error"},
        cwd=APP_ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()
