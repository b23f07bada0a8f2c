"""An HTTP proxy that changes what it carries, and says nothing of it."""

import asyncio
import contextlib
import re
from enum import Enum, auto
from typing import Self

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")


class Change(Enum):
    """What becomes of an answer whose body holds the marker."""

    ALTER = auto()
    """One byte of the body is another; its length is the same."""
    SHORTEN = auto()
    """The body ends early, and its length says so."""
    CUT = auto()
    """The body ends early, and its length does not say so."""


class ChangingProxy:
    """Forwards connections to one port of this machine."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._change: Change | None = None
        self._marker = b""
        self.port = 0

    @classmethod
    async def open(cls, target_port: int) -> Self:
        self = cls(target_port)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    def change(self, change: Change | None, marker: bytes) -> None:
        """From now on answers with the marker in their body are changed, None changes nothing."""
        self._change, self._marker = change, marker

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, there_writer}
        asking = asyncio.create_task(_copy(reader, there_writer))
        try:
            while await self._answer(there_reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers -= {writer, there_writer}
            writer.close()
            there_writer.close()
            await asking

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry one answer; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        at = body.find(self._marker)
        if self._change is None or at < 0:
            writer.write(head + body)
            await writer.drain()
            return True
        body = body[:at] + b"#" + body[at + 1 :] if self._change is Change.ALTER else body[:-1]
        if self._change is Change.SHORTEN:
            head = _LENGTH.sub(b"Content-Length: %d" % len(body), head)
        writer.write(head + body)
        await writer.drain()
        return self._change is not Change.CUT


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
