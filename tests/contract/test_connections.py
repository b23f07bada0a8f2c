"""The edge's protocol alone: what it refuses while a request is still being read, and when it gives up waiting.

The times of these connections are a fraction of the real ones; what happens when they are over is the same.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from edge.connection import ConnectionLimits, refusal_bytes
from edge.protocol import EdgeProtocol
from edge.transport import Receive, Request, Response, Scope, Send, respond
from schemas.codes import TABLE, Code
from tests.contract.serving import served
from tests.contract.wire import Answer, Connection, head

BLINK = ConnectionLimits(head_ms_max=150, body_ms_free=150, body_bytes_per_s_min=1_000_000_000)


class Quick(EdgeProtocol):
    """Waits a blink only."""

    limits = BLINK


class Application:
    """Answers with the size of the body, once `ready` says so; knows what it was told."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()
        self.read = asyncio.Event()
        self.bodies: list[bytes] = []
        self.gone = 0
        self.refused: list[Code] = []
        self.uris: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.uris = scope["extensions"]["frostgate"]["client_uris"]
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        self.read.set()
        await self.ready.wait()
        answer = b"%d" % len(body)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
        )
        await send({"type": "http.response.body", "body": answer})

    def refused_unread(self, code: Code) -> bytes:
        self.refused.append(code)
        return refusal_bytes(code, "request-1")


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
async def port(app: Application) -> AsyncIterator[int]:
    async with served(app) as port:
        yield port


@pytest.fixture
async def quick_port(app: Application) -> AsyncIterator[int]:
    async with served(app, Quick) as port:
        yield port


def opened(port: int) -> Any:
    class _Opened(AbstractAsyncContextManager[Connection]):
        async def __aenter__(self) -> Connection:
            self.connection = await Connection.open(port)
            return self.connection

        async def __aexit__(self, *_: object) -> None:
            self.connection.close()

    return _Opened()


def post(body: bytes, *fields: str) -> bytes:
    return head("POST", "/", f"Content-Length: {len(body)}", *fields) + body


async def refused(connection: Connection, code: Code) -> Answer:
    """Return the refusal, after which nothing comes."""
    answer = await connection.answer()
    assert (answer.status, answer.code) == (TABLE[code].status, code)
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"] == "request-1"
    assert await connection.closed()
    return answer


async def test_a_connection_serves_one_request_after_another(port: int) -> None:
    async with opened(port) as connection:
        for size in (0, 1, 100_000, 3):
            connection.send(post(b"x" * size))
            assert (await connection.answer()).body == b"%d" % size


async def test_a_head_without_end_is_refused_while_it_comes(app: Application, port: int) -> None:
    async with opened(port) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: edge\r\nX-Filler: " + b"x" * 100_000)
        await refused(connection, Code.HEADERS_TOO_LARGE)
    assert app.refused == [Code.HEADERS_TOO_LARGE]


@pytest.mark.parametrize("size", [25_000, 1_000_000])
async def test_a_sender_that_sends_a_huge_head_first_still_reads_the_refusal(port: int, size: int) -> None:
    async with opened(port) as connection:
        connection.send(head("GET", "/", "X-Filler: " + "x" * size))
        await connection.flush()
        await refused(connection, Code.HEADERS_TOO_LARGE)


@pytest.mark.parametrize("number", [63, 64])
async def test_the_number_of_fields_is_bounded(port: int, number: int) -> None:
    async with opened(port) as connection:
        connection.send(head("GET", "/", *["X-Filler: x"] * number))  # and Host
        if number < 64:
            assert (await connection.answer()).status == 200
        else:
            await refused(connection, Code.HEADERS_TOO_LARGE)


async def test_fields_count_together_to_the_byte(port: int) -> None:
    room = 16 * 1024 - len("Host: edge\r\n") - len("X-A: \r\n") - len("X-B: \r\n")
    for surplus in (0, 1):
        async with opened(port) as connection:
            connection.send(head("GET", "/", "X-A: " + "a" * (room // 2), "X-B: " + "b" * (room - room // 2 + surplus)))
            if surplus:
                await refused(connection, Code.HEADERS_TOO_LARGE)
            else:
                assert (await connection.answer()).status == 200


async def test_a_target_is_bounded(port: int) -> None:
    async with opened(port) as connection:
        connection.send(head("GET", "/" + "x" * 5_000))
        await refused(connection, Code.HEADERS_TOO_LARGE)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"\x16\x03\x01\x00\xa5\x01\x00",
    ],
)
async def test_whatever_is_not_a_request_of_ours_is_malformed(
    app: Application, port: int, request_bytes: bytes
) -> None:
    async with opened(port) as connection:
        connection.send(request_bytes)
        await refused(connection, Code.MALFORMED_REQUEST)
    assert app.bodies == []


async def test_no_transfer_encoding_is_read(app: Application, port: int) -> None:
    async with opened(port) as connection:
        connection.send(head("POST", "/", "Transfer-Encoding: chunked") + b"1;" + b"x" * 1_000_000)
        await refused(connection, Code.LENGTH_REQUIRED)
    assert app.bodies == []


async def test_a_refusal_waits_for_the_answers_before_it(app: Application, port: int) -> None:
    app.ready.clear()
    async with opened(port) as connection:
        connection.send(post(b"a") + post(b"bb") + b"nonsense\r\n\r\n")
        await app.read.wait()
        app.ready.set()
        assert [(await connection.answer()).body for _ in range(2)] == [b"1", b"2"]
        await refused(connection, Code.MALFORMED_REQUEST)


async def test_requests_that_wait_on_one_connection_are_bounded(app: Application, port: int) -> None:
    app.ready.clear()
    async with opened(port) as connection:
        connection.send(post(b"a") * 1_000)
        await app.read.wait()
        app.ready.set()
        answers = [(await connection.answer()).status for _ in range(EdgeProtocol.limits.pipelined_max + 1)]
        assert set(answers) == {200}
        await refused(connection, Code.MALFORMED_REQUEST)


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: edge\r\nX-Fil"])
async def test_a_head_that_does_not_end_in_time_is_refused(app: Application, quick_port: int, begun: bytes) -> None:
    async with opened(quick_port) as connection:
        connection.send(post(b"first"))
        assert (await connection.answer()).status == 200
        connection.send(begun)
        answer = await refused(connection, Code.REQUEST_TIMEOUT)
        assert answer.headers["retry-after"] == "1"
    assert app.refused == [Code.REQUEST_TIMEOUT]


async def test_dripping_does_not_prolong_a_head(quick_port: int) -> None:
    async with opened(quick_port) as connection:
        dripping = asyncio.create_task(drip(connection, head("GET", "/", "X-Filler: " + "x" * 10_000)))
        await refused(connection, Code.REQUEST_TIMEOUT)
        dripping.cancel()


async def drip(connection: Connection, data: bytes) -> None:
    for byte in data:
        connection.send(bytes([byte]))
        await asyncio.sleep(0.02)


async def test_a_connection_that_never_sends_anything_is_closed(app: Application, quick_port: int) -> None:
    async with opened(quick_port) as connection:
        assert await connection.closed()
    assert app.refused == []


async def test_a_body_that_drips_is_refused_and_the_application_told(app: Application, quick_port: int) -> None:
    async with opened(quick_port) as connection:
        connection.send(head("POST", "/", "Content-Length: 10000"))
        dripping = asyncio.create_task(drip(connection, b"x" * 10_000))
        await refused(connection, Code.REQUEST_TIMEOUT)
        dripping.cancel()
    assert (app.gone, app.bodies, app.refused) == (1, [], [Code.REQUEST_TIMEOUT])


class Slow(EdgeProtocol):
    """A body has a moment only, and longer while it comes at 10 B/s."""

    limits = ConnectionLimits(body_ms_free=500, body_bytes_per_s_min=10)


async def test_a_body_that_comes_fast_enough_has_longer(app: Application) -> None:
    async with served(app, Slow) as port, opened(port) as connection:
        connection.send(head("POST", "/", "Content-Length: 50"))
        await drip(connection, b"x" * 50)  # a second, at 50 B/s
        assert (await connection.answer()).body == b"50"


class Listening(EdgeProtocol):
    """A body may be silent for a blink only."""

    limits = ConnectionLimits(body_bytes_per_s_min=1, body_ms_silent=150)


class Strict(EdgeProtocol):
    """A body may not take longer than a moment."""

    limits = ConnectionLimits(body_bytes_per_s_min=1, body_ms_max=600)


async def test_a_sender_that_falls_silent_in_a_body_is_refused_whatever_it_sent_before(app: Application) -> None:
    async with served(app, Listening) as port, opened(port) as connection:
        connection.send(post(b"x" * 100_000)[:-1])
        await refused(connection, Code.REQUEST_TIMEOUT)
    assert (app.gone, app.bodies) == (1, [])


async def test_a_body_has_a_fixed_time_at_most_however_fast_it_comes(app: Application) -> None:
    async with served(app, Strict) as port, opened(port) as connection:
        connection.send(head("POST", "/", "Content-Length: 100000"))
        dripping = asyncio.create_task(drip(connection, b"x" * 100_000))
        await refused(connection, Code.REQUEST_TIMEOUT)
        dripping.cancel()
    assert (app.gone, app.bodies) == (1, [])


class Impatient(EdgeProtocol):
    """Whoever does not read has a blink."""

    limits = ConnectionLimits(head_ms_max=150, write_ms_max=150)


class Talkative(Application):
    """Answers with more than any socket takes unread, and says when the connection is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.done = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request("", b"/", b"", "request-1", dict(scope["headers"]), receive, 0.0)
        await request.body()
        await respond(request, Response(200, b"text/plain", b"x" * 32_000_000), send)
        self.done.set()


async def unreading(port: int) -> Connection:
    """Takes no more than a few bytes before it is asked for them."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port, limit=1024))


@pytest.mark.parametrize("fields", [[], ["Connection: close"]])
async def test_a_client_that_does_not_read_its_answer_is_dropped(fields: list[str]) -> None:
    app = Talkative()
    async with served(app, Impatient) as port, await unreading(port) as connection:
        connection.send(post(b"a", *fields))
        async with asyncio.timeout(20):
            await app.done.wait()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await connection.answer()


async def test_a_client_that_reads_gets_the_whole_of_a_long_answer() -> None:
    app = Talkative()
    async with served(app, Impatient) as port, opened(port) as connection:
        connection.send(post(b"a"))
        assert len((await connection.answer()).body) == 32_000_000
        connection.send(post(b"a"))
        assert (await connection.answer()).status == 200, "the connection serves on"


async def test_closing_does_not_wait_for_a_client_that_does_not_read() -> None:
    class Closing(Impatient):
        """Never pauses writing; `lost` says that the connection is gone."""

        lost = asyncio.Event()

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            transport.set_write_buffer_limits(1_000_000_000)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.lost.set()

    async with served(Talkative(), Closing, keep_alive_s=1) as port, await unreading(port) as connection:
        connection.send(post(b"a"))
        async with asyncio.timeout(20):
            await Closing.lost.wait()


async def test_a_request_that_waits_for_its_answer_has_no_deadline(app: Application, quick_port: int) -> None:
    app.ready.clear()
    async with opened(quick_port) as slow, opened(quick_port) as idle:
        slow.send(post(b"a"))
        assert await idle.closed()  # the head's time is over by now, and the body's
        app.ready.set()
        assert (await slow.answer()).body == b"1"


async def test_whoever_waits_for_100_continue_has_time_from_then_on() -> None:
    app = Hesitant()
    async with served(app, Quick) as port, opened(port) as waiting, opened(port) as idle:
        waiting.send(head("POST", "/", "Content-Length: 1", "Expect: 100-continue"))
        assert await idle.closed()
        app.asked.set()
        assert await waiting.interim() == 100
        waiting.send(b"x")
        assert (await waiting.answer()).body == b"1"


class Hesitant(Application):
    """Does not ask for a body before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.asked.wait()
        await super().__call__(scope, receive, send)


async def test_an_idle_connection_is_kept_for_the_keep_alive_time_and_no_longer(app: Application) -> None:
    async with served(app, Quick, keep_alive_s=1) as port, opened(port) as served_once, opened(port) as never_used:
        served_once.send(post(b"a"))
        assert (await served_once.answer()).status == 200
        assert await never_used.closed()
        served_once.send(post(b"bb"))
        assert (await served_once.answer()).body == b"2"
        assert await served_once.closed()
    assert app.refused == []


async def test_a_connection_without_tls_shows_no_certificate(app: Application, port: int) -> None:
    async with opened(port) as connection:
        connection.send(post(b""))
        await connection.answer()
    assert app.uris == ()
