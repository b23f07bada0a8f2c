"""A ustar archive written front to back: every size is known before its bytes, so the sink may be any stream."""

import hashlib
import tarfile
from collections.abc import Awaitable, Callable
from typing import NamedTuple

BLOCK_BYTES = 512
MEMBER_BYTES_MAX = 8 * 1024**3 - 1
"""What the format can say."""
_MODE = 0o444

Sink = Callable[[bytes], Awaitable[None]]
"""Takes the next bytes; they are its own from then on."""


class TooLargeError(Exception):
    """The format has no room for a member. The text says what to do."""


class Member(NamedTuple):
    """A member that was written whole."""

    name: str
    sha256: str


def check_room(name: str, size: int) -> None:
    """Raises TooLargeError for a member that the format has no room for."""
    if size > MEMBER_BYTES_MAX:
        raise TooLargeError(
            f"{name} would be larger than the 8 GiB a member can be: choose a shorter time, from and to"
        )


class TarWriter:
    """Members one after the other, owned by nobody, of no time. `members` are those that ended."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._file = hashlib.sha256()
        self._member = hashlib.sha256()
        self._name = ""
        self._left = 0
        self._padding = 0
        self.bytes = 0
        self.members: list[Member] = []

    @property
    def sha256(self) -> str:
        """Of the bytes so far."""
        return self._file.hexdigest()

    async def begin(self, name: str, size: int) -> None:
        """Announce a member. Raises TooLargeError."""
        check_room(name, size)
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, _MODE
        self._name, self._left, self._padding = name, size, -size % BLOCK_BYTES
        self._member = hashlib.sha256()
        await self._put(header.tobuf(tarfile.USTAR_FORMAT))

    async def write(self, data: bytes) -> None:
        """The member's next bytes. Raises ValueError when they are more than were announced."""
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"{self._name} is larger than was announced")
        self._member.update(data)
        await self._put(data)

    async def end(self) -> None:
        """Raises ValueError when bytes of the member are missing."""
        if self._left:
            raise ValueError(f"{self._name} is smaller than was announced")
        self.members.append(Member(self._name, self._member.hexdigest()))
        await self._put(b"\x00" * self._padding)

    async def add(self, name: str, data: bytes) -> None:
        """A whole member."""
        await self.begin(name, len(data))
        await self.write(data)
        await self.end()

    async def close(self) -> None:
        await self._put(b"\x00" * (2 * BLOCK_BYTES))

    async def _put(self, data: bytes) -> None:
        self.bytes += len(data)
        self._file.update(data)
        await self._sink(data)
