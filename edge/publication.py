"""Durable publication of new events, and the first receipt of those the broker knows already."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from edge.admit import Admitted
from edge.headers import traceparent
from edge.lookups import Lookups
from edge.ports import Component, EdgePorts, Ticket
from schemas.answers import Duplicate, NoAnswer, PublishOutcome, Refused, Stored
from schemas.codes import Code
from schemas.envelope import AcceptedEvent, EventKey, key_of
from schemas.subjects import lane, message_id
from schemas.units import format_rfc3339

FAILURES = frozenset({Code.STREAM_UNAVAILABLE, Code.OUTCOME_UNKNOWN})
"""The stream's own; a full queue or an event in flight is an answer."""


class Origin(NamedTuple):
    """What all events of one request share."""

    request_id: str
    span_id: str
    trace_flags: str
    break_glass: str = ""


class Published(NamedTuple):
    """What became of each event id, and which of them this very request stored."""

    answers: Mapping[str, EventKey | Code]
    fresh: frozenset[str]


_encode = msgspec.json.Encoder().encode
_decode_accepted = msgspec.json.Decoder(AcceptedEvent).decode


class Publication:
    """Publishes over the ports."""

    def __init__(self, ports: EdgePorts, lookups: Lookups) -> None:
        self._publisher = ports.publisher
        self._circuits = ports.circuits
        self._clock = ports.clock
        self._lookups = lookups

    async def publish(self, events: Sequence[Admitted], origin: Origin, ticket: Ticket) -> Published:
        """Publish events of one tenant with distinct ids; what came of it is told to the stream's circuits.

        `ticket` is from the stream's circuits for this tenant.
        """
        tenant_id = events[0].tenant_id
        started_s = time.perf_counter()
        ingest_ts = format_rfc3339(self._clock.now_ms())
        offers = [_offer(event, origin, ingest_ts) for event in events]
        subject = lane(tenant_id).ingest
        outcomes = [
            self._publisher.submit(
                subject,
                message_id(tenant_id, accepted.event_id),
                _encode(accepted),
                traceparent(accepted.trace_id, origin.span_id, origin.trace_flags),
            )
            for accepted in offers
        ]
        answers: dict[str, EventKey | Code] = {}
        fresh: set[str] = set()
        doubtful: list[tuple[AcceptedEvent, Duplicate]] = []
        for accepted, pending in zip(offers, outcomes, strict=True):
            outcome: PublishOutcome = await pending
            match outcome:
                case Stored(stream=stream, seq=seq):
                    fresh.add(accepted.event_id)
                    answers[accepted.event_id] = key_of(accepted, stream, seq)
                case Duplicate():
                    doubtful.append((accepted, outcome))
                case Refused(code=code):
                    answers[accepted.event_id] = code
        failed = any(answer in FAILURES for answer in answers.values())
        elapsed_ms = self._elapsed_ms(started_s)
        self._circuits.record(Component.STREAM, tenant_id, ticket, failed=failed, elapsed_ms=elapsed_ms)
        if doubtful:
            firsts = await asyncio.gather(*(self._first_stored(*one) for one in doubtful))
            answers.update((one.event_id, first) for (one, _), first in zip(doubtful, firsts, strict=True))
        return Published(answers, frozenset(fresh))

    def _elapsed_ms(self, started_s: float) -> float:
        """The latency counted is the stream's: the wait for our own turn would open a circuit by our own fault."""
        return min((time.perf_counter() - started_s) * 1000, self._publisher.answer_ms())

    async def _first_stored(self, offered: AcceptedEvent, found: Duplicate) -> EventKey | Code:
        """The key of the message that the broker says was first, or why it cannot be told. Nothing new is stored."""
        try:
            data = await self._publisher.stored_message(found.stream, found.seq)
            first = None if data is None else _read(data, offered)
            if first is not None:
                return key_of(first, found.stream, found.seq)
            keys = await self._lookups.stored(offered.tenant_id, [offered.event_id])
        except NoAnswer as failure:
            return failure.code
        return keys.get(offered.event_id, Code.EVENT_IN_FLIGHT)


def _offer(event: Admitted, origin: Origin, ingest_ts: str) -> AcceptedEvent:
    return AcceptedEvent(
        event.tenant_id,
        event.event_id,
        event.trace_id,
        origin.request_id,
        event.agent_id,
        ingest_ts,
        origin.span_id,
        event.body_sha256,
        msgspec.Raw(event.body),
        origin.break_glass,
    )


def _read(data: bytes, offered: AcceptedEvent) -> AcceptedEvent | None:
    """The stored message, None when it is not this event: then only Postgres can tell."""
    try:
        first = _decode_accepted(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    same = (first.tenant_id, first.event_id) == (offered.tenant_id, offered.event_id)
    return first if same else None
