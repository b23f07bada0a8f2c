"""The data directory: one owner at a time, secrets made once, and nobody else can read them."""

import asyncio
import fcntl
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ops.embedded.files import write_private
from ops.embedded.process import StartError

LOCK_WAIT_S = 15.0
OUTSIDE = Path("/var/lib/frostgate")
_PASSWORDS = (
    "nats_edge",
    "nats_worker",
    "nats_admin",
    "nats_system",
    "postgres_superuser",
    "fg_edge",
    "fg_worker",
    "fg_admin",
    "valkey",
    "valkey_operator",
)


class DirectoryInUseError(StartError):
    """Another instance runs on this directory."""


class Secrets(msgspec.Struct):
    """`secrets.json`. The instance id names what has to lie outside of the data directory."""

    instance_id: str
    passwords: dict[str, str]
    api_key: str = ""

    def __repr__(self) -> str:
        return f"Secrets({self.instance_id})"


class DataDirectory:
    """A locked data directory.

    The lock is on an open file that the servers inherit, so it is free only when the supervisor and
    every server of it have ended, even after kill -9.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.lock = lock
        self.logs = path / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.secrets = self._load_secrets()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Create the directory where needed and lock it.

        Waits a bounded time for the servers of a killed supervisor to end. Raises DirectoryInUseError
        when the other supervisor lives, or its servers do not end.
        """
        try:
            path = _created(path)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as cause:
            raise StartError(f"cannot use the data directory {path}: {cause.strerror}") from cause
        try:
            await _acquire(path, lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return cls(path, lock)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Let go: the next owner waits for whatever of ours is still ending, and is not told that we hold it."""
        os.ftruncate(self.lock, 0)
        os.close(self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def outside(self) -> Path:
        """This instance's place for what an unprivileged user must reach when it cannot reach the data directory."""
        return OUTSIDE / self.secrets.instance_id

    def password(self, name: str) -> str:
        return self.secrets.passwords[name]

    def keep_api_key(self, api_key: str) -> None:
        """On return the key is on disk."""
        self.secrets.api_key = api_key
        self._save_secrets()

    def _load_secrets(self) -> Secrets:
        file = self.path / "secrets.json"
        try:
            known = msgspec.json.decode(file.read_bytes(), type=Secrets) if file.exists() else None
        except msgspec.DecodeError as cause:
            raise StartError(f"{file} is damaged; without it the data of {self.path} cannot be opened") from cause
        found = known or Secrets(secrets.token_hex(8), {})
        missing = [name for name in _PASSWORDS if name not in found.passwords]
        found.passwords.update({name: secrets.token_hex(32) for name in missing})
        self.secrets = found
        if missing:
            self._save_secrets()
        return found

    def _save_secrets(self) -> None:
        write_private(self.path / "secrets.json", msgspec.json.encode(self.secrets))


def _created(path: Path) -> Path:
    path = path.absolute()
    if path.is_dir():
        return path
    path.mkdir(parents=True)
    # The database's own user must be able to pass through when we are root; what is secret inside is 0600 or 0700.
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return path


async def _acquire(path: Path, lock: int) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            holder = _holder(lock)
            if holder is not None:
                raise DirectoryInUseError(f"the data directory {path} is in use by process {holder}") from cause
            if asyncio.get_running_loop().time() > deadline:
                raise DirectoryInUseError(f"servers of an earlier run still hold the data directory {path}") from cause
        await asyncio.sleep(0.05)


def _holder(lock: int) -> int | None:
    """The supervisor that wrote its id into the lock file, None when it has ended."""
    text = os.pread(lock, 32, 0)
    if not text.isdigit():
        return None
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return int(text)
    return int(text)
