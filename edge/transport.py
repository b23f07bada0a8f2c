"""Bytes in and out of one HTTP request (ASGI), with every read bounded."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.answers import NoAnswer

log = logging.getLogger("edge")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Fields = Mapping[bytes, bytes]
"""Header fields by lower-case name."""

DISCARD_BYTES_MAX = 8 * 1024 * 1024
DISCARD_MS_MAX = 2_000

PIECE_BYTES = 64 * 1024

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
PROBLEM = b"application/problem+json"


class Pieces(NamedTuple):
    """A body that is too large to be held: so many bytes, as they come."""

    size: int
    pieces: AsyncIterator[bytes]


class Response(NamedTuple):
    """An answer. With `closes` the rest of the body is unwanted and the connection ends. `pieces` replace `body`."""

    status: int
    media_type: bytes
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    closes: bool = False
    pieces: Pieces | None = None


@dataclass(slots=True)
class Request:
    """One request whose head has been looked at."""

    route: str
    """The route's template, for logs and metrics."""
    path: bytes
    query: bytes
    """What follows the `?` of the target, as sent."""
    request_id: str
    fields: Fields
    receive: Receive
    started_s: float
    """`time.perf_counter()` when the request arrived."""
    client_uris: tuple[str, ...] = ()
    """The URIs of the client's certificate, as far as the connection verified one."""
    awaited_s: float = field(init=False, default=0.0)
    """How long the sender had this edge wait for its body."""
    unread: bool = field(init=False)
    """Whether body bytes may still be on their way."""

    def __post_init__(self) -> None:
        self.unread = b"content-length" in self.fields or b"transfer-encoding" in self.fields

    async def body(self) -> bytes | None:
        """The whole body, None when the sender went away before its end. Its length was limited by the head."""
        asked_s = time.perf_counter()
        try:
            return await self._whole_body()
        finally:
            self.awaited_s = time.perf_counter() - asked_s

    async def _whole_body(self) -> bytes | None:
        message = await self.receive()
        chunk: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body"):
            self.unread = False
            return chunk
        chunks = [chunk]
        while message["type"] == "http.request" and message.get("more_body"):
            message = await self.receive()
            chunks.append(message.get("body", b""))
        self.unread = False
        return b"".join(chunks) if message["type"] == "http.request" else None


async def respond(request: Request, response: Response, send: Send) -> None:
    """Send the answer so that the sender can read it.

    What is left of the body is read first, so the connection serves on; if it does not end within
    the bounds, or the answer closes anyway, the connection is closed after the answer, and only
    once the sender has had the time to read it: a reset would take the answer away.
    """
    closes = response.closes
    if request.unread and not closes:
        closes = not await _discard(request.receive)
    headers = [
        (b"content-type", response.media_type),
        (b"content-length", b"%d" % (len(response.body) if response.pieces is None else response.pieces.size)),
        (b"x-request-id", request.request_id.encode()),
        *response.headers,
    ]
    if closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if response.closes and request.unread:
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        await _discard(request.receive)
        await send({"type": "http.response.body", "body": b""})
        return
    if response.pieces is None:
        await _send_body(response.body, send)
    else:
        await _send_pieces(response.pieces, send)


async def _send_pieces(body: Pieces, send: Send) -> None:
    """A body that breaks off is not ended: the server then closes the connection, and the length tells the client."""
    left = body.size
    try:
        async for piece in body.pieces:
            left -= len(piece)
            for start in range(0, len(piece), PIECE_BYTES):
                await send(
                    {"type": "http.response.body", "body": piece[start : start + PIECE_BYTES], "more_body": True}
                )
    except NoAnswer as failure:
        log.error("a body broke off: %s", failure.code)  # noqa: TRY400  (the code is all there is to say)
        return
    if left == 0:
        await send({"type": "http.response.body", "body": b""})


async def _send_body(body: bytes, send: Send) -> None:
    """Piece by piece, each once the client has taken most of those before it: so it is seen whether it reads."""
    if len(body) <= PIECE_BYTES:
        await send({"type": "http.response.body", "body": body})
        return
    for start in range(0, len(body), PIECE_BYTES):
        more = start + PIECE_BYTES < len(body)
        await send({"type": "http.response.body", "body": body[start : start + PIECE_BYTES], "more_body": more})


async def _discard(receive: Receive) -> bool:
    """Read and drop. True when the body ended within the bounds of size and time."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_MS_MAX / 1000):
            while size <= DISCARD_BYTES_MAX:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                if not message.get("more_body"):
                    return True
                size += len(message.get("body", b""))
    except TimeoutError:
        return False
    return False
