"""Reading lines of any length in bounded memory."""

from typing import BinaryIO, NamedTuple

_CHUNK_BYTES = 64 * 1024


class Line(NamedTuple):
    """One line: where it begins, its size with its line end, and its text without it, cut when it was too long."""

    offset: int
    size_bytes: int
    text: bytes
    cut: bool
    terminated: bool


class LineReader:
    """Lines of a binary file from where it stands, `offset`. Keeps at most about `text_bytes_max` bytes of each."""

    def __init__(self, file: BinaryIO, offset: int, text_bytes_max: int) -> None:
        self._file = file
        self._offset = offset
        self._text_bytes_max = text_bytes_max
        self._head = bytearray()
        self._size_bytes = 0

    @property
    def read_bytes(self) -> int:
        """Offset of the first byte not read yet; a line begun and not ended lies before it."""
        return self._offset + self._size_bytes

    def complete(self) -> Line | None:
        """The next line that ends in a newline, None when the file holds no further one yet."""
        while chunk := self._file.readline(_CHUNK_BYTES):
            # Two bytes more, for the line end: a text of exactly the greatest size is not cut.
            self._head += chunk[: max(0, self._text_bytes_max + 2 - len(self._head))]
            self._size_bytes += len(chunk)
            if chunk.endswith(b"\n"):
                return self._taken(terminated=True)
        return None

    def rest(self) -> Line | None:
        """What is left after the last newline as a line of its own, None when nothing is."""
        return self._taken(terminated=False) if self._size_bytes else None

    def _taken(self, *, terminated: bool) -> Line:
        text = bytes(self._head)
        held_whole = self._size_bytes == len(text)
        if terminated and held_whole:
            text = text.removesuffix(b"\n").removesuffix(b"\r")
        cut = not held_whole or len(text) > self._text_bytes_max
        line = Line(self._offset, self._size_bytes, text[: self._text_bytes_max], cut, terminated)
        self._offset += self._size_bytes
        self._head.clear()
        self._size_bytes = 0
        return line
