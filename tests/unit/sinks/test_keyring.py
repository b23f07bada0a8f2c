"""The key ring: what the root key signed, in one form; rotations carry both keys' signatures."""

import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.canonical import canonical_plain
from schemas.units import UnixMs
from sinks.keyring import (
    KEYRING_TYPE,
    ROTATION_TYPE,
    WITNESS,
    Keyring,
    KeyringError,
    fault_of,
    first,
    read,
    rotated,
    with_witness,
)
from sinks.signing import Signer, fingerprint_of, payload_of, verified_payload

NOW = UnixMs(1_700_000_000_000)
LATER = UnixMs(NOW + 60_000)
END = UnixMs(LATER + 3_600_000)


def _signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def _made() -> tuple[Signer, Signer, Keyring]:
    root, signing = _signer(), _signer()
    return root, signing, first(root, signing.public_key, NOW)


def test_a_ring_is_read_by_its_own_root_or_by_the_fingerprint_that_was_noted() -> None:
    root, signing, ring = _made()
    fingerprint = fingerprint_of(root.public_key)
    assert read(ring.envelope).root_fingerprint == fingerprint
    assert set(read(ring.envelope, fingerprint).public_keys()) == {signing.key_id}
    with pytest.raises(KeyringError, match="another root"):
        read(ring.envelope, "0" * 64)


def test_a_ring_that_its_root_did_not_sign_proves_nothing() -> None:
    _root, signing, ring = _made()
    document = payload_of(ring.envelope)
    with pytest.raises(KeyringError, match="proves nothing"):
        read(signing.sign(KEYRING_TYPE, document))


def test_every_changed_byte_of_a_ring_is_found() -> None:
    envelope = _made()[2].envelope
    for at in range(len(envelope)):
        changed = envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]
        with pytest.raises(KeyringError):
            read(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"type": "other"},
        {"keys": [{"key_id": "0" * 16, "not_after": "", "not_before": "x", "public_key": "", "use": "evidence"}]},
        {"more": 1},
    ],
)
def test_a_document_out_of_form_is_refused_even_when_the_root_signed_it(change: dict[str, object]) -> None:
    root, _signing, ring = _made()
    document = json.loads(payload_of(ring.envelope)) | change
    with pytest.raises(KeyringError):
        read(root.sign(KEYRING_TYPE, canonical_plain(document)))


def test_a_document_in_another_form_than_its_one_is_refused_even_when_the_root_signed_it() -> None:
    root, _signing, ring = _made()
    document = json.loads(payload_of(ring.envelope))
    with pytest.raises(KeyringError, match="one form"):
        read(root.sign(KEYRING_TYPE, json.dumps(document, indent=1).encode()))


def test_a_key_may_sign_within_its_time_and_when_the_ring_knows_it() -> None:
    _root, signing, ring = _made()
    assert fault_of(ring, signing, NOW) == ""
    assert fault_of(ring, signing, UnixMs(NOW - 1)).startswith("SIGNING_KEY_EXPIRED")
    assert fault_of(ring, _signer(), NOW).startswith("SIGNING_KEY_UNKNOWN")


def test_after_a_rotation_both_keys_hold_for_the_overlap_and_then_the_new_one_alone() -> None:
    root, old, ring = _made()
    new = _signer()
    after = rotated(ring, root, old, new, (LATER, END))
    assert after.ring.version == 2
    assert set(after.public_keys(moment_ms=LATER)) == {old.key_id, new.key_id}
    assert set(after.public_keys(moment_ms=UnixMs(END + 1))) == {new.key_id}
    assert set(after.public_keys()) == {old.key_id, new.key_id}, "what either signed in its time stays verifiable"
    assert fault_of(after, old, UnixMs(END + 1)).startswith("SIGNING_KEY_EXPIRED")


def test_a_rotation_is_signed_by_the_old_key_and_the_new_one() -> None:
    root, old, ring = _made()
    new = _signer()
    ((rotation, envelope),) = rotated(ring, root, old, new, (LATER, END)).rotations()
    assert (rotation.old_key_id, rotation.new_key_id, rotation.version) == (old.key_id, new.key_id, 2)
    for one in (old, new):
        payload = verified_payload(envelope, ROTATION_TYPE, {one.key_id: one.public_key})
        assert msgspec.json.decode(payload, type=type(rotation)) == rotation


def test_only_the_rings_own_root_makes_its_next_version_and_only_a_valid_key_hands_over() -> None:
    root, old, ring = _made()
    with pytest.raises(KeyringError, match="not the one"):
        rotated(ring, _signer(), old, _signer(), (LATER, END))
    with pytest.raises(KeyringError, match="SIGNING_KEY_UNKNOWN"):
        rotated(ring, root, _signer(), _signer(), (LATER, END))


def test_a_witness_is_a_key_of_another_use_and_is_added_once() -> None:
    root, signing, ring = _made()
    witness = _signer()
    after = with_witness(ring, root, witness.public_key, LATER)
    assert set(after.public_keys(WITNESS)) == {witness.key_id}
    assert set(after.public_keys()) == {signing.key_id}
    with pytest.raises(KeyringError, match="already"):
        with_witness(after, root, witness.public_key, LATER)
