"""The spans of a bundle's artifacts: one line an entry, and what is told of all of them."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import msgspec

from schemas.canonical import canonical_plain
from schemas.decision import Span
from sinks.bundle_source import Kept

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TraceBundle(TypedDict):
    """`trace_bundle` of a manifest."""

    first_span_at: str
    last_span_at: str
    span_count: int
    spans_sha256: str


class _Raw(msgspec.Struct):
    """What an artifact says of its spans, as bytes: it is canonical, and so are they."""

    spans: msgspec.Raw = msgspec.Raw(b"[]")


_raw = msgspec.json.Decoder(_Raw)
_spans = msgspec.json.Decoder(tuple[Span, ...])


class Traces:
    """Takes every artifact once, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._first_us: int | None = None
        self._last_us = 0
        self._count = 0
        self.bytes = 0

    def line(self, kept: Kept) -> bytes:
        """The line of `traces.jsonl`."""
        raw = _raw.decode(kept.artifact).spans
        spans = _spans.decode(raw)
        if spans:
            start_us = min(span.start_us for span in spans)
            self._first_us = start_us if self._first_us is None else min(start_us, self._first_us)
            self._last_us = max(self._last_us, *(span.end_us for span in spans))
        self._count += len(spans)
        entry = kept.entry
        told = {"event_id": entry.event_id, "seq": entry.seq, "spans": raw, "trace_id": entry.trace_id}
        line = canonical_plain(told) + b"\n"
        self._hash.update(line)
        self.bytes += len(line)
        return line

    @property
    def bundle(self) -> TraceBundle:
        """What was taken so far, in sum."""
        found = self._first_us is not None
        return TraceBundle(
            first_span_at=_rfc3339_us(self._first_us) if self._first_us is not None else "",
            last_span_at=_rfc3339_us(self._last_us) if found else "",
            span_count=self._count,
            spans_sha256=self._hash.hexdigest(),
        )


def _rfc3339_us(moment_us: int) -> str:
    moment = _EPOCH + timedelta(microseconds=moment_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
