"""The ways in which HTTP servers are known to disagree about a request, by raw sockets: each has one answer here.

Every case is a whole request that would be accepted but for the one thing wrong with it, followed on
the same connection by a request that must never be mistaken for a part of it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from schemas.codes import TABLE, Code
from tests.contract.conftest import Sender
from tests.contract.wire import Connection

USABLE = True
CLOSED = False


class Case(NamedTuple):
    """`request` is made of head fields and body; `usable` says whether the connection serves on."""

    name: str
    request: Callable[[Sender], bytes]
    code: Code
    usable: bool


def ingest(*changes: str, drop: tuple[str, ...] = (), body: bytes | None = None) -> Callable[[Sender], bytes]:
    """A sound request with these fields besides, and without the dropped ones."""

    def make(sender: Sender) -> bytes:
        sent = sender.body(event_id="matrix") if body is None else body
        usual = [
            "Host: edge",
            sender.client.credential,
            "Content-Type: application/json",
            f"Content-Length: {len(sent)}",
        ]
        fields = [one for one in usual if one.partition(":")[0].lower() not in drop]
        fields += [change.format(tenant=sender.tenant_id, length=len(sent)) for change in changes]
        return "\r\n".join(["POST /ingest HTTP/1.1", *fields, "", ""]).encode("latin-1") + sent

    return make


def chunked(*fields: str, body: bytes = b"0\r\n\r\n") -> Callable[[Sender], bytes]:
    return ingest(*fields, drop=("content-length",), body=body)


def replaced(old: bytes, new: bytes, make: Callable[[Sender], bytes] | None = None) -> Callable[[Sender], bytes]:
    """A sound request in which these bytes are others."""

    def changed(sender: Sender) -> bytes:
        sound = (make or ingest())(sender)
        assert old in sound
        return sound.replace(old, new)

    return changed


MALFORMED, LARGE, LENGTH = Code.MALFORMED_REQUEST, Code.HEADERS_TOO_LARGE, Code.LENGTH_REQUIRED
TYPE, ABSENT = Code.UNSUPPORTED_MEDIA_TYPE, Code.NOT_FOUND

FRAMING = [
    Case("two different Content-Length", ingest("Content-Length: 5"), MALFORMED, CLOSED),
    Case("two equal Content-Length", ingest("Content-Length: {length}"), MALFORMED, CLOSED),
    Case("a list of equal lengths", ingest("Content-Length: 5, 5", drop=("content-length",)), MALFORMED, CLOSED),
    Case("a signed length", ingest("Content-Length: +5", drop=("content-length",)), MALFORMED, CLOSED),
    Case("a negative length", ingest("Content-Length: -5", drop=("content-length",)), MALFORMED, CLOSED),
    Case("a hexadecimal length", ingest("Content-Length: 0x5", drop=("content-length",)), MALFORMED, CLOSED),
    Case(
        "a length beyond 64 bits",
        ingest("Content-Length: 99999999999999999999", drop=("content-length",)),
        MALFORMED,
        CLOSED,
    ),
    Case("an empty length", ingest("Content-Length:", drop=("content-length",)), MALFORMED, CLOSED),
    Case("Content-Length and chunked", ingest("Transfer-Encoding: chunked"), MALFORMED, CLOSED),
    Case("chunked", chunked("Transfer-Encoding: chunked"), LENGTH, CLOSED),
    Case("chunked twice", chunked("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), MALFORMED, CLOSED),
    Case("chunked, chunked", chunked("Transfer-Encoding: chunked, chunked"), MALFORMED, CLOSED),
    Case("gzip, chunked", chunked("Transfer-Encoding: gzip, chunked"), LENGTH, CLOSED),
    Case("chunked, identity", chunked("Transfer-Encoding: chunked, identity"), MALFORMED, CLOSED),
    Case("an unknown transfer coding", chunked("Transfer-Encoding: xchunked"), LENGTH, CLOSED),
    Case("chunked behind a tab", chunked("Transfer-Encoding:\tchunked"), LENGTH, CLOSED),
    Case("chunked in capitals", chunked("Transfer-Encoding: CHUNKED"), LENGTH, CLOSED),
    Case(
        "a chunk extension of 1 MB",
        chunked("Transfer-Encoding: chunked", body=b"0;" + b"x" * 1_000_000),
        LENGTH,
        CLOSED,
    ),
    Case("a bad chunk size", chunked("Transfer-Encoding: chunked", body=b"zz\r\n\r\n"), LENGTH, CLOSED),
    Case("no length at all", ingest(drop=("content-length",), body=b""), LENGTH, USABLE),
]
LINES = [
    Case("bare line feeds", replaced(b"\r\n", b"\n"), MALFORMED, CLOSED),
    Case("a bare line feed after a field", replaced(b"Host: edge\r\n", b"Host: edge\n"), MALFORMED, CLOSED),
    Case("a bare carriage return in a field", replaced(b"Host: edge", b"Host: ed\rge"), MALFORMED, CLOSED),
    Case("a folded field", replaced(b"Host: edge\r\n", b"Host: edge\r\n folded\r\n"), MALFORMED, CLOSED),
    Case("a space before the colon", replaced(b"Host: edge", b"Host : edge"), MALFORMED, CLOSED),
    Case("a space before the first field", replaced(b"Host: edge", b" Host: edge"), MALFORMED, CLOSED),
    Case("a field without a colon", replaced(b"Host: edge\r\n", b"Host: edge\r\nnonsense\r\n"), MALFORMED, CLOSED),
    Case("a field without a name", replaced(b"Host: edge\r\n", b"Host: edge\r\n: x\r\n"), MALFORMED, CLOSED),
    Case("NUL in a field", replaced(b"Host: edge", b"Host: ed\0ge"), MALFORMED, CLOSED),
    Case("NUL in a name", replaced(b"Host: edge\r\n", b"Host: edge\r\nX-\0: x\r\n"), MALFORMED, CLOSED),
    Case("a method in small letters", replaced(b"POST ", b"post "), MALFORMED, CLOSED),
    Case("an unknown method", replaced(b"POST ", b"TOAST "), MALFORMED, CLOSED),
    Case("HTTP/1.0", replaced(b"HTTP/1.1", b"HTTP/1.0"), MALFORMED, CLOSED),
    Case("HTTP/0.9", replaced(b" HTTP/1.1", b""), MALFORMED, CLOSED),
    Case("HTTP/2", replaced(b"HTTP/1.1", b"HTTP/2.0"), MALFORMED, CLOSED),
    Case("HTTP/1.10", replaced(b"HTTP/1.1", b"HTTP/1.10"), MALFORMED, CLOSED),
    Case("an upgrade", ingest("Connection: Upgrade", "Upgrade: websocket"), MALFORMED, CLOSED),
]
NAMES = [
    Case("two Hosts", ingest("Host: other"), MALFORMED, USABLE),
    Case("two equal Hosts", ingest("Host: edge"), MALFORMED, USABLE),
    Case("no Host", ingest(drop=("host",)), MALFORMED, USABLE),
    Case("an empty Host", ingest("Host:", drop=("host",)), MALFORMED, USABLE),
    Case("two tenants", ingest("X-Tenant-Id: {tenant}", "X-Tenant-Id: other"), MALFORMED, USABLE),
    Case("one tenant twice", ingest("X-Tenant-Id: {tenant}", "x-tenant-id: {tenant}"), MALFORMED, USABLE),
    Case("X_Tenant_Id", ingest("X_Tenant_Id: {tenant}"), MALFORMED, USABLE),
    Case("Content_Length", ingest("Content_Length: 1"), MALFORMED, USABLE),
    Case("two Content-Types", ingest("Content-Type: application/json"), MALFORMED, USABLE),
    Case("two credentials", ingest("Authorization: Bearer other"), MALFORMED, USABLE),
    Case("two Signatures", ingest("Signature: a=:AA==:", "Signature: a=:AA==:"), MALFORMED, USABLE),
    Case("two Signature-Inputs", ingest("Signature-Input: a=()", "Signature-Input: a=()"), MALFORMED, USABLE),
    Case("two Content-Digests", ingest("Content-Digest: a=:AA==:", "Content-Digest: a=:AA==:"), MALFORMED, USABLE),
    Case("two Prefers", ingest("Prefer: wait=1", "Prefer: wait=1"), MALFORMED, USABLE),
    Case("a value that is not ASCII", ingest("X-Filler: \xe9"), MALFORMED, USABLE),
]
SIZES = [
    Case("a field of 100 kB", ingest("X-Filler: " + "x" * 100_000), LARGE, CLOSED),
    Case("a field of 1 MB", ingest("X-Filler: " + "x" * 1_000_000), LARGE, CLOSED),
    Case("a name of 100 kB", ingest("x" * 100_000 + ": x"), LARGE, CLOSED),
    Case("2,000 fields", ingest(*["X-Filler: x"] * 2_000), LARGE, CLOSED),
    Case("65 fields", ingest(*["X-Filler: x"] * 61), LARGE, CLOSED),
    Case("a target of 100 kB", replaced(b"/ingest", b"/ingest?" + b"x" * 100_000), LARGE, CLOSED),
]
BODIES = [
    Case("gzip", ingest("Content-Encoding: gzip"), TYPE, USABLE),
    Case("identity and gzip", ingest("Content-Encoding: identity, gzip"), TYPE, USABLE),
    Case("another media type", ingest("Content-Type: text/plain", drop=("content-type",)), TYPE, USABLE),
    Case(
        "another charset",
        ingest("Content-Type: application/json; charset=utf-16", drop=("content-type",)),
        TYPE,
        USABLE,
    ),
]
PATHS = [
    Case(f"the path {path}", replaced(b"/ingest", path.encode()), ABSENT, USABLE)
    for path in (
        *("//ingest", "/ingest/", "/./ingest", "/x/../ingest", "/%69ngest", "/ingest%2f", "/ingest;x", "/INGEST"),
        *("/ingest%00", "/ingest%20", "/v1/../ingest"),
    )
] + [
    Case("a whole URL", replaced(b"/ingest", b"http://edge/ingest"), MALFORMED, CLOSED),
    Case("another's whole URL", replaced(b"/ingest", b"http://other/ingest"), MALFORMED, CLOSED),
    Case("an asterisk", replaced(b"/ingest", b"*"), MALFORMED, CLOSED),
    Case("a backslash", replaced(b"/ingest", b"\\ingest"), MALFORMED, CLOSED),
    Case("a target with a fragment", replaced(b"/ingest", b"/ingest#x"), MALFORMED, CLOSED),
    Case("a target that is not ASCII", replaced(b"/ingest", b"/ing\xc3\xa9st"), MALFORMED, CLOSED),
]
ALL = [*FRAMING, *LINES, *NAMES, *SIZES, *BODIES, *PATHS]


@pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
async def test_a_dubious_request_has_one_answer_and_hides_no_other(sender: Sender, case: Case) -> None:
    async with await Connection.open(sender.client.port) as connection:
        connection.send(case.request(sender))
        connection.send(sender.client.request("POST", "/ingest", sender.body(event_id="behind")))
        answer = await connection.answer()
        assert (answer.status, answer.code) == (TABLE[case.code].status, case.code)
        if case.usable:
            assert (await connection.answer()).document["event_id"] == "behind"
        else:
            assert answer.headers["connection"] == "close"
            assert await connection.closed()
    stored = [await sent_before(sender, event_id) for event_id in ("matrix", "behind")]
    assert stored == [False, case.usable]


async def sent_before(sender: Sender, event_id: str) -> bool:
    """Whether the event was there before it is sent now."""
    answer = await sender.client.ingest(sender.body(event_id=event_id, source="again"))
    assert answer.status in {202, 422}  # another body under a taken id
    return answer.status == 422


async def test_a_head_and_a_body_that_drip_are_given_up_and_leave_nothing(sender: Sender) -> None:
    """With the times of the real edge: a head has 10 s, a body 5 s and more only as it comes."""
    sound = ingest()(sender)
    begun = sound.index(b"\r\n\r\n") + 4
    for answer in await asyncio.gather(dripped(sender, sound, 5), dripped(sender, sound, begun)):
        assert answer == (TABLE[Code.REQUEST_TIMEOUT].status, Code.REQUEST_TIMEOUT)
    assert not await sent_before(sender, "matrix")


async def dripped(sender: Sender, request: bytes, begun: int) -> tuple[int, str]:
    """The answer to a request of which the beginning comes at once and the rest a byte at a time."""

    async def drip(connection: Connection) -> None:
        for byte in request[begun:]:
            await asyncio.sleep(0.25)
            connection.send(bytes([byte]))

    async with await Connection.open(sender.client.port) as connection:
        connection.send(request[:begun])
        dripping = asyncio.create_task(drip(connection))
        answer = await connection.answer()
        dripping.cancel()
        assert await connection.closed()
        return answer.status, answer.code
