"""Somebody else's DSSE reads the same envelopes, and judges them as the verifier does."""

import base64
import json

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # exported without saying so

from tests.evidence import bundle_maker as make
from tests.evidence.loading import verifier

MEMBERS = {
    "manifest.json": (make.SIGNER, make.MANIFEST_TYPE, "https://in-toto.io/Statement/v1", "_type"),
    "keyring.json": (make.ROOT, make.KEYRING_TYPE, "frostgate.keyring", "type"),
}


def library_key(key: make.Key) -> SSlibKey:
    return SSlibKey(key.key_id, "ed25519", "ed25519", {"public": key.public.hex()})


def library_accepts(data: bytes, key: make.Key) -> bool:
    try:
        envelope = Envelope.from_dict(json.loads(data))
        envelope.verify([library_key(key)], 1)
    except VerificationError:
        return False
    return True


def verifier_accepts(data: bytes, key: make.Key, payload_type: str) -> bool:
    try:
        read = verifier.envelope(data, payload_type, "it")
        verifier.signers(read, {key.key_id: verifier.Key(key.public, "evidence", 0, None)}, "evidence", "it")
    except verifier.FaultError:
        return False
    return True


@pytest.mark.parametrize("name", MEMBERS)
def test_the_library_verifies_the_envelope_and_reads_the_same_payload(name: str) -> None:
    key, payload_type, kind, word = MEMBERS[name]
    data = make.recipe().members()[name]
    envelope = Envelope.from_dict(json.loads(data))
    assert envelope.verify([library_key(key)], 1).keys() == {key.key_id}
    assert envelope.payload_type == payload_type
    assert envelope.payload == verifier.envelope(data, payload_type, name).payload
    assert envelope.pae() == verifier.envelope(data, payload_type, name).message
    assert json.loads(envelope.payload)[word] == kind


@pytest.mark.parametrize("name", MEMBERS)
def test_what_the_library_refuses_the_verifier_refuses(name: str) -> None:
    key, payload_type, _, _ = MEMBERS[name]
    data = make.recipe().members()[name]
    assert library_accepts(data, key)
    assert verifier_accepts(data, key, payload_type)
    document = json.loads(data)
    signature = bytearray(base64.b64decode(document["signatures"][0]["sig"]))
    signature[7] ^= 1
    document["signatures"][0]["sig"] = base64.b64encode(bytes(signature)).decode()
    changed = [make.canonical(document)]
    document = json.loads(data)
    document["payload"] = base64.b64encode(
        base64.b64decode(document["payload"]).replace(b"acme", b"acne") + b" "
    ).decode()
    changed.append(make.canonical(document))
    changed.append(data.replace(b"+json", b"+jsom"))
    for other in changed:
        assert not library_accepts(other, key)
        assert not verifier_accepts(other, key, payload_type)
    assert not library_accepts(data, make.STRANGER)
    assert not verifier_accepts(data, make.STRANGER, payload_type)


def test_the_verifier_reads_what_the_library_signs() -> None:
    signer = CryptoSigner(make.SIGNER.private, library_key(make.SIGNER))
    envelope = Envelope(b'{"a":1}', make.MANIFEST_TYPE, {})
    envelope.sign(signer)
    data = make.canonical(envelope.to_dict())
    assert verifier_accepts(data, make.SIGNER, make.MANIFEST_TYPE)
