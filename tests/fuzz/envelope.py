"""Any bytes as an envelope: never an exception, findings in order, and one meaning for every reader."""

import json
from typing import Any

import atheris
import rfc8785

with atheris.instrument_imports(include=["edge", "schemas"]):
    from edge.admit import FIELDS, Admitted, Contract, Unfit
    from edge.settings import EdgeSettings
    from schemas.canonical import sha256_hex
    from schemas.codes import TABLE
    from schemas.units import UnixMs

from tests.fuzz.running import fuzz

NOW_MS = UnixMs(1_767_225_600_000)
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * 86_400_000)
CONTRACT = Contract(SETTINGS)
SOUND = {
    "tenant_id": "acme",
    "event_id": "evt-1",
    "trace_id": "018f7e20-6d6f-7e20-a3f1-9eb6b7a1f112",
    "agent_id": "agent-7",
    "schema_version": "1.0",
    "created_at": "2026-01-01T00:00:00.000Z",
    "source": "sensor/edge",
    "payload": {"action": "login", "attempts": 3},
}
ONE_CHANGED = 0xFF
"""An input that begins with this byte and a field's number is that field's value in a sound envelope."""


def _sealed(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"integrity_hash": f"sha256:{sha256_hex(rfc8785.dumps(fields))}"}


def seeds() -> list[bytes]:
    values = [b"null", b'""', b"-0.0", b"1e300", b'"\\u0000"', b"[[[]]]", b'{"a":1,"a":2}', b"9007199254740993"]
    sound = [SOUND, _sealed(SOUND), _sealed(SOUND | {"payload": {"\u00e9": [1.5, 1e21, -0.0], "\U0001f600": None}})]
    changed = [bytes([ONE_CHANGED, field]) + value for field in range(len(FIELDS)) for value in values]
    return [
        json.dumps(one, ensure_ascii=ascii_only).encode() for one in sound for ascii_only in (True, False)
    ] + changed


def _body(data: bytes) -> bytes:
    if len(data) < 2 or data[0] != ONE_CHANGED:
        return data
    field = FIELDS[data[1] % len(FIELDS)]
    rest = json.dumps({name: value for name, value in SOUND.items() if name != field}).encode()
    return rest[:-1] + b', "%b": %b}' % (field.encode(), data[2:])


def admit_anything(data: bytes) -> None:
    body = _body(data)
    verdict = CONTRACT.admit(body, NOW_MS)
    if isinstance(verdict, Unfit):
        ranks = [FIELDS.index(one.field) for one in verdict.findings if one.field is not None]
        assert verdict.findings
        assert ranks == sorted(set(ranks))
        assert {TABLE[one.error_code].status for one in verdict.findings} == {400}
        return
    assert isinstance(verdict, Admitted)
    # Another reader, and one that looks at every member, must see the same event.
    other = json.loads(body.decode(), object_pairs_hook=_each_key_once)
    assert verdict.body_sha256 == sha256_hex(rfc8785.dumps(other))
    assert (verdict.tenant_id, verdict.event_id) == (other["tenant_id"], other["event_id"])
    again = CONTRACT.admit(json.dumps(dict(reversed(other.items()))).encode(), NOW_MS)
    assert isinstance(again, Admitted)
    assert again.body_sha256 == verdict.body_sha256
    if other.get("integrity_hash"):
        unsealed = {name: value for name, value in other.items() if name != "integrity_hash"}
        assert other["integrity_hash"] == _sealed(unsealed)["integrity_hash"]


def _each_key_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in members}) == len(members)
    return dict(members)


if __name__ == "__main__":
    fuzz(admit_anything, seeds())
