"""How far a log file has been shipped, kept on disk so that no line is lost or becomes another event.

The lines of a request are written here, byte for byte, before they are sent. Whatever happens to
the process then, the next one sends the same bytes, and the edge recognises what it has accepted.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ops.commands.log_file import FileIdentity


class Position(msgspec.Struct, frozen=True):
    """The next byte to read, and of which file. `generation` is in the event ids of the file's lines."""

    v: int
    tenant_id: str
    path: str
    identity: FileIdentity
    generation: str
    offset: int


class Saved(msgspec.Struct, frozen=True):
    """A position with the request lines before it that may not have been accepted yet."""

    position: Position
    pending: tuple[bytes, ...]


class PositionError(Exception):
    """The position file cannot be used as it is."""


class PositionFile:
    """The file of one position, held by one process at a time: make it with `locked`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Saved | None:
        """What was saved last, None when nothing was. Raises PositionError for anything but a position file."""
        try:
            first, *rest = self._path.read_bytes().removesuffix(b"\n").split(b"\n")
            return Saved(msgspec.json.decode(first, type=Position), tuple(rest))
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, ValueError) as problem:
            raise PositionError(f"{self._path} is no position file: move it away, or pass --position-file") from problem

    def save(self, position: Position, pending: Sequence[bytes]) -> None:
        """On return the position and its pending lines are on disk and replace the ones before, whole."""
        fresh = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"\n".join((msgspec.json.encode(position), *pending)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_directory(self._path.parent)


@contextmanager
def locked(path: Path) -> Iterator[PositionFile]:
    """The position file at `path`, for this process alone. Raises PositionError while another one holds it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise PositionError(f"another agent holds {path}: is this log followed twice?") from problem
        yield PositionFile(path)
    finally:
        os.close(lock)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
