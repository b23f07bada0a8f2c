"""The contract of one envelope, pure: bytes and the time in, an admitted envelope or every finding out."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from edge.jsonguard import Decoded, decode, is_storable
from edge.problem import Finding, Findings
from edge.settings import EdgeSettings
from schemas.canonical import canonical_any, canonical_plain, sha256_hex
from schemas.codes import Code
from schemas.ids import AGENT_ID, EVENT_ID, INTEGRITY_HASH, SCHEMA_VERSION, TENANT_ID, UUID7
from schemas.registry import readable
from schemas.units import UnixMs, parse_rfc3339

SOURCE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,128}")


class Admitted(NamedTuple):
    """An envelope that keeps the contract. `aged` ones are accepted only as duplicates of what is stored."""

    tenant_id: str
    event_id: str
    trace_id: str
    agent_id: str
    created_ms: UnixMs
    aged: bool
    body_sha256: str
    body: bytes


class Unfit(NamedTuple):
    """An envelope that does not, and those of its ids that are sound, None where they are not."""

    findings: Findings
    event_id: str | None
    trace_id: str | None


class _Text(NamedTuple):
    """A required field that is a string of a certain form."""

    field: str
    required: Code
    invalid: Code
    matches: Callable[[str], object]


_TEXTS = (
    _Text("tenant_id", Code.TENANT_ID_REQUIRED, Code.TENANT_ID_INVALID, TENANT_ID.fullmatch),
    _Text("event_id", Code.EVENT_ID_REQUIRED, Code.EVENT_ID_INVALID, EVENT_ID.fullmatch),
    _Text("trace_id", Code.TRACE_ID_REQUIRED, Code.TRACE_ID_INVALID, UUID7.fullmatch),
    _Text("agent_id", Code.AGENT_ID_REQUIRED, Code.AGENT_ID_INVALID, AGENT_ID.fullmatch),
    _Text("schema_version", Code.SCHEMA_VERSION_REQUIRED, Code.SCHEMA_VERSION_INVALID, SCHEMA_VERSION.fullmatch),
    _Text("source", Code.SOURCE_REQUIRED, Code.SOURCE_INVALID, SOURCE.fullmatch),
)
FIELDS = (
    "tenant_id",
    "event_id",
    "trace_id",
    "agent_id",
    "schema_version",
    "created_at",
    "source",
    "integrity_hash",
    "payload",
)
"""The order in which findings are listed: the specification's, then the payload."""
_RANK = {field: rank for rank, field in enumerate(FIELDS)}
_TEXT_FIELDS = frozenset(FIELDS) - {"payload"}


class _PayloadAsSent(msgspec.Struct):
    payload: msgspec.Raw


_payload_as_sent = msgspec.json.Decoder(_PayloadAsSent).decode


class Contract:
    """What an envelope must be under these settings."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings

    def admit(self, body: bytes, now_ms: UnixMs) -> Admitted | Unfit:
        """The envelope in `body`, its integrity verified, or what is wrong with it."""
        settings = self._settings
        decoded = decode(body, settings.json_depth_max, settings.json_nodes_max)
        if isinstance(decoded, Code):
            field = "payload" if decoded is Code.PAYLOAD_INVALID else None
            return Unfit((Finding(decoded, field),), None, None)
        envelope = decoded.value
        found = self._texts(envelope)
        created = _created_ms(envelope)
        if isinstance(created, Code):
            found.append(Finding(created, "created_at"))
        elif created > now_ms + settings.created_at_future_ms_max:
            found.append(Finding(Code.CREATED_AT_INVALID, "created_at"))
        for field, code in (("integrity_hash", self._integrity(envelope)), ("payload", self._payload(decoded, body))):
            if code is not None:
                found.append(Finding(code, field))
        if found or isinstance(created, Code):
            return _unfit(envelope, found)
        canonical = canonical_plain if decoded.plain else canonical_any
        if envelope.get("integrity_hash") and not _integrity_holds(envelope, canonical):
            return _unfit(envelope, [Finding(Code.INTEGRITY_HASH_MISMATCH, "integrity_hash")])
        return Admitted(
            envelope["tenant_id"],
            envelope["event_id"],
            envelope["trace_id"],
            envelope["agent_id"],
            created,
            created < now_ms - settings.event_age_ms_max,
            sha256_hex(canonical(envelope)),
            body,
        )

    def _texts(self, envelope: dict[str, Any]) -> list[Finding]:
        found = []
        for field, required, invalid, matches in _TEXTS:
            value = envelope.get(field)
            if type(value) is not str or matches(value) is None:
                found.append(Finding(required if value is None or value == "" else invalid, field))
            elif field == "schema_version" and not readable(value, self._settings.schema_versions):
                found.append(Finding(Code.SCHEMA_VERSION_UNSUPPORTED, field))
        return found

    def _integrity(self, envelope: dict[str, Any]) -> Code | None:
        value = envelope.get("integrity_hash")
        if value is None or value == "":
            return Code.INTEGRITY_HASH_REQUIRED if self._settings.integrity_required else None
        if type(value) is not str or INTEGRITY_HASH.fullmatch(value) is None:
            return Code.INTEGRITY_HASH_INVALID
        return None

    def _payload(self, decoded: Decoded, body: bytes) -> Code | None:
        """The payload, and with it every field this version does not know: those are data too."""
        settings = self._settings
        payload = decoded.value.get("payload")
        if payload is None or payload == "":
            return Code.PAYLOAD_REQUIRED
        if type(payload) is not dict:
            return Code.PAYLOAD_INVALID
        if decoded.unstorable:
            data = {field: value for field, value in decoded.value.items() if field not in _TEXT_FIELDS}
            if not is_storable(data, settings.json_depth_max, settings.json_nodes_max):
                return Code.PAYLOAD_INVALID
        if len(body) > settings.payload_bytes_max:
            sent = memoryview(_payload_as_sent(body).payload).nbytes
            return Code.PAYLOAD_INVALID if sent > settings.payload_bytes_max else None
        return None


def _created_ms(envelope: dict[str, Any]) -> UnixMs | Code:
    value = envelope.get("created_at")
    if value is None or value == "":
        return Code.CREATED_AT_REQUIRED
    if type(value) is not str:
        return Code.CREATED_AT_INVALID
    try:
        return parse_rfc3339(value)
    except ValueError:
        return Code.CREATED_AT_INVALID


def _integrity_holds(envelope: dict[str, Any], canonical: Callable[[Any], bytes]) -> bool:
    rest = {field: value for field, value in envelope.items() if field != "integrity_hash"}
    claimed: str = envelope["integrity_hash"]
    return claimed == f"sha256:{sha256_hex(canonical(rest))}"


def _unfit(envelope: dict[str, Any], found: list[Finding]) -> Unfit:
    found.sort(key=lambda one: _RANK[one.field or ""])
    wrong = {one.field for one in found}
    return Unfit(
        tuple(found),
        None if "event_id" in wrong else envelope["event_id"],
        None if "trace_id" in wrong else envelope["trace_id"],
    )
