"""Burial: a dead delivery is in FG_DLQ, acknowledged by the stream, before it is settled where it died."""

import asyncio
import base64
from collections.abc import Sequence

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
    accepted = _read(delivery.data)
    known = accepted is not None and accepted.tenant_id == tenant_id
    return DeadLetter(
        tenant_id=tenant_id,
        event_id=accepted.event_id if accepted and known else f"{delivery.stream}:{delivery.seq}",
        trace_id=accepted.trace_id if accepted and known else "",
        request_id=accepted.request_id if accepted and known else "",
        reason_code=reason.value,
        stage=stage,
        stream=delivery.stream,
        seq=delivery.seq,
        message_base64=base64.b64encode(delivery.data).decode(),
        break_glass=accepted.break_glass if accepted and known else "",
        attempts=attempts,
    )


def _read(data: bytes) -> AcceptedEvent | None:
    for decode in (_accepted.decode, lambda raw: _task.decode(raw).accepted):
        try:
            return decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return None
