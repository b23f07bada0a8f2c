"""A TCP proxy that can be cut and held, to stand between the edge and a real server."""

import asyncio
import contextlib
from typing import Self


class Proxy:
    """Forwards to one port. Held, it lets nothing through; cut, it has no connection and takes none."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self._is_cut = False
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
        self.cut()
        self._passes.set()
        await self._server.wait_closed()

    def hold(self) -> None:
        self._passes.clear()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        self._is_cut = False
        self._passes.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {writer, there_writer}
        try:
            await asyncio.gather(self._forward(reader, there_writer), self._forward(there_reader, writer))
        finally:
            self._writers -= {writer, there_writer}

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
