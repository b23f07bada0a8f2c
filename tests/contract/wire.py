"""HTTP by hand: what is sent is exactly what the test says, and what comes back is read to the byte."""

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import msgspec

ANSWER_S_MAX = 20.0
JSON = "application/json"
NDJSON = "application/x-ndjson"


class Answer(NamedTuple):
    """One response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]

    @property
    def code(self) -> str:
        """The error code of a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        document = self.document
        assert document["status"] == self.status
        assert document["error_code"] == document["errors"][0]["error_code"]
        return str(document["error_code"])


class Connection:
    """One TCP connection to an edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=16 * 1024 * 1024))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def flush(self) -> None:
        await self._writer.drain()

    def send_end(self) -> None:
        """Say that nothing more will come."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    async def answer(self) -> Answer:
        """The next response, whole. Raises asyncio.IncompleteReadError when the edge closed before it."""
        async with asyncio.timeout(ANSWER_S_MAX):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
            body = await self._reader.readexactly(int(headers["content-length"]))
            return Answer(int(status_line.split(" ")[1]), headers, body)

    async def interim(self) -> int:
        """The status of the next response, which has no body."""
        async with asyncio.timeout(ANSWER_S_MAX):
            return int((await self._reader.readuntil(b"\r\n\r\n")).split(b" ")[1])

    async def closed(self) -> bool:
        """Whether the edge says that it will send nothing more."""
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self._reader.read(1) == b""


def head(method: str, path: str, *fields: str) -> bytes:
    """A request head; `Host` is there unless a field names it."""
    named = [*fields] if any(one.lower().startswith("host:") for one in fields) else ["Host: edge", *fields]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *named, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Client:
    """Well-formed requests with one key, a connection each."""

    port: int
    api_key: str

    @property
    def credential(self) -> str:
        return f"Authorization: Bearer {self.api_key}"

    def request(self, method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
        """The bytes of a request; a field given replaces the usual one of that name."""
        usual = [self.credential]
        if method == "POST":
            kind = NDJSON if path.endswith("/batch") else JSON
            usual += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        given = {one.partition(":")[0].lower() for one in fields}
        kept = [one for one in usual if one.partition(":")[0].lower() not in given]
        return head(method, path, *kept, *fields) + body

    async def ask(self, method: str, path: str, body: bytes = b"", *fields: str) -> Answer:
        async with await Connection.open(self.port) as connection:
            connection.send(self.request(method, path, body, *fields))
            return await connection.answer()

    async def ingest(self, body: bytes, *fields: str) -> Answer:
        return await self.ask("POST", "/ingest", body, *fields)

    async def batch(self, *lines: bytes) -> Answer:
        return await self.ask("POST", "/ingest/batch", b"\n".join(lines))
