"""The spans of an event: what each step took, as part of what is decided and so of what is signed.

An edge names its own span. Every other id follows from the event, so that deciding again makes the same ids.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from schemas.decision import Span
from schemas.envelope import DecideTask
from schemas.units import parse_rfc3339

SPAN_ID_DIGITS = 16
PLACES = {"dedupe": 0, "features": 16, "policy": 32, "scoring": 48}
"""Where in the hash of an event each step's id stands."""
US_PER_MS = 1_000


class Phase(NamedTuple):
    """A step of the decision; `end_us` of one is the `start_us` of the next."""

    name: str
    start_us: int
    end_us: int


def spans_of(task: DecideTask, phases: Sequence[Phase]) -> tuple[Span, ...]:
    """Ingest, dedupe and the phases, each the parent of the next; sorted by (`start_us`, `span_id`).

    Ingest lasts until the next step takes the event. A task of a worker that did not time dedupe has no such span.
    """
    accepted = task.accepted
    # One hash has the digits of four ids: the step's place among them is the name's part in its id.
    event = f"{accepted.trace_id}/{accepted.tenant_id}/{accepted.event_id}"
    digits = hashlib.sha256(event.encode()).hexdigest()
    received_us = parse_rfc3339(accepted.ingest_ts) * US_PER_MS
    steps = [Phase("dedupe", task.dedupe_start_us, task.dedupe_end_us), *phases] if task.dedupe_start_us else phases
    parent = accepted.span_id
    spans = [Span(max(received_us, steps[0].start_us), "ingest", "", parent, received_us)]
    for name, start_us, end_us in steps:
        place = PLACES[name]
        span_id = digits[place : place + SPAN_ID_DIGITS]
        spans.append(Span(max(start_us, end_us), name, parent, span_id, start_us))
        parent = span_id
    spans.sort(key=_place)
    return tuple(spans)


def _place(span: Span) -> tuple[int, str]:
    return span.start_us, span.span_id
