"""Files only their owner may read, and whether another user could reach a path."""

import os
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple


class User(NamedTuple):
    """The unprivileged user a server runs as."""

    uid: int
    gid: int


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file in one step. On return the new content is on disk; a reader never sees half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """On return the names in the directory are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def can_enter(path: Path, user: User) -> bool:
    """Whether the user may pass through the directory and every one above it, by their mode bits."""
    resolved = path.resolve()
    return all(_may_search(directory.stat(), user) for directory in (resolved, *resolved.parents))


def make_passable(path: Path) -> None:
    """Create the directory and those missing above it so that any user may pass, and touch none that exists."""
    if path.is_dir():
        return
    make_passable(path.parent)
    path.mkdir()
    path.chmod(0o711)


def _may_search(status: os.stat_result, user: User) -> bool:
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
