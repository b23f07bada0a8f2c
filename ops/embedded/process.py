"""Starting, awaiting and stopping one child program, so that it can never outlive this process."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ops.embedded import bound
from ops.embedded.bound import SAME_USER
from ops.embedded.files import User

LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_LINES_SHOWN = 12
READY_POLL_S = 0.02


class StartError(Exception):
    """A server cannot be started. The message is for the person at the terminal."""


class NotAnsweringError(Exception):
    """The server does not answer, or not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One program to run. Arguments are visible to every user of the machine, so they hold no secret."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    user: User | None = None
    niceness: int = 0
    """Added to this process's own: the others get the processor first."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running program, in a session and process group of its own.

    It writes to its log file, or, without one, to where this process writes.
    """

    command: Command
    process: asyncio.subprocess.Process
    log_file: Path | None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def wait(self) -> int:
        """The exit status, negative for a signal."""
        return await self.process.wait()

    async def ended_within(self, timeout_s: float) -> int:
        """The exit status. On TimeoutError, and when cancelled, the program has been killed."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        finally:
            await self.kill()

    async def stop(self, grace_s: float) -> None:
        """On return the program has ended: asked first, killed with its whole group when the grace is over."""
        self.ask_to_stop()
        with suppress(TimeoutError):
            await self.ended_within(grace_s)

    def ask_to_stop(self) -> None:
        if self.alive:
            self.process.send_signal(self.command.stop_signal)

    async def kill(self) -> None:
        """On return the program has ended and its group has been sent SIGKILL."""
        if self.alive:
            kill_group(self.pid)
        await self.wait()

    def last_lines(self) -> str:
        """The end of the log, for an error message."""
        if self.log_file is None:
            return ""
        with self.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16 * 1024))
            text = file.read().decode(errors="replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES_SHOWN:])


def kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself in the meantime
        os.killpg(pid, signal.SIGKILL)


async def spawn(command: Command, log_dir: Path | None, inherited: Sequence[int] = ()) -> Child:
    """Start the program. It is sent its stop signal when this process ends, however that happens.

    Without a directory for its log it writes to where this process writes.

    Must be called from the main thread: the kernel ties the child to the thread that forked it.
    `inherited` are descriptors it keeps open, so that a lock lasts until the last child is gone.
    Raises StartError when there is no such program.
    """
    name, *arguments = command.arguments
    program = shutil.which(name, path=command.environment.get("PATH"))
    if program is None:
        raise StartError(f"cannot start {command.name}: there is no program {name}")
    user = f"{command.user.uid}:{command.user.gid}" if command.user else SAME_USER
    terms = (os.getpid(), int(command.stop_signal), command.niceness, user)
    log_file = None if log_dir is None else log_dir / f"{command.name}.log"
    log = None if log_file is None else _opened(log_file)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", bound.__file__, *map(str, terms)),
            *(program, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(command.environment),
            cwd="/" if command.user else None,
            start_new_session=True,
            pass_fds=inherited,
        )
    except OSError as cause:
        raise StartError(f"cannot start {command.name}: {cause.strerror} ({sys.executable})") from cause
    finally:
        if log is not None:
            os.close(log)
    return Child(command, process, log_file)


def _opened(log_file: Path) -> int:
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES_MAX:
        log_file.replace(log_file.with_suffix(".log.1"))
    return os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


async def until_ready(child: Child, probe: Callable[[], Awaitable[None]], timeout_s: float) -> None:
    """Return once the program answers.

    `probe` raises NotAnsweringError until then. Raises StartError when the program ends first, and
    TimeoutError when it neither answers nor ends; then it still runs.
    """
    async with asyncio.timeout(timeout_s):
        while child.alive:
            try:
                return await probe()
            except NotAnsweringError:
                await asyncio.sleep(READY_POLL_S)
    raise StartError(
        f"{child.command.name} ended with status {child.process.returncode} instead of starting. "
        f"The last lines of {child.log_file}:\n{child.last_lines()}"
    )


def free_port() -> int:
    """A loopback port nobody listens on at this moment; the program that takes it may still lose a race for it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
