"""The admin ports' HTTP server."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from ops.admin_http import CONNECTIONS_MAX, REQUEST_BYTES_MAX, AdminServer, Answer, fetch

HOST = "127.0.0.1"


async def _hello() -> Answer:
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "application/json", b'{"ready":false}')


@pytest.fixture
async def server() -> AsyncIterator[AdminServer]:
    admin = AdminServer(HOST, 0, {"/readyz": _hello})
    await admin.start()
    yield admin
    await admin.stop()


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_route_answers_with_its_status_type_and_body(server: AdminServer) -> None:
    assert await fetch(HOST, server.port, "/readyz?verbose", 5) == await _hello()


async def test_head_has_the_length_but_no_body(server: AdminServer) -> None:
    answer = await exchange(server.port, b"HEAD /readyz HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 15\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /other HTTP/1.1", 404),
        (b"POST /readyz HTTP/1.1", 405),
        (b"nonsense", 400),
        (b"GET /readyz HTTP/1.1\r\nX: " + b"x" * REQUEST_BYTES_MAX, 431),
    ],
)
async def test_anything_else_is_refused_and_the_connection_closed(
    server: AdminServer, request_line: bytes, status: int
) -> None:
    answer = await exchange(server.port, request_line + b"\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_connections_beyond_the_limit_are_closed_and_the_rest_still_answered(server: AdminServer) -> None:
    idle = [await asyncio.open_connection(HOST, server.port) for _ in range(CONNECTIONS_MAX)]
    with pytest.raises(OSError):
        await fetch(HOST, server.port, "/readyz", 5)
    idle[0][1].write(b"GET /readyz HTTP/1.1\r\n\r\n")
    assert (await idle[0][0].read()).startswith(b"HTTP/1.1 503 ")
    for _reader, writer in idle:
        writer.close()


async def test_a_port_in_use_is_an_error_at_start(server: AdminServer) -> None:
    with pytest.raises(OSError, match="in use"):
        await AdminServer(HOST, server.port, {}).start()


async def test_nothing_listens_after_stop() -> None:
    admin = AdminServer(HOST, 0, {"/readyz": _hello})
    port = await admin.start()
    _reader, idle = await asyncio.open_connection(HOST, port)
    await admin.stop()
    with pytest.raises(OSError):
        await fetch(HOST, port, "/readyz", 5)
    idle.close()
