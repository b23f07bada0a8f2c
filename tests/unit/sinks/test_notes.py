"""Signed notes are C2SP's, in one form; a known key's wrong signature spoils a note, an unknown one's does not."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sinks.notes import cosign, countersigned, parse, sign, signer_name, verify, verify_cosignature, witness_name
from sinks.signing import SignatureError, Signer

TEXT = "frostgate/checkpoint/p03\n7\nAAAA\n"


def _signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def _known(*signers: Signer) -> dict[str, Ed25519PublicKey]:
    return {signer.key_id: signer.public_key for signer in signers}


def test_a_note_is_what_c2sp_says_byte_for_byte() -> None:
    signer = _signer()
    name = f"frostgate+{signer.key_id}"
    raw = signer.public_key.public_bytes_raw()
    key_hash = hashlib.sha256(name.encode() + b"\x0a\x01" + raw).digest()[:4]
    blob = base64.b64encode(key_hash + signer.sign_bytes(TEXT.encode())).decode()
    assert sign(TEXT, signer) == f"{TEXT}\n\u2014 {name} {blob}\n"


def test_a_known_signer_is_enough_and_unknown_ones_beside_it_count_for_nothing() -> None:
    ours, theirs = _signer(), _signer()
    note = countersigned(sign(TEXT, theirs), ours)
    assert len(parse(note)[1]) == 2
    assert verify(note, _known(ours)) == TEXT
    assert verify(note, _known(ours, theirs)) == TEXT
    assert countersigned(note, ours) == note
    with pytest.raises(SignatureError, match="no known key"):
        verify(note, _known(_signer()))


def test_a_known_signers_wrong_signature_spoils_the_note_whoever_else_signed() -> None:
    ours, theirs = _signer(), _signer()
    forged = sign(TEXT, theirs) + sign("another\n", ours).removeprefix("another\n\n")
    with pytest.raises(SignatureError, match="does not match"):
        verify(forged, _known(ours, theirs))


def test_every_changed_character_of_a_note_is_found() -> None:
    signer = _signer()
    note = sign(TEXT, signer)
    for at, character in enumerate(note):
        changed = note[:at] + ("B" if character != "B" else "C") + note[at + 1 :]
        with pytest.raises(SignatureError):
            verify(changed, _known(signer))


@pytest.mark.parametrize("note", ["", "\n", "text", "text\n", "text\n\n", "text\n\n\u2014 a\n", "\n\n\u2014 a AAAA\n"])
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(SignatureError):
        parse(note)


def test_a_cosignature_binds_text_time_and_witness() -> None:
    witness, another = _signer(), _signer()
    line = cosign(TEXT, 1_700_000_000, witness)
    blob = base64.b64decode(line.split(" ")[2])
    raw = witness.public_key.public_bytes_raw()
    assert blob[:4] == hashlib.sha256(witness_name(witness.public_key).encode() + b"\x0a\x04" + raw).digest()[:4]
    assert int.from_bytes(blob[4:12], "big") == 1_700_000_000
    witness.public_key.verify(blob[12:], f"cosignature/v1\ntime 1700000000\n{TEXT}".encode())
    assert verify_cosignature(TEXT, line, witness.public_key) == 1_700_000_000
    for text, key in ((TEXT + "more\n", witness), (TEXT, another)):
        with pytest.raises(SignatureError):
            verify_cosignature(text, line, key.public_key)
    later = blob[:4] + (1_700_000_001).to_bytes(8, "big") + blob[12:]
    with pytest.raises(SignatureError):
        verify_cosignature(TEXT, f"{line.rsplit(' ', 1)[0]} {base64.b64encode(later).decode()}\n", witness.public_key)


def test_a_cosignature_stands_under_a_note_as_one_more_signature_that_we_do_not_know() -> None:
    signer, witness = _signer(), _signer()
    note = sign(TEXT, signer) + cosign(TEXT, 1_700_000_000, witness)
    assert verify(note, _known(signer)) == TEXT
    assert signer_name(signer.public_key) in note
