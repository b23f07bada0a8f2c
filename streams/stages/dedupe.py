"""FG_INGEST -> event_keys and raw body in Postgres -> FG_DECIDE.

Truth about duplicates is the primary key of `event_keys`, holding the identity of the first stored
message. The ingest message is settled only after that row is committed and the task stands in
FG_DECIDE, so at every moment an accepted event is in a stream or in Postgres (DESIGN decision 3).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.answers import NoAnswer, PublishOutcome, Refused
from schemas.codes import Code, DeadReason
from schemas.envelope import AcceptedEvent, DecideTask, key_of
from schemas.fate import DONE, Dead, Fate, Later
from schemas.rows import Claim, ClaimOutcome
from schemas.subjects import lane, message_id, tenant_of
from schemas.units import Clock
from streams.budgets import PARKED_MS
from streams.committer import GroupCommitter
from streams.delivery import Delivery
from streams.ports import EventKeys, Store
from streams.spans import US_PER_MS


class _Source(msgspec.Struct):
    source: str


class _Readable(NamedTuple):
    accepted: AcceptedEvent
    source: str


_accepted = msgspec.json.Decoder(AcceptedEvent)
_source = msgspec.json.Decoder(_Source)


class DedupeStage:
    name = "dedupe"

    def __init__(self, keys: EventKeys, decide: GroupCommitter, store: Store, clock: Clock) -> None:
        self._keys = keys
        self._decide = decide
        self._store = store
        self._clock = clock

    async def ready(self) -> bool:
        return await self._store.ping() and await self._decide.ping()

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        fates: list[Fate] = [Dead(DeadReason.POISON)] * len(deliveries)
        events = {position: event for position, d in enumerate(deliveries) if (event := read_accepted(d)) is not None}
        started_us, started = self._clock.now_ms() * US_PER_MS, time.perf_counter()
        claims = [_claim(event, deliveries[position]) for position, event in events.items()]
        outcomes = await self._keys.claim(claims) if claims else []
        took_us = (started_us, started_us + int((time.perf_counter() - started) * 1_000_000))
        forwarded: dict[int, asyncio.Future[PublishOutcome]] = {}
        for (position, event), outcome in zip(events.items(), outcomes, strict=True):
            if outcome is ClaimOutcome.CONFLICT:
                fates[position] = Dead(DeadReason.EVENT_ID_CONFLICT)
            elif outcome is ClaimOutcome.DUPLICATE:
                fates[position] = DONE
            else:
                forwarded[position] = self._forward(event.accepted, deliveries[position], took_us)
        for position, future in forwarded.items():
            fates[position] = _fate_of(await future)
        return fates

    def _forward(
        self, event: AcceptedEvent, delivery: Delivery, took_us: tuple[int, int]
    ) -> "asyncio.Future[PublishOutcome]":
        """`took_us`: when the claim of the batch began and ended."""
        task = DecideTask(delivery.stream, delivery.seq, event, *took_us)
        subject = lane(event.tenant_id).decide
        return self._decide.submit(subject, message_id(event.tenant_id, event.event_id), msgspec.json.encode(task), "")


def read_accepted(delivery: Delivery) -> _Readable | None:
    """The event of an ingest message, None when the data is not one or speaks of another tenant than its subject."""
    try:
        event = _accepted.decode(delivery.data)
        source = _source.decode(event.event).source
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return _Readable(event, source) if event.tenant_id == tenant_of(delivery.subject) else None


def _claim(event: _Readable, delivery: Delivery) -> Claim:
    accepted = event.accepted
    key = key_of(accepted, delivery.stream, delivery.seq)
    return Claim(key, accepted.agent_id, event.source, bytes(accepted.event))


def _fate_of(outcome: PublishOutcome) -> Fate:
    if not isinstance(outcome, Refused):
        return DONE
    if outcome.code is Code.INGEST_BACKPRESSURE_HARDSTOP:  # FG_DECIDE is full for this tenant: it alone waits
        return Later(outcome.code, PARKED_MS)
    raise NoAnswer(outcome.code)
