"""A process that is told to stop and does not end by itself is ended, and says what it waited for."""

import asyncio
import signal
import subprocess
import sys

import pytest

BOUND_S = 30.0
PROGRAM = """
import asyncio, logging, time
from ops.stop_deadline import heed_signals

logging.basicConfig()

async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main():
    stopping = asyncio.Event()
    heed_signals(lambda _number: stopping.set(), stop_s_max={stop_s_max})
    stuck = asyncio.create_task(stubborn(), name="stubborn") if {stubborn} else None
    print("ready", flush=True)
    await stopping.wait()
    {then}
    if stuck:
        await stuck

asyncio.run(main())
"""


async def _told(
    number: signal.Signals, *, stubborn: bool, then: str = "pass", stop_s_max: float = 0.1
) -> tuple[int, str]:
    """The program's status and what it said, told to stop as soon as it runs."""
    program = PROGRAM.format(stubborn=stubborn, then=then, stop_s_max=stop_s_max)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(BOUND_S):
            assert await process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            said = (await process.stdout.read()).decode()
            return await process.wait(), said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_task_that_never_ends_is_named_and_the_process_exits_with_1(number: signal.Signals) -> None:
    status, said = await _told(number, stubborn=True)
    assert status == 1
    assert "still waiting: stubborn at <string>:" in said


async def test_a_blocked_loop_ends_too_and_shows_where_it_stands() -> None:
    status, said = await _told(signal.SIGTERM, stubborn=False, then="time.sleep(3600)")
    assert status == 1
    assert 'File "<string>"' in said
    assert "in main" in said


async def test_who_ends_in_time_ends_well_and_says_nothing() -> None:
    assert await _told(signal.SIGTERM, stubborn=False, stop_s_max=BOUND_S) == (0, "")
