"""Running the load generator, and reading what processes cost from /proc."""

import asyncio
import os
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from ops.bench.load import Job, Result

APP_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package `ops`, in a checkout and in the wheel."""

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class BenchError(Exception):
    """A measurement could not be taken. The message is for the person at the terminal."""


async def run_job(job: Job) -> Result:
    """Run one job in a process of its own. Raises BenchError with the generator's own words when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ops.bench.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=APP_ROOT,
    )
    try:
        output, errors = await process.communicate(msgspec.json.encode(job))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BenchError(f"the load generator failed:\n{errors.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(output, type=Result)


class Cpu(NamedTuple):
    """CPU time used so far, microseconds."""

    edge: int
    worker: int
    nats: int
    postgres: int

    def since(self, earlier: "Cpu") -> "Cpu":
        return Cpu(*(now - then for now, then in zip(self, earlier, strict=True)))


def cpu_us(pid: int) -> int:
    """User and system time of one process, microseconds. 0 when it is gone."""
    return sum(_stat(pid)[:2]) * _TICK_US


def cpu_tree_us(pid: int) -> int:
    """The same of a process with its children, those that ended included: Postgres has one per connection."""
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
