"""Signing: who may read a key, and that no byte of an envelope can change."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sinks.signing import KeyFileError, SignatureError, Signer, create_key, key_id_of, verified_payload

TYPE = "application/vnd.example+json"


@pytest.fixture
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def test_a_created_key_is_for_its_owner_alone_and_loads(tmp_path: Path) -> None:
    key_file = tmp_path / "key.pem"
    create_key(key_file)
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert Signer.load(key_file).key_id == Signer.load(key_file).key_id
    assert list(tmp_path.iterdir()) == [key_file]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    key_file = tmp_path / "key.pem"
    create_key(key_file)
    before = key_file.read_bytes()
    with pytest.raises(FileExistsError):
        create_key(key_file)
    assert key_file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [key_file]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700, 0o644])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    key_file = tmp_path / "key.pem"
    create_key(key_file)
    key_file.chmod(mode)
    with pytest.raises(KeyFileError, match="0600"):
        Signer.load(key_file)


def test_what_is_no_ed25519_key_is_refused_without_a_word_of_its_content(tmp_path: Path) -> None:
    ed25519, x25519 = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    contents = {
        "text": b"secret words",
        "empty": b"",
        "other": x25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "locked": ed25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")),
    }
    for name, content in contents.items():
        key_file = tmp_path / name
        key_file.write_bytes(content)
        key_file.chmod(0o600)
        with pytest.raises(KeyFileError) as refused:
            Signer.load(key_file)
        assert "secret" not in str(refused.value)
    with pytest.raises(KeyFileError):
        Signer.load(tmp_path / "absent")
    with pytest.raises(KeyFileError):
        Signer.load(tmp_path)


def test_the_envelope_is_the_standards_own(signer: Signer) -> None:
    envelope = json.loads(signer.sign(TYPE, b"hello"))
    signed = b"DSSEv1 28 application/vnd.example+json 5 hello"
    assert envelope["payloadType"] == TYPE
    assert base64.b64decode(envelope["payload"]) == b"hello"
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == signer.key_id == key_id_of(signer.public_key)
    signer.public_key.verify(base64.b64decode(signature["sig"]), signed)


def test_a_payload_comes_back_only_as_what_it_was_signed_as(signer: Signer) -> None:
    envelope = signer.sign(TYPE, b"hello")
    keys = {signer.key_id: signer.public_key}
    assert verified_payload(envelope, TYPE, keys) == b"hello"
    with pytest.raises(SignatureError, match="another type"):
        verified_payload(envelope, "application/other", keys)
    with pytest.raises(SignatureError, match="no known key"):
        verified_payload(envelope, TYPE, {})
    stranger = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(SignatureError, match="does not match"):
        verified_payload(envelope, TYPE, {signer.key_id: stranger})


def test_every_flipped_bit_and_every_cut_of_an_envelope_is_found(signer: Signer) -> None:
    envelope = signer.sign(TYPE, b'{"a":1}')
    keys = {signer.key_id: signer.public_key}
    for position in range(len(envelope)):
        for bit in range(8):
            changed = bytearray(envelope)
            changed[position] ^= 1 << bit
            with pytest.raises(SignatureError):
                verified_payload(bytes(changed), TYPE, keys)
        with pytest.raises(SignatureError):
            verified_payload(envelope[:position], TYPE, keys)
    with pytest.raises(SignatureError):
        verified_payload(envelope + b" ", TYPE, keys)


def test_unknown_signatures_count_for_nothing_and_a_wrong_known_one_against(signer: Signer) -> None:
    other = Signer(Ed25519PrivateKey.generate())
    mine, theirs = json.loads(signer.sign(TYPE, b"x")), json.loads(other.sign(TYPE, b"x"))
    both = _dump({**mine, "signatures": mine["signatures"] + theirs["signatures"]})
    assert verified_payload(both, TYPE, {signer.key_id: signer.public_key}) == b"x"
    forged = [{**theirs["signatures"][0], "sig": mine["signatures"][0]["sig"]}]
    mixed = _dump({**mine, "signatures": mine["signatures"] + forged})
    assert verified_payload(mixed, TYPE, {signer.key_id: signer.public_key}) == b"x"
    with pytest.raises(SignatureError, match="does not match"):
        verified_payload(mixed, TYPE, {signer.key_id: signer.public_key, other.key_id: other.public_key})
    with pytest.raises(SignatureError, match="no known key"):
        verified_payload(_dump({**mine, "signatures": []}), TYPE, {signer.key_id: signer.public_key})


def test_a_signer_shows_no_secret(signer: Signer) -> None:
    assert bytes(range(32)).hex() not in repr(vars(signer)) + repr(signer)


def _dump(envelope: dict[str, object]) -> bytes:
    return json.dumps(envelope, separators=(",", ":"), sort_keys=True).encode()
