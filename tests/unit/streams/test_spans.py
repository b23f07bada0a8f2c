"""The spans that are decided, hashed and signed with an event."""

import msgspec

from schemas.canonical import canonical_plain
from schemas.decision import Span
from schemas.envelope import AcceptedEvent, DecideTask
from streams.spans import spans_of

RECEIVED_US = 1_769_904_000_000_000
PHASES = (RECEIVED_US + 400, RECEIVED_US + 450, RECEIVED_US + 900, RECEIVED_US + 910)


def _task(event_id: str = "e1", **more: int) -> DecideTask:
    accepted = AcceptedEvent(
        *("acme", event_id, "trace", "request", "agent", "2026-02-01T00:00:00.000Z", "00f067aa0ba902b7", "sha"),
        msgspec.Raw(b"{}"),
    )
    return DecideTask("FG_INGEST_0", 1, accepted, **more)


def _timed() -> DecideTask:
    return _task(dedupe_start_us=RECEIVED_US + 100, dedupe_end_us=RECEIVED_US + 300)


def test_each_step_is_the_parent_of_the_next_and_the_edge_names_the_first() -> None:
    spans = spans_of(_timed(), PHASES)
    assert [span.name for span in spans] == ["ingest", "dedupe", "features", "policy", "scoring"]
    assert spans[0] == Span(RECEIVED_US + 100, "ingest", "", "00f067aa0ba902b7", RECEIVED_US)
    assert [span.parent_span_id for span in spans[1:]] == [span.span_id for span in spans[:-1]]
    assert all(len(span.span_id) == 16 and int(span.span_id, 16) for span in spans)


def test_deciding_again_makes_the_same_ids_and_another_event_others() -> None:
    first = {span.span_id for span in spans_of(_timed(), PHASES)}
    assert first == {span.span_id for span in spans_of(_timed(), PHASES)}
    assert first & {span.span_id for span in spans_of(_task("e2"), PHASES)} == {"00f067aa0ba902b7"}


def test_they_are_sorted_by_start_and_id_whatever_the_clocks_say() -> None:
    behind = _task(dedupe_start_us=RECEIVED_US - 5_000, dedupe_end_us=RECEIVED_US - 6_000)
    spans = spans_of(behind, PHASES)
    assert list(spans) == sorted(spans, key=lambda span: (span.start_us, span.span_id))
    assert spans[0].name == "dedupe"
    assert all(span.end_us >= span.start_us for span in spans)


def test_an_event_of_a_worker_that_did_not_time_dedupe_goes_straight_to_the_phases() -> None:
    spans = spans_of(_task(), PHASES)
    assert [span.name for span in spans] == ["ingest", "features", "policy", "scoring"]
    assert spans[0].end_us == spans[1].start_us


def test_a_span_is_five_members_in_canonical_order() -> None:
    assert canonical_plain(spans_of(_timed(), PHASES)[0]) == (
        b'{"end_us":1769904000000100,"name":"ingest","parent_span_id":"","span_id":"00f067aa0ba902b7",'
        b'"start_us":1769904000000000}'
    )
