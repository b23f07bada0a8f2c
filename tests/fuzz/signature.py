"""Any head on a request: never an exception, and never a signature that covers another request than was signed."""

import asyncio
import base64

import atheris
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

with atheris.instrument_imports(include=["edge", "schemas"]):
    from edge.headers import read_fields
    from edge.settings import EdgeSettings
    from edge.signature import SignatureCheck, Signed
    from edge.signature_profile import BATCH, SINGLE, Profile, content_digest, signature_base, target_components
    from edge.transport import Request
    from schemas.codes import Code
    from schemas.principal import Principal, Scope, SigningKey
    from schemas.units import UnixMs

from tests.fuzz.running import fuzz

NOW_MS = UnixMs(1_767_225_600_000)
NOW_S = NOW_MS // 1000
KEY_ID = "0123456789abcdef"
NONCE = b"AAECAwQFBgcICQoLDA0ODw"
PATH = b"/ingest"
BODY = b'{"tenant_id":"acme"}'
SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SENDER = Principal("key", "acme", None, frozenset({Scope.INGEST}), "pro")
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=1, signature_required=True)
VALUES = {
    b"host": b"edge.example",
    b"content-type": b"application/json",
    b"content-digest": content_digest(BODY),
    b"x-tenant-id": b"acme",
    b"x-event-id": b"evt-1",
    b"x-trace-id": b"018f7e20-6d6f-7e20-a3f1-9eb6b7a1f112",
    b"x-request-id": b"request-1",
}
TARGET = target_components("POST", VALUES[b"host"], PATH, b"")


class StandingClock:
    def now_ms(self) -> UnixMs:
        return NOW_MS


class OneKey:
    async def public_key(self, key_id: str) -> SigningKey | None:
        if key_id != KEY_ID:
            return None
        return SigningKey(KEY_ID, "acme", "agent-7", SECRET.public_key().public_bytes_raw(), UnixMs(0), None, None)


def _signed(profile: Profile, more: bytes = b"") -> dict[bytes, bytes]:
    parameters = (
        b'%b;created=%d;keyid="%b";alg="ed25519";nonce="%b";tag="%b"'
        % (profile.covered, NOW_S, KEY_ID.encode(), NONCE, profile.tag)
    ) + more
    signature = SECRET.sign(signature_base(profile.components, VALUES | TARGET, parameters))
    return VALUES | {
        b"signature-input": b"sig1=" + parameters,
        b"signature": b"sig1=:%b:" % base64.b64encode(signature),
    }


SINGLE_SIGNED = _signed(SINGLE)
BATCH_SIGNED = _signed(BATCH, b";expires=%d" % (NOW_S + 60))
CHECK = SignatureCheck(OneKey(), StandingClock(), SETTINGS)
LOOP = asyncio.new_event_loop()


def _text(fields: dict[bytes, bytes]) -> bytes:
    return b"\n".join(b"%b:%b" % field for field in fields.items())


def seeds() -> list[bytes]:
    heads = [SINGLE_SIGNED, BATCH_SIGNED]
    without = [{name: value for name, value in head.items() if name != gone} for head in heads for gone in head]
    return [bytes([batch]) + _text(head) for head in heads + without for batch in (0, 1)]


def verify_anything(data: bytes) -> None:
    batch = data[:1] == b"\x01"
    raw = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in data[1:].split(b"\n"))]
    fields = read_fields(raw, SETTINGS)
    if isinstance(fields, Code):
        return
    request = Request(PATH.decode(), PATH, b"", "request-1", fields, _nothing, 0.0)
    verdict = LOOP.run_until_complete(CHECK.verify(request, BODY, SENDER, method="POST", batch=batch))
    original, profile = (BATCH_SIGNED, BATCH) if batch else (SINGLE_SIGNED, SINGLE)
    if not isinstance(verdict, Signed):
        assert verdict, "a signature is required here"
        assert fields != original
        assert verdict[0].error_code in {
            Code.SIGNATURE_INVALID,
            Code.SIGNATURE_COMPONENTS_INVALID,
            Code.REPLAY_WINDOW_CLOSED,
            Code.MALFORMED_REQUEST,
        }
        return
    assert (verdict.nonce.key_id, verdict.nonce.nonce.encode()) == (KEY_ID, NONCE)
    assert (verdict.nonce.created_s, verdict.agent_id) == (NOW_S, "agent-7")
    assert fields[b"host"].lower() == original[b"host"]
    for name in profile.fields:
        assert fields[name].strip() == original[name]


async def _nothing() -> dict[str, object]:
    raise AssertionError("the body was read already")


if __name__ == "__main__":
    fuzz(verify_anything, seeds())
