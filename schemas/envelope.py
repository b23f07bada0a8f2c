"""The event as it travels: the published envelope, the stored record, and what each stage hands on.

The wire form of every hop is one JSON object, so an operator can read a subject with any NATS
tool. `event` keeps the bytes the agent sent.
"""

from typing import NamedTuple

import msgspec


class AcceptedEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the edge publishes to FG_INGEST: the agent's envelope and the identity of its acceptance.

    `body_sha256` is over the RFC 8785 form of the envelope; `event` is the envelope as sent.
    `break_glass` is the id of the emergency override it was accepted under, absent from the wire when there was none.
    """

    tenant_id: str
    event_id: str
    trace_id: str
    request_id: str
    agent_id: str
    ingest_ts: str
    span_id: str
    body_sha256: str
    event: msgspec.Raw
    break_glass: str = ""


class DecideTask(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What dedupe hands to decision: the accepted event, where it was first stored, and when dedupe had it in hand."""

    stream: str
    seq: int
    accepted: AcceptedEvent
    dedupe_start_us: int = 0
    dedupe_end_us: int = 0


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """What any stage hands to dlq. `message` is the message's data, base64, so that nothing is too broken to bury."""

    tenant_id: str
    event_id: str
    trace_id: str
    request_id: str
    reason_code: str
    stage: str
    stream: str
    seq: int
    message_base64: str
    break_glass: str = ""
    attempts: int = 0
    """How many attempts the event had failed, where its own failures are why it is dead."""
    accepted_stream: str = ""
    accepted_seq: int = 0
    """Where the message was stored as which the event was accepted; empty where no event could be read."""
    body_sha256: str = ""
    """Of that event; empty where none could be read."""


class RetryTask(msgspec.Struct, frozen=True):
    """What a stage sends to FG_RETRY: the message whose `attempt`-th try failed, to be run by `stage` again.

    `message_base64` is its data, `subject` its own subject, `stream` and `seq` where it was stored.
    """

    stage: str
    stream: str
    seq: int
    subject: str
    attempt: int
    message_base64: str


class EventKey(NamedTuple):
    """Identity of the first stored message of an event (a row of `event_keys`); the receipt is made of it alone."""

    tenant_id: str
    event_id: str
    trace_id: str
    request_id: str
    ingest_ts: str
    stream: str
    seq: int
    body_sha256: str


class Receipt(msgspec.Struct, frozen=True):
    """The fields of the 202, in the order in which they are written."""

    status: str
    tenant_id: str
    event_id: str
    trace_id: str
    request_id: str
    ingest_ts: str
    stream: str
    seq: int
    body_sha256: str


def receipt(key: EventKey) -> bytes:
    """The body of the 202, the same bytes for the same key at any age."""
    return msgspec.json.encode(
        Receipt(
            "accepted",
            key.tenant_id,
            key.event_id,
            key.trace_id,
            key.request_id,
            key.ingest_ts,
            key.stream,
            key.seq,
            key.body_sha256,
        )
    )


def key_of(accepted: AcceptedEvent, stream: str, seq: int) -> EventKey:
    return EventKey(
        accepted.tenant_id,
        accepted.event_id,
        accepted.trace_id,
        accepted.request_id,
        accepted.ingest_ts,
        stream,
        seq,
        accepted.body_sha256,
    )
