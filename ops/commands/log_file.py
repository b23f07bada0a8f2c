"""A log file as its writer and its rotation leave it: one name, many files one after the other."""

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEAD_BYTES_MAX = 1024
_ROTATED = re.compile(r"[.-](\d[\d._-]*)")
_NEWEST = (2, "")


class FileIdentity(NamedTuple):
    """Which file this is: its inode, and its first bytes, because an inode number is used again."""

    device: int
    inode: int
    head_bytes: int
    head_sha256: str


def identify(file: BinaryIO, head_bytes: int) -> FileIdentity:
    """The identity of an open file by its first `head_bytes` bytes; reading goes on where it was."""
    status = os.fstat(file.fileno())
    head = os.pread(file.fileno(), head_bytes, 0)
    return FileIdentity(status.st_dev, status.st_ino, len(head), hashlib.sha256(head).hexdigest())


def is_still(file: BinaryIO, identity: FileIdentity, read_bytes: int) -> bool:
    """Whether the open file is the one identified and holds all that was read of it: neither truncated nor reused."""
    long_enough = os.fstat(file.fileno()).st_size >= read_bytes
    return long_enough and identify(file, identity.head_bytes) == identity


class Generation(NamedTuple):
    """One of the files that bear the log's name."""

    path: Path
    device: int
    inode: int


def generations(path: Path) -> list[Generation]:
    """The files that bear the log's name, oldest first: `log.2`, `log.1`, `log` or `log-20260101`, `log`.

    Compressed ones are left out, and so are empty ones.
    """
    found = []
    for file in path.parent.iterdir():
        suffix = _ROTATED.fullmatch(file.name.removeprefix(path.name)) if file.name.startswith(path.name) else None
        generation = _generation(file) if suffix is not None or file == path else None
        if generation is not None:
            found.append((_age_order(suffix[1]) if suffix is not None else _NEWEST, generation))
    return [generation for _order, generation in sorted(found)]


def find(path: Path, device: int, inode: int) -> Path | None:
    """The file of that inode among the generations, None when it is gone."""
    same = (one.path for one in generations(path) if (one.device, one.inode) == (device, inode))
    return next(same, None)


def successor(path: Path, device: int, inode: int) -> Path | None:
    """The file to read after the one of that inode: None while there is none with anything in it."""
    files = generations(path)
    place = next((at for at, one in enumerate(files) if (one.device, one.inode) == (device, inode)), None)
    later = files[-1:] if place is None else files[place + 1 :]
    return later[0].path if later and (place is not None or later[0].path == path) else None


def _generation(path: Path) -> Generation | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None  # rotated away between the listing and this look
    regular = stat.S_ISREG(status.st_mode) and status.st_size > 0
    return Generation(path, status.st_dev, status.st_ino) if regular else None


def _age_order(suffix: str) -> tuple[int, str]:
    """Small numbers count backwards in time (`log.1` is newer than `log.2`); anything longer is a date."""
    return (-int(suffix), "") if suffix.isdecimal() and len(suffix) <= 4 else (1, suffix)
