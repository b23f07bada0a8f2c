"""The small HTTP server of the admin ports: GET only, everything bounded, one request a connection."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

REQUEST_BYTES_MAX = 8 * 1024
REQUEST_S_MAX = 5.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
CONNECTIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes


Route = Callable[[], Awaitable[Answer]]


class AdminServer:
    """Serves the routes on one port. Port 0 takes a free one, known as `port` once started."""

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        self._host = host
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self.port = port

    async def start(self) -> int:
        """On return the port is open; it is also what is returned. Raises OSError when it cannot be had."""
        self._server = await asyncio.start_server(self._accepted, self._host, self.port, limit=REQUEST_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """On return the port is closed and no request is being answered."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = self._server is not None and self._server.is_serving()  # a last one may come through after close()
        if not serving or len(self._handlers) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        handler = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                method, answer = await self._answer(reader)
                writer.write(_response(method, answer))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()  # the client went away or is too slow: there is nobody to answer
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "GET", _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target, _, protocol = rest.partition(" ")
        if not protocol.startswith("HTTP/1."):
            return method, _plain(HTTPStatus.BAD_REQUEST)
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return method, _plain(HTTPStatus.NOT_FOUND)
        if method not in {"GET", "HEAD"}:
            return method, _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        return method, await route()


async def fetch(host: str, port: int, path: str, timeout_s: float) -> Answer:
    """GET from an AdminServer. Raises OSError (TimeoutError included) when there is no whole answer."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port, limit=REQUEST_BYTES_MAX)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status_line, *fields = head.strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
                size = int(headers["content-length"])
                if size > ANSWER_BYTES_MAX:
                    raise ConnectionError("the answer is too large")
                body = await reader.readexactly(size)
                return Answer(int(status_line.split(" ")[1]), headers["content-type"], body)
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, LookupError, ValueError) as cause:
                raise ConnectionError("not a whole HTTP answer") from cause
        finally:
            writer.close()


def _plain(status: HTTPStatus) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())


def _response(method: str, answer: Answer) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n"
        "\r\n"
    ).encode()
    return head if method == "HEAD" else head + answer.body
