"""The head of a request: what may be there, how often, and whether it agrees with the envelope."""

from collections.abc import Iterator, Sequence

from edge.problem import Finding
from edge.settings import EdgeSettings
from edge.transport import Fields
from schemas.codes import Code
from schemas.ids import TRACEPARENT

AT_MOST_ONCE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-digest",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"idempotency-key",
        b"prefer",
        b"signature",
        b"signature-input",
        b"traceparent",
        b"x-event-id",
        b"x-parent-span-id",
        b"x-request-id",
        b"x-span-id",
        b"x-tenant-id",
        b"x-trace-id",
    }
)
FIELD_SYNTAX_BYTES = 4
"""The colon, the space and the line end around a field, as they travel."""
LENGTH_DIGITS_MAX = 18
SAMPLED = "01"


def read_fields(raw: Sequence[tuple[bytes, bytes]], settings: EdgeSettings) -> dict[bytes, bytes] | Code:
    """The fields by name, or why the head is refused.

    An underscore in a name is refused because proxies turn it into a dash, and a repeated field
    because two readers may each believe another one.
    """
    if len(raw) > settings.header_count_max:
        return Code.HEADERS_TOO_LARGE
    fields: dict[bytes, bytes] = {}
    size = 0
    sound = True
    for name, value in raw:
        size += len(name) + len(value) + FIELD_SYNTAX_BYTES
        if b"_" in name or not value.isascii() or (name in fields and name in AT_MOST_ONCE):
            sound = False
        fields[name] = value
    if size > settings.header_bytes_max:
        return Code.HEADERS_TOO_LARGE
    if not sound or not fields.get(b"host"):
        return Code.MALFORMED_REQUEST
    return fields


def refused_body(fields: Fields, media_type: bytes, bytes_max: int) -> Code | None:
    """Why the announced body is refused before a byte of it is read, None when it is welcome."""
    length = fields.get(b"content-length")
    if length is None or b"transfer-encoding" in fields:
        return Code.LENGTH_REQUIRED
    if not length.isdigit():
        return Code.MALFORMED_REQUEST
    if len(length) > LENGTH_DIGITS_MAX or int(length) > bytes_max:
        return Code.PAYLOAD_TOO_LARGE
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        return Code.UNSUPPORTED_MEDIA_TYPE
    content_type = fields.get(b"content-type", b"")
    if content_type != media_type and not _is_utf8_of(content_type, media_type):
        return Code.UNSUPPORTED_MEDIA_TYPE
    return None


def _is_utf8_of(content_type: bytes, media_type: bytes) -> bool:
    kind, *parameters = (part.strip().lower() for part in content_type.split(b";"))
    return kind == media_type and all(one in {b"charset=utf-8", b'charset="utf-8"', b""} for one in parameters)


def conflicts(fields: Fields, trace_id: str, event_id: str) -> Iterator[Finding]:
    """Where the headers name another trace or event than the envelope does."""
    named = fields.get(b"x-trace-id")
    if named is not None and named.decode() != trace_id:
        yield Finding(Code.TRACE_ID_CONFLICT, "X-Trace-Id")
    trace = parent_trace(fields)
    if trace is not None and trace[0] != trace_id.replace("-", ""):
        yield Finding(Code.TRACE_ID_CONFLICT, "traceparent")
    named = fields.get(b"x-event-id")
    if named is not None and named.decode() != event_id:
        yield Finding(Code.EVENT_ID_CONFLICT, "X-Event-Id")
    named = fields.get(b"idempotency-key")
    if named is not None and named.decode() not in {event_id, f'"{event_id}"'}:
        yield Finding(Code.IDEMPOTENCY_KEY_CONFLICT, "Idempotency-Key")


def parent_trace(fields: Fields) -> tuple[str, str] | None:
    """Trace id and flags of a valid `traceparent`; a malformed one counts as absent (W3C Trace Context)."""
    value = fields.get(b"traceparent")
    if value is None:
        return None
    text = value.decode()
    match = TRACEPARENT.fullmatch(text)
    if match is None or not match[1].strip("0") or not match[2].strip("0"):
        return None
    return match[1], text[-2:]


def traceparent(trace_id: str, span_id: str, flags: str) -> str:
    """The W3C form of our trace id."""
    return f"00-{trace_id.replace('-', '')}-{span_id}-{flags}"
