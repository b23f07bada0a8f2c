"""Write once, read many: the store of sealed segments, as a directory.

An object appears whole under its key, is on disk when `put` returns, and is never replaced. The
files are read-only, which stops accidents; against the host's administrator the signed chain and
checkpoints stand, and the object store with a lock of its own.
"""

import asyncio
import os
import re
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from schemas.answers import NoAnswer, Refusal
from schemas.codes import Code, DeadReason
from sinks.durable_file import sync_directory, write_new

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}){0,7}")
"""At most eight names; each begins with a letter or digit, so no name is hidden, climbs or is empty."""

PING_BYTES = 64 * 1024
"""Written, and never given a name, to learn whether the disk is full or read-only."""


def checked_key(key: str) -> str:
    """The key. Raises ValueError for what is none."""
    if _KEY.fullmatch(key) is None:
        raise ValueError("not a key of the store")
    return key


class Worm(Protocol):
    """Objects that are stored once and never change."""

    async def ping(self) -> bool:
        """Whether the store takes writes; never raises."""

    async def faults(self) -> list[str]:
        """What stands against trusting the store with evidence, in words for its operator; never raises."""

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        """Return once `data` is durable under `key`, locked for that long; the same bytes again are no error.

        Raises Refusal when other bytes lie under the key, NoAnswer when the store does not take
        them (they may or may not be there; put again), and ValueError for no key.
        """

    async def get(self, key: str) -> bytes | None:
        """The bytes under `key`, None when there are none. Raises NoAnswer, and ValueError for no key."""

    async def get_range(self, key: str, offset: int, length: int) -> bytes | None:
        """Up to `length` bytes of the object from `offset`, None when there is no object. Raises as `get`."""


class DirectoryWorm:
    """A `Worm` in a directory of a local file system.

    It has no clock of its own and locks nothing for a time: `retain_days` changes nothing here, and
    nothing in here is ever removed.
    """

    def __init__(self, root: Path) -> None:
        """Raises NotADirectoryError when `root` is not there: evidence must not go beside an unmounted volume."""
        if not root.is_dir():
            raise NotADirectoryError(f"the WORM store {root} is not a directory")
        self._root = root

    async def ping(self) -> bool:
        return await asyncio.to_thread(self._takes_writes)

    async def faults(self) -> list[str]:
        return [] if await self.ping() else ["the WORM directory takes no writes"]

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        del retain_days
        await asyncio.to_thread(self._put, self._path(key), data)

    async def get(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._read, self._path(key), 0, None)

    async def get_range(self, key: str, offset: int, length: int) -> bytes | None:
        return await asyncio.to_thread(self._read, self._path(key), offset, length)

    def _takes_writes(self) -> bool:
        try:
            with TemporaryFile(dir=self._root) as file:
                file.write(bytes(PING_BYTES))
        except OSError:
            return False
        return True

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _put(self, path: Path, data: bytes) -> None:
        levels = path.parents[: len(path.relative_to(self._root).parts)]
        try:
            for directory in reversed(levels[:-1]):
                directory.mkdir(mode=0o700, exist_ok=True)
            try:
                write_new(path, data, 0o444)
            except FileExistsError:
                if path.read_bytes() != data:
                    raise Refusal(DeadReason.STORE_REFUSED) from None
            # Every level each time: whoever made a directory, or linked the file, may have died before saying so.
            for directory in levels:
                sync_directory(directory)
        except OSError as cause:
            raise NoAnswer(Code.STORE_UNAVAILABLE) from cause

    def _read(self, path: Path, offset: int, length: int | None) -> bytes | None:
        try:
            with path.open("rb") as file:
                file.seek(offset, os.SEEK_SET)
                return file.read(-1 if length is None else length)
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise NoAnswer(Code.STORE_UNAVAILABLE) from cause
