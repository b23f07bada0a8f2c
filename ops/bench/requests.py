"""Requests encoded once and patched per send, so that the load generator costs less than what it measures.

Every request is a whole HTTP/1.1 message. The ids are of fixed width, so its length never changes.
"""

from collections.abc import Sequence

import msgspec

from schemas.units import Clock, format_rfc3339

AGENT_ID = "bench-agent"
ID_DIGITS = 12
_EVENT_SLOT = b"#" * ID_DIGITS
_TRACE_SLOT = b"$" * ID_DIGITS


class Sender(msgspec.Struct, frozen=True):
    """A tenant that sends, with a key of its own."""

    tenant_id: str
    api_key: str


class _Envelope(msgspec.Struct):
    tenant_id: str
    event_id: str
    trace_id: str
    agent_id: str
    schema_version: str
    created_at: str
    source: str
    payload: dict[str, object]


class RequestMaker:
    """Makes requests of `lines` events for one sender; 0 lines is a single `POST /ingest`."""

    def __init__(self, sender: Sender, lines: int, run: str, clock: Clock) -> None:
        self._lines = lines
        event = _event_template(sender.tenant_id, run, clock)
        self._event = event.replace(_EVENT_SLOT, b"%012d").replace(_TRACE_SLOT, b"%012x")
        self._head = _head(sender.api_key, len(event) if lines == 0 else lines * (len(event) + 1), lines)

    def request(self, first: int) -> bytes:
        """The request whose events are numbered from `first`. No number may be used twice in a run."""
        if self._lines == 0:
            return self._head + self._event % (first, first)
        numbers = range(first, first + self._lines)
        return self._head + b"".join([self._event % (number, number) + b"\n" for number in numbers])


def request_makers(senders: Sequence[Sender], lines: int, run: str, clock: Clock) -> list[RequestMaker]:
    return [RequestMaker(sender, lines, run, clock) for sender in senders]


def _event_template(tenant_id: str, run: str, clock: Clock) -> bytes:
    """An audit event of about 0.5 KiB: what a log-in looks like."""
    return msgspec.json.encode(
        _Envelope(
            tenant_id=tenant_id,
            event_id=f"{run}-{_EVENT_SLOT.decode()}",
            trace_id=f"01890a5d-ac96-7b10-8a2c-{_TRACE_SLOT.decode()}",
            agent_id=AGENT_ID,
            schema_version="1.0",
            created_at=format_rfc3339(clock.now_ms()),
            source="bench",
            payload={
                "event_type": "auth.login",
                "outcome": "failure",
                "actor": {"user": "alice@example.com", "role": "operator"},
                "network": {"source_ip": "203.0.113.7", "port": 443},
                "failed_attempts": 2,
                "message": "password rejected; second factor was not asked for",
            },
        )
    )


def _head(api_key: str, body_bytes: int, lines: int) -> bytes:
    path, content_type = ("/ingest", "application/json") if lines == 0 else ("/ingest/batch", "application/x-ndjson")
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {body_bytes}\r\n\r\n"
    ).encode()
