"""The same rules asked of an OPA server: `POST /v1/data/fg/decision/decision`.

The server is no dependency that work waits for: whatever keeps it from answering within 250 ms is a
deny at once.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from schemas.decision import PolicyAnswer
from streams.policy import NO_RULE, no_answer, read_answer
from streams.policy_files import PolicyError, PolicyFiles, read_policy

ANSWER_MS_MAX = 250
CONNECT_MS_MAX = 5_000
ANSWER_BYTES_MAX = 16 * 1024 * 1024
_DECISION_PATH = "/v1/data/fg/decision/decision"


class _Result(msgspec.Struct):
    """An OPA answer; without `result` the queried document is undefined."""

    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Module(msgspec.Struct):
    raw: str


_result = msgspec.json.Decoder(_Result)


class RemotePolicy:
    """An OPA server that was seen to serve a given directory of rules."""

    def __init__(self, url: str, policy_hash: str) -> None:
        self.policy_hash = policy_hash
        self._http = _HttpClient(url)

    @classmethod
    async def connect(cls, url: str, directory: Path) -> "RemotePolicy":
        """Return once the server was seen to hold exactly the modules and data in `directory`.

        Raises PolicyError when it does not answer or holds other modules or data. What it is given
        afterwards is not seen: `policy_hash` is of the rules found here.
        """
        files = read_policy(directory)
        policy = cls(url, files.policy_hash)
        try:
            async with asyncio.timeout(CONNECT_MS_MAX / 1000):
                await policy._prove(files)
        except (OSError, ValueError, httptools.HttpParserError) as cause:
            policy.close()
            raise PolicyError(f"OPA could not be asked for its rules: {type(cause).__name__}") from cause
        except PolicyError:
            policy.close()
            raise
        return policy

    async def evaluate(self, document: Mapping[str, Any]) -> PolicyAnswer:
        """The server's word on `document`, or a deny when none came within 250 ms."""
        try:
            async with asyncio.timeout(ANSWER_MS_MAX / 1000):
                status, data = await self._http.request(
                    "POST", _DECISION_PATH, msgspec.json.encode({"input": document})
                )
            answer = _result.decode(data)
        except (OSError, ValueError, TypeError, RecursionError, httptools.HttpParserError) as cause:
            return no_answer(type(cause).__name__)
        if status != HTTPStatus.OK:
            return no_answer(f"status {status}")
        return NO_RULE if isinstance(answer.result, msgspec.UnsetType) else read_answer(bytes(answer.result))

    def close(self) -> None:
        self._http.close()

    async def _prove(self, files: PolicyFiles) -> None:
        modules = msgspec.json.decode(await self._get("/v1/policies"), type=list[_Module])
        if sorted(module.raw for module in modules) != sorted(text for _, text in files.modules):
            raise PolicyError("OPA holds other modules than the policy directory")
        if not _holds(msgspec.json.decode(await self._get("/v1/data")), msgspec.json.decode(files.data)):
            raise PolicyError("OPA holds other data than the policy directory")

    async def _get(self, path: str) -> bytes:
        status, data = await self._http.request("GET", path, b"")
        found = _result.decode(data).result
        if status != HTTPStatus.OK or isinstance(found, msgspec.UnsetType):
            raise PolicyError(f"OPA answered {status} to GET {path}")
        return bytes(found)


def _holds(whole: Any, part: Any) -> bool:
    """Whether every value of `part` stands in `whole` at the same place; the rules' own documents stand beside them."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _holds(whole[key], part[key]) for key in part)
    return bool(whole == part)


class _HttpClient:
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
