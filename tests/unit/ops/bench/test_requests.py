"""The load generator's requests are whole, valid, and never the same event twice."""

import msgspec
import pytest

from ops.bench.requests import RequestMaker, Sender
from schemas.ids import UUID7, is_event_id
from schemas.units import UnixMs


class StillClock:
    def now_ms(self) -> UnixMs:
        return UnixMs(1_760_000_000_000)


def _maker(lines: int) -> RequestMaker:
    return RequestMaker(Sender("bench-001", "fgk_key"), lines, "single", StillClock())


def _split(request: bytes) -> tuple[list[str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


@pytest.mark.parametrize("lines", [0, 1, 100])
@pytest.mark.parametrize("first", [0, 123_456_789_012])
def test_a_request_is_exactly_as_long_as_it_says(lines: int, first: int) -> None:
    head, body = _split(_maker(lines).request(first))
    assert f"Content-Length: {len(body)}" in head


def test_a_single_event_has_valid_identifiers() -> None:
    head, body = _split(_maker(0).request(7))
    event = msgspec.json.decode(body)
    assert head[0] == "POST /ingest HTTP/1.1"
    assert "Authorization: Bearer fgk_key" in head
    assert event["tenant_id"] == "bench-001"
    assert is_event_id(event["event_id"])
    assert UUID7.fullmatch(event["trace_id"])


def test_the_events_of_all_requests_are_different() -> None:
    maker = _maker(100)
    events = [
        event
        for number in range(3)
        for event in map(msgspec.json.decode, _split(maker.request(100 * number))[1].splitlines())
    ]
    assert len({event["event_id"] for event in events}) == 300
    assert len({event["trace_id"] for event in events}) == 300


def test_a_key_is_in_no_representation_of_its_request_maker() -> None:
    assert "fgk_key" not in repr(_maker(0))
