"""A small HTTP/1.1 client for one policy server."""

import asyncio
from urllib.parse import urlsplit

import httptools

ANSWER_BYTES_MAX = 16 * 1024 * 1024


class HttpClient:
    """HTTP/1.1 to one server over kept connections, one request at a time on each."""

    def __init__(self, url: str) -> None:
        """Raises ValueError unless `url` is an http or https URL with a host."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("FG_OPA_URL must be an http or https URL with a host")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body. Raises OSError, ValueError (too long) and HttpParserError.

        Asks once more on a new connection when a kept one turns out to be closed: a question has no effect.
        """
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._authority}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        while self._idle:
            try:
                return await self._exchange(*self._idle.pop(), head + body)
            except ConnectionError:
                continue
        connection = await asyncio.open_connection(self._host, self._port, ssl=self._tls or None)
        return await self._exchange(*connection, head + body)

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> tuple[int, bytes]:
        response = _Response()
        try:
            writer.write(request)
            await writer.drain()
            while not response.complete:
                chunk = await reader.read(65_536)
                if not chunk:
                    raise ConnectionResetError
                response.parser.feed_data(chunk)
        finally:
            if response.keeps_connection:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return response.parser.get_status_code(), bytes(response.body)


class _Response:
    """One response as its parser reports it."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = bytearray()
        self.complete = False
        self.keeps_connection = False

    def on_body(self, part: bytes) -> None:
        self.body += part
        if len(self.body) > ANSWER_BYTES_MAX:
            raise ValueError("the answer is too long")

    def on_message_complete(self) -> None:
        self.complete = True
        self.keeps_connection = self.parser.should_keep_alive()  # the parser has forgotten it once this returns
