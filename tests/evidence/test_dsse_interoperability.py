"""Somebody else's DSSE reads the same envelopes, the product's as well, and judges them as the verifier does."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # exported without saying so

from schemas.units import UnixMs
from sinks.segments import SealedInput, seal
from sinks.signing import Signer, sign_together, verified_payload
from tests.evidence import bundle_maker as make
from tests.evidence.loading import verifier

MEMBERS = {
    "manifest.json": (make.SIGNER, make.MANIFEST_TYPE, "https://in-toto.io/Statement/v1", "_type"),
    "keyring.json": (make.ROOT, make.KEYRING_TYPE, "frostgate.keyring", "type"),
}


def library_key(key: make.Key) -> SSlibKey:
    return sslib_key(key.public, key.key_id)


def sslib_key(public_key: bytes, key_id: str) -> SSlibKey:
    return SSlibKey(key_id, "ed25519", "ed25519", {"public": public_key.hex()})


def library_accepts(data: bytes, *keys: SSlibKey) -> bool:
    """Whether each of the keys signed."""
    try:
        Envelope.from_dict(json.loads(data)).verify(list(keys), len(keys))
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
    assert library_accepts(data, library_key(key))
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
        assert not library_accepts(other, library_key(key))
        assert not verifier_accepts(other, key, payload_type)
    assert not library_accepts(data, library_key(make.STRANGER))
    assert not verifier_accepts(data, make.STRANGER, payload_type)


def test_the_verifier_reads_what_the_library_signs() -> None:
    signer = CryptoSigner(make.SIGNER.private, library_key(make.SIGNER))
    envelope = Envelope(b'{"a":1}', make.MANIFEST_TYPE, {})
    envelope.sign(signer)
    data = make.canonical(envelope.to_dict())
    assert verifier_accepts(data, make.SIGNER, make.MANIFEST_TYPE)


def product_key(signer: Signer) -> SSlibKey:
    return sslib_key(signer.public_key.public_bytes_raw(), signer.key_id)


def test_the_library_verifies_what_the_product_signs_and_the_product_what_the_library_signs() -> None:
    first, second = (Signer(Ed25519PrivateKey.generate()) for _ in range(2))
    for payload in (b"", b'{"a":"\xc3\xa9"}', bytes(range(256))):
        for envelope, signers in (
            (first.sign(make.MANIFEST_TYPE, payload), (first,)),
            (sign_together((first, second), make.MANIFEST_TYPE, payload), (first, second)),
        ):
            assert library_accepts(envelope, *map(product_key, signers))
            read = Envelope.from_dict(json.loads(envelope))
            assert (read.payload, read.payload_type) == (payload, make.MANIFEST_TYPE)
            assert not library_accepts(envelope, product_key(Signer(Ed25519PrivateKey.generate())))
    theirs = Envelope(b'{"a":1}', make.MANIFEST_TYPE, {})
    theirs.sign(CryptoSigner(make.SIGNER.private, library_key(make.SIGNER)))
    keys = {make.SIGNER.key_id: make.SIGNER.private.public_key()}
    assert verified_payload(make.canonical(theirs.to_dict()), make.MANIFEST_TYPE, keys) == b'{"a":1}'


def test_the_library_verifies_the_envelope_of_a_sealed_segment() -> None:
    signer, record = Signer(Ed25519PrivateKey.generate()), b'{"event_id":"e-1"}'
    sealed = seal(
        signer,
        7,
        "pro",
        [SealedInput("acme", "e-1", "decision", 1, record, make.sha256(record).hex())],
        UnixMs(make.BEGIN_S * 1_000),
    )
    envelope = sealed.data.partition(b"\n")[0]
    assert library_accepts(envelope, product_key(signer))
    assert not library_accepts(envelope.replace(b"+json", b"+jsom"), product_key(signer))
