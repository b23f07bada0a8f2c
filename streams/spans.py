"""The spans of an event: what each step took, as part of what is decided and so of what is signed.

An edge names its own span. Every other id follows from the event, so that deciding again makes the same ids.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter

from schemas.decision import Span
from schemas.envelope import DecideTask
from schemas.units import parse_rfc3339

PHASES = (("features", slice(16, 32)), ("policy", slice(32, 48)), ("scoring", slice(48, 64)))
"""The steps of the decision, and where in the hash of an event each one's id stands."""
DEDUPE_PLACE = slice(0, 16)
US_PER_MS = 1_000
_place = attrgetter("start_us", "span_id")


def spans_of(task: DecideTask, moments_us: Sequence[int]) -> tuple[Span, ...]:
    """Ingest, dedupe and the phases, each the parent of the next; sorted by (`start_us`, `span_id`).

    `moments_us`: when the first phase began, and when each one ended, never going back. Ingest lasts until the next
    step takes the event. A task of a worker that did not time dedupe has no such span.
    """
    accepted = task.accepted
    # One hash has the digits of four ids: the step's place among them is the name's part in its id.
    event = f"{accepted.trace_id}/{accepted.tenant_id}/{accepted.event_id}"
    digits = hashlib.sha256(event.encode()).hexdigest()
    received_us = parse_rfc3339(accepted.ingest_ts) * US_PER_MS
    taken_us = task.dedupe_start_us or moments_us[0]
    parent = accepted.span_id
    spans = [Span(max(received_us, taken_us), "ingest", "", parent, received_us)]
    if task.dedupe_start_us:
        span_id = digits[DEDUPE_PLACE]
        spans.append(Span(max(taken_us, task.dedupe_end_us), "dedupe", parent, span_id, taken_us))
        parent = span_id
    for (name, place), (start_us, end_us) in zip(PHASES, pairwise(moments_us), strict=True):
        span_id = digits[place]
        spans.append(Span(end_us, name, parent, span_id, start_us))
        parent = span_id
    spans.sort(key=_place)
    return tuple(spans)
