"""One connection of the edge: what is refused while a request is still being read, and how long it may take.

A subclass of uvicorn's protocol, because nothing behind it sees a head that never ends, a body that
drips, or the client's certificate. Whatever is refused here is answered with a problem document
after the answers to earlier requests, and the connection is closed: where the next request begins
is no longer certain.

Refused here: what is not HTTP/1.1 (MALFORMED_REQUEST), too large a head (HEADERS_TOO_LARGE), any
Transfer-Encoding (LENGTH_REQUIRED), any upgrade, a head or a body that comes too slowly
(REQUEST_TIMEOUT). What a whole head says is judged in `edge/headers.py`, and leaves the connection usable.
"""

import asyncio
import math
from enum import Enum, auto
from typing import Any, ClassVar, Protocol, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from edge.client_certificate import CLIENT_URIS, EXTENSION, uris_of
from edge.connection import ConnectionLimits
from edge.headers import FIELD_SYNTAX_BYTES
from edge.transport import DISCARD_BYTES_MAX, DISCARD_MS_MAX
from schemas.codes import Code

PIECE_BYTES = 8 * 1024
"""So much is parsed at a time: the parser keeps the whole of a field that has not ended."""


class Refuser(Protocol):
    """What the application does beside answering requests."""

    def refused_unread(self, code: Code) -> bytes:
        """Note the refusal of a request that was not read to its end, and return the whole response."""


class _Reading(Enum):
    """What is being read. In NOTHING the last request, if there was one, has been read whole."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()
    REST = auto()
    """Dropped: a refusal was sent, and a reset would take it away from a sender that is still sending."""


class _Refused(Exception):
    """Raised through the parser."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


class EdgeProtocol(HttpToolsProtocol):
    """For an application that is a `Refuser`.

    There is at most one timer a connection. It is never later than what is due and mostly earlier;
    when it fires, it looks what is due by then. So a request that comes at once costs no timer.
    """

    limits: ClassVar = ConnectionLimits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._reading = _Reading.NOTHING
        self._since_s = 0.0
        """When this began to be read or waited for."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._extensions: dict[str, dict[str, tuple[str, ...]]] = {}
        self._unanswered = 0
        """Requests whose head was read and whose answer is not complete."""
        self._refused: Code | None = None
        self._piece_bytes = 0
        """Bytes of a head that lies in several pieces; those of its first piece are not counted."""
        self._body_bytes = 0
        self._body_s = 0.0  # when the last of them came
        self._taking: asyncio.TimerHandle | None = None
        """Runs while it must be seen that the client takes what is sent."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._extensions = {EXTENSION: {CLIENT_URIS: uris_of(transport.get_extra_info("peercert"))}}
        self._begin(_Reading.NOTHING)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            self._drop(len(data))
            return
        if len(data) <= PIECE_BYTES:
            self._parse(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), PIECE_BYTES):
                self._parse(view[start : start + PIECE_BYTES])
                if self._refused is not None:
                    return
        if self._reading is not _Reading.NOTHING:
            self._arm()

    def _parse(self, piece: bytes | memoryview) -> None:
        headers = self.headers if self._reading is _Reading.HEAD else None
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserCallbackError as failure:
            cause = failure.__context__
            if not isinstance(cause, _Refused | httptools.HttpParserError):
                raise
            self._refuse(cause.code if isinstance(cause, _Refused) else Code.MALFORMED_REQUEST)
        except httptools.HttpParserError:
            self._refuse(Code.MALFORMED_REQUEST)
        else:
            if self._reading is _Reading.HEAD and headers is self.headers:  # the very head this piece began in
                self._piece_bytes += len(piece)
                if self._piece_bytes > self.limits.header_bytes_max:
                    self._refuse(Code.HEADERS_TOO_LARGE)

    # What the parser finds.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]  # an extension of our own
        self._piece_bytes = self._body_bytes = 0
        self._begin(_Reading.HEAD)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.target_bytes_max:
            raise _Refused(Code.HEADERS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() != "1.1" or self.parser.should_upgrade():
            raise _Refused(Code.MALFORMED_REQUEST)
        if not self.url.startswith(b"/") or not self.url.isascii() or b"#" in self.url:
            raise _Refused(Code.MALFORMED_REQUEST)
        names = [name for name, _ in self.headers]
        size = sum([len(name) + len(value) + FIELD_SYNTAX_BYTES for name, value in self.headers])
        if len(names) > self.limits.header_count_max or size > self.limits.header_bytes_max:
            raise _Refused(Code.HEADERS_TOO_LARGE)
        if b"transfer-encoding" in names:
            raise _Refused(Code.LENGTH_REQUIRED)
        if len(self.pipeline) >= self.limits.pipelined_max:
            raise _Refused(Code.MALFORMED_REQUEST)
        super().on_headers_complete()
        self._unanswered += 1
        self._begin(_Reading.BODY)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._body_s = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading = _Reading.NOTHING

    def on_response_complete(self) -> None:
        """Replaces uvicorn's, which makes a timer for every request."""
        self.server_state.total_requests += 1
        self._unanswered -= 1
        if self.transport.is_closing():
            self._expect_taken()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused is not None:
            self._send_refusal(self._refused)
        elif self._reading is _Reading.NOTHING:
            self._begin(_Reading.NOTHING)
            if self._timer is None:
                self._arm()

    def shutdown(self) -> None:
        if self._reading is _Reading.REST:
            self._close()
        else:
            super().shutdown()

    # Time.

    def _begin(self, reading: _Reading) -> None:
        self._reading = reading
        self._since_s = self.loop.time()

    def _due_s(self) -> float:
        """When what is being waited for must be there."""
        limits = self.limits
        match self._reading:
            case _Reading.HEAD:
                return self._since_s + limits.head_ms_max / 1000
            case _Reading.BODY:
                return limits.body_due_s(self._since_s, self._body_bytes, self._body_s)
            case _Reading.REST:
                return self._since_s + DISCARD_MS_MAX / 1000
            case _Reading.NOTHING:
                if self._unanswered:
                    return math.inf
                return self._since_s + (self.timeout_keep_alive if self.cycle else limits.head_ms_max / 1000)

    def _arm(self) -> None:
        due_s = self._due_s()
        if due_s == math.inf or (self._timer is not None and self._timer_s <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self.loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._reading is _Reading.BODY and (self.flow.read_paused or self.cycle.waiting_for_100_continue):
            self._since_s = self.loop.time()  # it is we who do not read yet
        if self._due_s() > self.loop.time():
            self._arm()
        elif self._reading in {_Reading.HEAD, _Reading.BODY}:
            self._refuse(Code.REQUEST_TIMEOUT)
        else:
            self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_taken()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._taken()

    def _expect_taken(self) -> None:
        """Drop the connection with all that waits for the client unless it takes it in time."""
        if self._taking is None:
            self._taking = self.loop.call_later(self.limits.write_ms_max / 1000, self.transport.abort)

    def _taken(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _close(self) -> None:
        """Close once the client has taken what was sent."""
        self.transport.close()
        self._expect_taken()

    # Refusing.

    def _refuse(self, code: Code) -> None:
        """Answer as soon as all earlier requests are answered. Nothing more is parsed."""
        if self._refused is not None or self.transport.is_closing():
            return
        self._refused = code
        if self._reading is _Reading.BODY and not self._abandon():
            self._close()
            return
        self._reading = _Reading.NOTHING
        if not self._unanswered:
            self._send_refusal(code)

    def _abandon(self) -> bool:
        """Tell the application that the request whose body is being read will not end. False when it has answered."""
        if self.cycle.response_started:
            return False
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._unanswered -= 1
        return True

    def _send_refusal(self, code: Code) -> None:
        app = cast("Refuser", self.config.app)  # uvicorn may have wrapped what it calls
        self.transport.write(app.refused_unread(code))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._body_bytes = 0
        self._begin(_Reading.REST)
        self._arm()

    def _drop(self, size: int) -> None:
        self._body_bytes += size
        if self._body_bytes > DISCARD_BYTES_MAX:
            self._close()
