"""The head of a request: limits, repetition, framing, and agreement with the envelope."""

import pytest

from edge.headers import AT_MOST_ONCE, conflicts, parent_trace, read_fields, refused_body, traceparent
from edge.settings import EdgeSettings
from schemas.codes import Code
from tests.unit.edge.conftest import TRACE_ID

HOST = (b"host", b"edge")
PARENT = f"00-{TRACE_ID.replace('-', '')}-b7ad6b7169203331-03"
JSON = b"application/json"


def framed(**changes: bytes | None) -> dict[bytes, bytes]:
    fields = {"content-length": b"2", "content-type": JSON} | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    return {name.encode(): value for name, value in fields.items() if value is not None}


def test_fields_are_read_by_name(settings: EdgeSettings) -> None:
    assert read_fields([HOST, (b"accept", b"*/*")], settings) == {b"host": b"edge", b"accept": b"*/*"}


@pytest.mark.parametrize("name", sorted(AT_MOST_ONCE))
def test_a_field_that_decides_something_may_come_only_once(settings: EdgeSettings, name: bytes) -> None:
    twice = [HOST, (name, b"a"), (name, b"a")]
    assert read_fields(twice, settings) is Code.MALFORMED_REQUEST


def test_other_fields_may_be_repeated(settings: EdgeSettings) -> None:
    assert isinstance(read_fields([HOST, (b"accept", b"a"), (b"accept", b"b")], settings), dict)


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [(b"host", b"")],
        [HOST, (b"x_tenant_id", b"acme")],
        [HOST, (b"x-trace-id", b"\xc3\xa9")],
        [HOST, (b"x-any", b"\xff")],
    ],
)
def test_a_head_two_readers_could_read_differently_is_malformed(
    settings: EdgeSettings, raw: list[tuple[bytes, bytes]]
) -> None:
    assert read_fields(raw, settings) is Code.MALFORMED_REQUEST


def test_the_head_has_a_greatest_size_and_number_of_fields(settings: EdgeSettings) -> None:
    used = sum(map(len, HOST)) + 4 + len(b"x") + 4
    fits = [HOST, (b"x", b"a" * (settings.header_bytes_max - used))]
    assert isinstance(read_fields(fits, settings), dict)
    assert read_fields([HOST, (b"x", fits[1][1] + b"a")], settings) is Code.HEADERS_TOO_LARGE
    many = [HOST, *[(b"x", b"")] * (settings.header_count_max - 1)]
    assert isinstance(read_fields(many, settings), dict)
    assert read_fields([*many, (b"x", b"")], settings) is Code.HEADERS_TOO_LARGE


@pytest.mark.parametrize("content_type", [JSON, b"Application/JSON", b"application/json; charset=UTF-8", JSON + b" ;"])
def test_json_in_utf8_is_welcome(content_type: bytes) -> None:
    assert refused_body(framed(content_type=content_type), JSON, 10) is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (framed(content_length=None), Code.LENGTH_REQUIRED),
        (framed(transfer_encoding=b"chunked"), Code.LENGTH_REQUIRED),
        (framed(content_length=b""), Code.MALFORMED_REQUEST),
        (framed(content_length=b"+2"), Code.MALFORMED_REQUEST),
        (framed(content_length=b"2, 2"), Code.MALFORMED_REQUEST),
        (framed(content_length=b"11"), Code.PAYLOAD_TOO_LARGE),
        (framed(content_length=b"9" * 5_000), Code.PAYLOAD_TOO_LARGE),
        (framed(content_encoding=b"gzip"), Code.UNSUPPORTED_MEDIA_TYPE),
        (framed(content_type=None), Code.UNSUPPORTED_MEDIA_TYPE),
        (framed(content_type=b"text/plain"), Code.UNSUPPORTED_MEDIA_TYPE),
        (framed(content_type=b"application/json; charset=latin-1"), Code.UNSUPPORTED_MEDIA_TYPE),
    ],
)
def test_a_body_is_refused_by_its_announcement(fields: dict[bytes, bytes], code: Code) -> None:
    assert refused_body(fields, JSON, 10) is code


def found(**fields: str) -> list[Code]:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    return [one.error_code for one in conflicts(named, TRACE_ID, "evt-1")]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"x_trace_id": TRACE_ID, "traceparent": PARENT, "x_event_id": "evt-1", "idempotency_key": '"evt-1"'},
        {"idempotency_key": "evt-1"},
        {"traceparent": "garbage"},
        {"traceparent": PARENT[:-3]},
        {"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"},
        {"traceparent": f"00-{'a' * 32}-{'0' * 16}-01"},
        {"traceparent": f"ff-{'a' * 32}-b7ad6b7169203331-01"},
    ],
)
def test_headers_that_agree_or_say_nothing_pass(fields: dict[str, str]) -> None:
    assert found(**fields) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"x_trace_id": TRACE_ID[:-1] + "3"}, Code.TRACE_ID_CONFLICT),
        ({"x_trace_id": ""}, Code.TRACE_ID_CONFLICT),
        ({"traceparent": f"00-{'a' * 32}-b7ad6b7169203331-01"}, Code.TRACE_ID_CONFLICT),
        ({"x_event_id": "evt-2"}, Code.EVENT_ID_CONFLICT),
        ({"idempotency_key": '"evt-2"'}, Code.IDEMPOTENCY_KEY_CONFLICT),
        ({"idempotency_key": '"evt-1'}, Code.IDEMPOTENCY_KEY_CONFLICT),
    ],
)
def test_headers_that_disagree_are_conflicts(fields: dict[str, str], code: Code) -> None:
    assert found(**fields) == [code]


def test_all_conflicts_are_listed() -> None:
    assert found(x_trace_id="x", x_event_id="x", idempotency_key="x") == [
        Code.TRACE_ID_CONFLICT,
        Code.EVENT_ID_CONFLICT,
        Code.IDEMPOTENCY_KEY_CONFLICT,
    ]


def test_our_traceparent_is_a_valid_one_of_the_same_trace() -> None:
    ours = traceparent(TRACE_ID, "b7ad6b7169203331", "03")
    assert ours == PARENT
    assert parent_trace({b"traceparent": ours.encode()}) == (TRACE_ID.replace("-", ""), "03")
