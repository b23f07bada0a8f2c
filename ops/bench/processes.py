"""Running the bench's own programs, and reading what processes cost from /proc."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from ops.bench import connections
from ops.bench.job import Job, Result

Answer = TypeVar("Answer")

APP_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package `ops`, in a checkout and in the wheel."""

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
HOLD_WAIT_S = 300.0
SPARED_CORES_MIN = 4


class BenchError(Exception):
    """A measurement could not be taken. The message is for the person at the terminal."""


async def run_job(job: Job) -> Result:
    """Run one job of the load generator. Raises BenchError."""
    return await answered("ops.bench.load", job, Result)


async def answered(module: str, job: msgspec.Struct, kind: type[Answer]) -> Answer:
    """What the module answers in a process of its own. Raises BenchError with its own words when it fails."""
    async with _spawned(module) as process:
        output, errors = await process.communicate(msgspec.json.encode(job))
    if process.returncode != 0:
        raise BenchError(f"{module} failed:\n{errors.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(output, type=kind)


class Holding:
    """Connections that another process holds. `stood` were open when they first all were."""

    def __init__(self, process: asyncio.subprocess.Process, stood: connections.Held) -> None:
        self._process = process
        self.stood = stood

    async def end(self) -> connections.Held:
        """Wait until their time is over; how they stood then. Raises BenchError."""
        return await _report(self._process)


@asynccontextmanager
async def holding(job: connections.Job) -> AsyncIterator[Holding]:
    """Enter the block once all connections stand; on leaving they are gone. Raises BenchError."""
    async with _spawned("ops.bench.connections") as process:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
        yield Holding(process, await _report(process))


async def _report(process: asyncio.subprocess.Process) -> connections.Held:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(HOLD_WAIT_S):
            line = await process.stdout.readline()
    except TimeoutError as cause:
        raise BenchError("the connections could not all be opened") from cause
    if not line:
        assert process.stderr is not None
        errors = await process.stderr.read()
        raise BenchError(f"the connections could not be held:\n{errors.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(line, type=connections.Held)


@asynccontextmanager
async def _spawned(module: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The module as a program, its three streams being pipes; it has ended when the block is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=APP_ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def spared_core() -> int | None:
    """The core kept free for the load generator, and from now on barred to this process and those it starts.

    None where there are too few cores: then all share all of them.
    """
    cores = os.sched_getaffinity(0)
    if len(cores) < SPARED_CORES_MIN:
        return None
    spared = max(cores)
    os.sched_setaffinity(0, cores - {spared})
    return spared


class Cpu(NamedTuple):
    """CPU time used so far, microseconds."""

    worker: int
    nats: int
    postgres: int

    def since(self, earlier: "Cpu") -> "Cpu":
        return Cpu(*(now - then for now, then in zip(self, earlier, strict=True)))


def cpu_us(pid: int) -> int:
    """User and system time of one process, microseconds. 0 when it is gone."""
    return sum(_stat(pid)[:2]) * _TICK_US


def cpu_tree_us(pid: int) -> int:
    """The same of a process with its children, those that ended included. Postgres has one per connection."""
    children = sum(sum(_stat(child)[:2]) for child in _children(pid))
    return (sum(_stat(pid)) + children) * _TICK_US


def resident_mib(pid: int) -> float:
    """Resident memory of one process, MiB."""
    pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _stat(pid: int) -> tuple[int, int, int, int]:
    """utime, stime, cutime, cstime in clock ticks."""
    try:
        line = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return (0, 0, 0, 0)
    fields = line.rpartition(")")[2].split()  # the program's name, in parentheses, may hold anything
    utime, stime, cutime, cstime = map(int, fields[11:15])
    return (utime, stime, cutime, cstime)


def _children(pid: int) -> list[int]:
    return [
        int(child) for tasks in (_PROC / str(pid) / "task").glob("*/children") for child in tasks.read_text().split()
    ]
