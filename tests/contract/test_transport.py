"""Bytes on the wire: framing, limits, and that a connection stays usable after every refusal but one."""

import asyncio

import pytest

from schemas.codes import TABLE, Code
from tests.contract.conftest import Sender
from tests.contract.running import Edge
from tests.contract.wire import Client, Connection, head

LENGTH = "Content-Length: 2"
TYPE = "Content-Type: application/json"


async def proves_usable(connection: Connection, sender: Sender) -> None:
    connection.send(sender.client.request("POST", "/ingest", sender.body(event_id="afterwards")))
    assert (await connection.answer()).status == 202


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([TYPE, LENGTH, "X-Tenant-Id: a", "X-Tenant-Id: a"], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "X_Tenant_Id: a"], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "X-Event-Id: \xe9"], Code.MALFORMED_REQUEST),
        ([TYPE, TYPE, LENGTH], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "Host: a", "Host: b"], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "Authorization: Bearer x"], Code.MALFORMED_REQUEST),
        ([LENGTH], Code.UNSUPPORTED_MEDIA_TYPE),
        ([LENGTH, "Content-Type: text/plain"], Code.UNSUPPORTED_MEDIA_TYPE),
        ([LENGTH, "Content-Type: application/x-ndjson"], Code.UNSUPPORTED_MEDIA_TYPE),
        ([TYPE, LENGTH, "Content-Encoding: gzip"], Code.UNSUPPORTED_MEDIA_TYPE),
        ([TYPE, LENGTH, "Prefer: wait=1", "Prefer: wait=2"], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "Signature: a=:AA==:", "Signature: b=:AA==:"], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "Signature-Input: a=()", "Signature-Input: b=()"], Code.MALFORMED_REQUEST),
        ([TYPE, LENGTH, "Content-Digest: a=:AA==:", "Content-Digest: a=:AA==:"], Code.MALFORMED_REQUEST),
    ],
)
async def test_a_refused_head_leaves_the_connection_usable(sender: Sender, fields: list[str], code: Code) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(head("POST", "/ingest", sender.client.credential, *fields) + b"{}")
        answer = await connection.answer()
        assert (answer.status, answer.code) == (TABLE[code].status, code)
        assert answer.headers["x-request-id"]
        await proves_usable(connection, sender)


@pytest.mark.parametrize("fields", [["X-Filler: " + "x" * 17_000], ["X-Filler: x"] * 70])
async def test_too_large_a_head_is_refused_and_the_connection_closed(sender: Sender, fields: list[str]) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(head("POST", "/ingest", sender.client.credential, TYPE, LENGTH, *fields) + b"{}")
        answer = await connection.answer()
        assert (answer.status, answer.code) == (431, "HEADERS_TOO_LARGE")
        assert await connection.closed()


@pytest.mark.parametrize("sent", [b"2\r\n{}\r\n0\r\n\r\n", b"10000\r\n" + b" " * 65_536 + b"\r\n0\r\n\r\n"])
@pytest.mark.parametrize("encoding", ["chunked", "gzip, chunked"])
async def test_a_body_of_unknown_length_is_refused_and_the_connection_closed(
    sender: Sender, encoding: str, sent: bytes
) -> None:
    async with await Connection.open(sender.client.port) as connection:
        fields = [sender.client.credential, TYPE, f"Transfer-Encoding: {encoding}"]
        connection.send(head("POST", "/ingest", *fields) + sent)
        answer = await connection.answer()
        assert (answer.status, answer.code) == (411, "LENGTH_REQUIRED")
        assert await connection.closed()


async def test_a_post_without_any_length_is_refused(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(head("POST", "/ingest", sender.client.credential, TYPE))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (411, "LENGTH_REQUIRED")
        await proves_usable(connection, sender)


@pytest.mark.parametrize("authorization", ["Authorization: Bearer wrong", "Authorization: none"])
async def test_a_refused_credential_leaves_the_connection_usable(sender: Sender, authorization: str) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("POST", "/ingest", b" " * 80_000, authorization))
        assert (await connection.answer()).status == 401
        await proves_usable(connection, sender)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"a":1,"a":2}'])
async def test_a_refused_body_leaves_the_connection_usable(sender: Sender, body: bytes) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("POST", "/ingest", body))
        assert (await connection.answer()).status == 400
        await proves_usable(connection, sender)


async def test_pipelined_requests_are_answered_in_order(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        for body in (sender.body(event_id="a"), b"{}", sender.body(event_id="b")):
            connection.send(sender.client.request("POST", "/ingest", body))
        answers = [await connection.answer() for _ in range(3)]
        assert [answer.status for answer in answers] == [202, 400, 202]
        assert [answers[0].document["event_id"], answers[2].document["event_id"]] == ["a", "b"]


async def test_a_body_sent_byte_by_byte_is_read_whole(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        for byte in sender.client.request("POST", "/ingest", sender.body()):
            connection.send(bytes([byte]))
            await connection.flush()
        assert (await connection.answer()).status == 202


async def test_the_largest_body_is_read_and_a_byte_more_is_refused(sender: Sender, edge: Edge) -> None:
    limit = edge.settings.body_bytes_max
    body = sender.body()
    assert (await sender.client.ingest(body + b" " * (limit - len(body)))).status == 202
    answer = await sender.client.ingest(body + b" " * (limit - len(body) + 1))
    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_body_too_large_is_refused_before_it_is_sent_and_the_answer_survives_the_sending(
    sender: Sender,
) -> None:
    size = 4 * 1024 * 1024
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("POST", "/ingest", b"", f"Content-Length: {size}"))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
        assert answer.headers["connection"] == "close"
        connection.send(b" " * size)
        await connection.flush()
        assert await connection.closed()


async def test_a_sender_that_sends_everything_first_still_reads_the_refusal(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("POST", "/ingest", b" " * 2 * 1024 * 1024))
        await connection.flush()
        assert (await connection.answer()).status == 413
        assert await connection.closed()


async def test_what_is_announced_without_end_is_not_waited_for_without_end(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("POST", "/ingest", b"", "Content-Length: 999999999999"))
        assert (await connection.answer()).status == 413
        assert await connection.closed()


async def test_a_batch_too_large_is_refused_whole(sender: Sender, edge: Edge) -> None:
    size = edge.settings.batch_bytes_max
    answer = await sender.client.ask("POST", "/ingest/batch", b"", f"Content-Length: {size + 1}")
    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("body", [b"", b" "])
async def test_a_batch_without_lines_is_malformed(sender: Sender, body: bytes) -> None:
    assert (await sender.client.ask("POST", "/ingest/batch", body)).code == "MALFORMED_REQUEST"


async def test_a_body_shorter_than_announced_has_no_effect(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        body = sender.body()
        connection.send(sender.client.request("POST", "/ingest", body, f"Content-Length: {len(body) + 1}"))
        await connection.flush()
    answer = await sender.client.ingest(body)
    assert answer.status == 202
    assert "idempotency-replayed" not in answer.headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /ingest HTTP/1.1\r\nHost : a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /ingest HTTP/1.1\r\nHost: a\r\n folded: b\r\nContent-Length: 2\r\n\r\n{}",
        b"nonsense\r\n\r\n",
    ],
)
async def test_ambiguous_framing_is_refused_and_the_connection_closed(edge: Edge, request_bytes: bytes) -> None:
    async with await Connection.open(edge.port) as connection:
        connection.send(request_bytes)
        assert (await connection.answer()).code == "MALFORMED_REQUEST"
        assert await connection.closed()


async def test_an_old_protocol_without_host_is_malformed(edge: Edge) -> None:
    async with await Connection.open(edge.port) as connection:
        connection.send(b"GET /livez HTTP/1.0\r\n\r\n")
        assert (await connection.answer()).code == "MALFORMED_REQUEST"


@pytest.mark.parametrize("path", ["/", "/ingest/", "//ingest", "/%69ngest", "/ingest/../ingest", "/v1", "/metrics"])
async def test_only_exact_paths_exist(sender: Sender, path: str) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("POST", path, sender.body()))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (404, "NOT_FOUND")
        await proves_usable(connection, sender)


async def test_a_wrong_method_is_told_the_right_one(sender: Sender) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(sender.client.request("PUT", "/ingest", b"{}", LENGTH))
        answer = await connection.answer()
        assert (answer.status, answer.code, answer.headers["allow"]) == (405, "METHOD_NOT_ALLOWED", "POST")
        await proves_usable(connection, sender)


async def test_whoever_waits_for_100_continue_is_told_to_send_or_why_not(sender: Sender) -> None:
    body = sender.body()
    async with await Connection.open(sender.client.port) as connection:
        fields = ["Expect: 100-continue", f"Content-Length: {len(body)}"]
        connection.send(sender.client.request("POST", "/ingest", b"", *fields))
        connection.send(body)
        await connection.flush()
        assert await connection.interim() == 100
        assert (await connection.answer()).status == 202
    answer = await sender.client.ingest(b"", "Expect: 100-continue", "Content-Length: 99999999")
    assert answer.status == 413


async def test_hundreds_of_broken_requests_at_once_disturb_nobody(sender: Sender, edge: Edge) -> None:
    hostile = Client(edge.port, "wrong")
    bodies = [b"{" * 1_000, b"\x00", b"[" * 70_000, b'{"a":' * 5_000]
    broken = [hostile.ingest(bodies[number % 4]) for number in range(100)]
    broken += [sender.client.ingest(bodies[number % 4]) for number in range(100)]
    good = [sender.client.ingest(sender.body(event_id=f"good-{number}")) for number in range(50)]
    answers = await asyncio.gather(*broken, *good)
    assert {answer.status for answer in answers[:100]} == {401}
    assert {answer.status for answer in answers[100:200]} == {400}
    assert {answer.status for answer in answers[200:]} == {202}
