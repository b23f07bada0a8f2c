"""Half-open probes are counted over processes, on a real Valkey."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge import probes
from edge.probes import Became, LocalProbes, Probes, SharedProbes
from edge.redis_store import redis_client
from edge.settings import BreakerSettings
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers

PROBES = 7
BOUND_S = 30.0
PROGRAM = Path(__file__).with_name("breaker_process.py")


class Process:
    """One of several edges. Its first word opens its circuit."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def do(self, word: str) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{word}\n".encode())
        async with asyncio.timeout(BOUND_S):
            return json.loads(await self._child.stdout.readline())

    async def passed(self) -> int:
        """How many of 50 calls at once were let in."""
        return int(await self.do("enter"))

    async def closed(self) -> bool:
        return bool(await self.do("states") == {})


@asynccontextmanager
async def _process(url: str, tenant_id: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), tenant_id, str(PROBES)),
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(f"{url}\n".encode())  # it holds a password: not in the arguments
    try:
        yield Process(child)
    finally:
        child.stdin.close()
        await child.wait()


@pytest.fixture
async def processes(servers: EmbeddedServers) -> AsyncIterator[list[Process]]:
    """Four edges whose circuits of one tenant have just opened."""
    tenant_id = f"t-{uuid.uuid4().hex[:16]}"
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(_process(servers.redis_url, tenant_id)) for _ in range(4)]
        await asyncio.gather(*(one.do("trip") for one in opened))
        yield opened


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not await holds():  # noqa: ASYNC110  (other processes do the work)
            await asyncio.sleep(0.02)


async def _round(processes: list[Process]) -> list[int]:
    """The probes each got, once the round's last one is given."""
    given = [0] * len(processes)

    async def all_given() -> bool:
        counts = await asyncio.gather(*(one.passed() for one in processes))
        for position, count in enumerate(counts):
            given[position] += count
        return sum(given) >= PROBES

    await _until(all_given)
    return given


async def test_four_processes_together_let_exactly_so_many_probes_through(processes: list[Process]) -> None:
    given = await _round(processes)
    assert sum(given) == PROBES
    assert await asyncio.gather(*(one.passed() for one in processes)) == [0, 0, 0, 0]
    for process, count in zip(processes, given, strict=True):
        for _ in range(count):
            assert not all([await one.closed() for one in processes])
            await process.do("pass")

    async def all_closed() -> bool:
        await asyncio.gather(*(one.passed() for one in processes))
        return all([await one.closed() for one in processes])

    await _until(all_closed)
    assert await asyncio.gather(*(one.passed() for one in processes)) == [50, 50, 50, 50]


async def test_a_probe_that_fails_in_one_process_opens_the_circuit_for_all(processes: list[Process]) -> None:
    given = await _round(processes)
    prober = processes[max(range(4), key=given.__getitem__)]
    assert await prober.do("fail") == {"stream of some tenants": "1 not closed"}
    assert await asyncio.gather(*(one.passed() for one in processes)) == [0, 0, 0, 0]
    again = await _round(processes)
    assert sum(again) == PROBES


SETTINGS = BreakerSettings(error_rate_threshold=0.08, latency_p95_ms=350, open_seconds=3_600, half_open_probes=2)


async def test_the_script_and_the_local_count_answer_alike(
    servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "ANSWER_MS_MAX", BOUND_S * 1_000)
    client = redis_client(servers.redis_url)
    shared, local = SharedProbes(client, SETTINGS), LocalProbes(SETTINGS, SystemClock())
    name = f"fg:cb:{{{uuid.uuid4().hex}}}:*"

    async def words(probes: Probes) -> list[str]:
        said = []
        rounds: dict[int, str] = {}
        for step, (word, last) in enumerate(_STEPS):
            if word == "ask":
                answer = await probes.ask(name, last)
                rounds[step] = answer.round
            else:
                answer = await probes.report(name, rounds.get(last, "none"), Became(word))
            said.append(answer.word.value)
        return said

    assert await words(shared) == await words(local) == _WORDS
    await client.aclose()


# Either ask, ms since the asker opened; or what became of the probe that a step gave.
_STEPS = [
    *[("passed", -1), ("ask", 0), ("ask", 0), ("ask", 0), ("passed", 1), ("passed", -1), ("passed", 2)],
    *[("passed", 2), ("ask", 60_000), ("ask", -60_000), ("failed", 2), ("ask", 0), ("ask", 0), ("unused", -1)],
    *[("unused", 9), ("ask", 0), ("ask", 0), ("failed", 9), ("passed", 11), ("unused", 11), ("ask", 60_000)],
]
_WORDS = [
    *["late", "probe", "probe", "none", "probe", "late", "closed"],
    *["late", "closed", "probe", "late", "probe", "none", "late"],
    *["probe", "probe", "none", "open", "late", "late", "open"],
]
