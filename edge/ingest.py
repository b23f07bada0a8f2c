"""From admitted envelopes to verdicts: replayed, published, or refused. One flow for one event and for a batch.

Admission order (DESIGN section 3): hint, Postgres, durability, publish. An event is published only
when it is known that it was never stored, or when the broker is certain to say so.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from edge.admit import Admitted
from edge.headers import traceparent
from edge.lookups import Lookups
from edge.ports import EdgePorts
from edge.problem import Findings, finding
from schemas.answers import Duplicate, NoAnswer, PublishOutcome, Refused, Stored
from schemas.codes import Code
from schemas.envelope import AcceptedEvent, EventKey, key_of
from schemas.subjects import lane, message_id
from schemas.units import UnixMs, format_rfc3339

BROKER_MEMORY_MARGIN_MS = 15_000
"""Between an event's creation and the broker's certain memory, with Postgres away: agents' clocks are not ours."""


class Accepted(NamedTuple):
    """The event is stored, by this request or, `replayed`, by an earlier one."""

    key: EventKey
    replayed: bool


Verdict = Accepted | Findings


class Origin(NamedTuple):
    """What all events of one request share."""

    request_id: str
    span_id: str
    trace_flags: str


_encode = msgspec.json.Encoder().encode
_decode_accepted = msgspec.json.Decoder(AcceptedEvent).decode


class Ingest:
    """The flow over the ports."""

    def __init__(self, ports: EdgePorts) -> None:
        self._publisher = ports.publisher
        self._hints = ports.hints
        self._clock = ports.clock
        self._lookups = Lookups(ports.stored_keys)

    async def settle(self, events: Sequence[Admitted], origin: Origin) -> list[Verdict]:
        """One verdict per event, in order. All events are of one tenant; there is at least one.

        Of several with the same id the first publishable one decides for the others.
        """
        tenant_id = events[0].tenant_id
        try:
            answers, store_answers = await self._known(tenant_id, list({event.event_id for event in events}))
        except NoAnswer as failure:
            return [finding(failure.code)] * len(events)
        barred, chosen = self._choose(events, answers, store_answers=store_answers)
        fresh = await self._publish(chosen, origin, answers)
        return [
            barred[position]
            if position in barred
            else _verdict(event, answers[event.event_id], fresh=position in fresh)
            for position, event in enumerate(events)
        ]

    async def _known(self, tenant_id: str, event_ids: list[str]) -> tuple[dict[str, EventKey | Code], bool]:
        """The keys of those that are stored, and whether Postgres answered.

        Raises NoAnswer(RATE_LIMIT_BACKEND_UNAVAILABLE) when Redis did not.
        """
        hints = await self._hints.recall(tenant_id, event_ids)
        known: dict[str, EventKey | Code] = {key.event_id: key for key in hints if key is not None}
        missing = [event_id for event_id in event_ids if event_id not in known]
        if not missing:
            return known, True
        try:
            stored = await self._lookups.stored(tenant_id, missing)
        except NoAnswer:
            return known, False
        if stored:
            self._hints.remember(list(stored.values()))
            known.update(stored)
        return known, True

    def _choose(
        self, events: Sequence[Admitted], known: Mapping[str, EventKey | Code], *, store_answers: bool
    ) -> tuple[dict[int, Findings], dict[int, Admitted]]:
        """Those of the unknown events that may not be published, and the first of each id that may, by position."""
        barred: dict[int, Findings] = {}
        chosen: dict[int, Admitted] = {}
        taken: set[str] = set()
        proven = self._publisher.durability_proven()
        remembered_ms = UnixMs(0) if store_answers else self._publisher.remembers_since_ms()
        for position, event in enumerate(events):
            if event.event_id in known:
                continue
            if not store_answers and event.created_ms <= remembered_ms + BROKER_MEMORY_MARGIN_MS:
                barred[position] = finding(Code.STORE_UNAVAILABLE)
            elif event.aged:
                barred[position] = finding(Code.CREATED_AT_INVALID, "created_at")
            elif not proven:
                barred[position] = finding(Code.DURABILITY_UNPROVEN)
            elif event.event_id not in taken:
                taken.add(event.event_id)
                chosen[position] = event
        return barred, chosen

    async def _publish(
        self, chosen: Mapping[int, Admitted], origin: Origin, answers: dict[str, EventKey | Code]
    ) -> frozenset[int]:
        """Publish, note what became of each id in `answers`, and return the positions of those stored just now."""
        if not chosen:
            return frozenset()
        ingest_ts = format_rfc3339(self._clock.now_ms())
        offers = [_offer(event, origin, ingest_ts) for event in chosen.values()]
        outcomes = [
            self._publisher.submit(
                lane(accepted.tenant_id).ingest,
                message_id(accepted.tenant_id, accepted.event_id),
                _encode(accepted),
                traceparent(accepted.trace_id, origin.span_id, origin.trace_flags),
            )
            for accepted in offers
        ]
        fresh: set[int] = set()
        stored: list[EventKey] = []
        doubtful: list[tuple[AcceptedEvent, Duplicate]] = []
        for position, accepted, pending in zip(chosen, offers, outcomes, strict=True):
            outcome: PublishOutcome = await pending
            match outcome:
                case Stored(stream=stream, seq=seq):
                    fresh.add(position)
                    stored.append(key_of(accepted, stream, seq))
                case Duplicate():
                    doubtful.append((accepted, outcome))
                case Refused(code=code):
                    answers[accepted.event_id] = code
        if doubtful:
            firsts = await asyncio.gather(*(self._first_stored(*one) for one in doubtful))
            stored.extend(first for first in firsts if isinstance(first, EventKey))
            answers.update((one.event_id, first) for (one, _), first in zip(doubtful, firsts, strict=True))
        answers.update((key.event_id, key) for key in stored)
        self._hints.remember(stored)
        return frozenset(fresh)

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
    )


def _read(data: bytes, offered: AcceptedEvent) -> AcceptedEvent | None:
    """The stored message, None when it is not this event: then only Postgres can tell."""
    try:
        first = _decode_accepted(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    same = (first.tenant_id, first.event_id) == (offered.tenant_id, offered.event_id)
    return first if same else None


def _verdict(event: Admitted, answer: EventKey | Code, *, fresh: bool) -> Verdict:
    if isinstance(answer, Code):
        return finding(answer)
    if answer.body_sha256 != event.body_sha256:
        return finding(Code.EVENT_ID_PAYLOAD_MISMATCH)
    return Accepted(answer, replayed=not fresh)
