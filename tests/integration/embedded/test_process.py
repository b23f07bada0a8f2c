"""What a child program is started with, and that starting it waits for no lock of this process."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ops.embedded.files import User
from ops.embedded.process import Command, StartError, spawn

BOUND_S = 30.0
PATH = {"PATH": os.defpath}
STRANGER = User(65_000, 65_001)
WHAT_IT_IS = ("cat", "/proc/self/status", "/proc/self/stat")
FORKS_WITHOUT_PYTHON = """
import asyncio, os, sys
from ops.embedded.process import Command, spawn

os.register_at_fork(after_in_child=lambda: os._exit(99))  # where Python code could wait for ever

async def main():
    child = await spawn(Command(name="it", arguments=("true",), environment={"PATH": os.defpath}), None)
    sys.exit(await child.wait())

asyncio.run(main())
"""


async def _itself(directory: Path, niceness: int = 0, user: User | None = None) -> tuple[dict[str, list[str]], int]:
    """What the kernel says of a child: the fields of its status, and its niceness."""
    command = Command(name="itself", arguments=WHAT_IT_IS, environment=PATH, user=user, niceness=niceness)
    async with asyncio.timeout(BOUND_S):
        child = await spawn(command, directory)
        assert await child.wait() == 0
    *status, stat = (directory / "itself.log").read_text().splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status)}
    after_name = stat.rpartition(")")[2].split()
    assert fields["NSsid"] == fields["Pid"] == [str(child.pid)], "leads a session of its own"
    return fields, int(after_name[16])


async def test_a_child_has_the_niceness_and_ignores_nothing_that_python_does(tmp_path: Path) -> None:
    fields, niceness = await _itself(tmp_path, niceness=7)
    assert niceness == min(os.nice(0) + 7, 19)
    ignored = int(fields["SigIgn"][0], 16)
    assert not [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> (number - 1) & 1]
    assert fields["Uid"] == [str(os.getuid())] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_child_of_another_user_keeps_nothing_of_root(tmp_path: Path) -> None:
    fields, _ = await _itself(tmp_path, user=STRANGER)
    assert (fields["Uid"], fields["Gid"]) == ([str(STRANGER.uid)] * 4, [str(STRANGER.gid)] * 4)
    assert fields["Groups"] == []
    assert int(fields["CapEff"][0], 16) == 0


async def test_a_program_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    command = Command(name="it", arguments=("/nowhere/program",), environment=PATH)
    with pytest.raises(StartError, match="cannot start it: there is no program /nowhere/program"):
        await spawn(command, tmp_path)


async def test_what_cannot_be_executed_ends_with_127_and_says_why(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no format that the kernel knows")
    program.chmod(0o755)
    async with asyncio.timeout(BOUND_S):
        child = await spawn(Command(name="it", arguments=(str(program),), environment=PATH), tmp_path)
        assert await child.wait() == 127
    assert child.last_lines().strip() == f"cannot start {program}: Exec format error"


async def test_no_python_runs_between_fork_and_exec() -> None:
    """A lock that another thread held would be held for ever there, and this process would wait with it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKS_WITHOUT_PYTHON), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(BOUND_S):
        said, _ = await process.communicate()
    assert (process.returncode, said) == (0, b"")
