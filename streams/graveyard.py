"""Burial: a dead delivery is in FG_DLQ, acknowledged by the stream, before it is settled where it died."""

import asyncio
import base64
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from schemas.answers import NoAnswer, Refused
from schemas.codes import DeadReason
from schemas.envelope import AcceptedEvent, DeadLetter, DecideTask
from schemas.subjects import lane, tenant_of
from streams.committer import GroupCommitter
from streams.delivery import Delivery
from streams.ports import Death, Identity

_accepted = msgspec.json.Decoder(AcceptedEvent)
_task = msgspec.json.Decoder(DecideTask)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Accepted(NamedTuple):
    """An event, and where the message was stored as which it was accepted."""

    event: AcceptedEvent
    stream: str
    seq: int


class Graveyard:
    """Publishes dead letters."""

    def __init__(self, committer: GroupCommitter) -> None:
        self._committer = committer

    async def bury(self, stage: str, dead: Sequence[Death]) -> None:
        """Return once every letter is stored. Raises NoAnswer; burying again stores nothing twice.

        The id of a letter is the stored message it speaks of, so a redelivery finds its letter there.
        """
        outcomes = await asyncio.gather(
            *(
                self._committer.submit(
                    lane(letter.tenant_id).dlq, f"dlq/{letter.stream}/{letter.seq}", msgspec.json.encode(letter), ""
                )
                for letter in (letter_of(stage, *death) for death in dead)
            )
        )
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                raise NoAnswer(outcome.code)


def identity_of(delivery: Delivery) -> Identity:
    """Tenant and event of a delivery; what cannot be read is named by stream and sequence. Raises as `letter_of`."""
    letter = letter_of("", delivery, DeadReason.POISON)
    return letter.tenant_id, letter.event_id


def letter_of(stage: str, delivery: Delivery, reason: DeadReason, attempts: int = 0) -> DeadLetter:
    """The letter of a delivery, however broken its data: what cannot be read is named by stream and sequence.

    Raises ValueError only when the subject is none of ours, which the streams' subjects exclude.
    """
    tenant_id = tenant_of(delivery.subject)
    known = _read(delivery.data, delivery.stream, delivery.seq)
    if known is not None and known.event.tenant_id != tenant_id:
        known = None
    return DeadLetter(
        tenant_id=tenant_id,
        event_id=known.event.event_id if known else f"{delivery.stream}:{delivery.seq}",
        trace_id=known.event.trace_id if known else "",
        request_id=known.event.request_id if known else "",
        reason_code=reason.value,
        stage=stage,
        stream=delivery.stream,
        seq=delivery.seq,
        message_base64=base64.b64encode(delivery.data).decode(),
        break_glass=known.event.break_glass if known else "",
        attempts=attempts,
        accepted_stream=known.stream if known else "",
        accepted_seq=known.seq if known else 0,
        body_sha256=known.event.body_sha256 if known else "",
    )


def completed(letter: DeadLetter) -> DeadLetter:
    """The letter, saying which acceptance of its event it speaks of, and of which body.

    One of an earlier version does not, but holds the message that does. What cannot be read stays empty. Raises
    ValueError when the message is no base64.
    """
    message = base64.b64decode(letter.message_base64)
    if letter.accepted_stream:
        return letter
    known = _read(message, letter.stream, letter.seq)
    if known is None or (known.event.tenant_id, known.event.event_id) != (letter.tenant_id, letter.event_id):
        return letter
    return msgspec.structs.replace(
        letter, accepted_stream=known.stream, accepted_seq=known.seq, body_sha256=known.event.body_sha256
    )


def _read(data: bytes, stream: str, seq: int) -> _Accepted | None:
    with suppress(*_UNREADABLE):
        return _Accepted(_accepted.decode(data), stream, seq)
    with suppress(*_UNREADABLE):
        task = _task.decode(data)
        return _Accepted(task.accepted, task.stream, task.seq)
    return None
