"""C2SP signed notes and the cosignatures of witnesses, in one canonical form.

A note is a text of whole lines, an empty line, and signature lines. Signatures of unknown signers
count for nothing; a known signer's wrong one spoils the note.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sinks.signing import SignatureError, Signer, key_id_of

SIGNER, WITNESS = "frostgate", "frostgate-witness"
NOTE_BYTES_MAX = 16 * 1024
_DASH = "\N{EM DASH} "
_ED25519, _COSIGNATURE = b"\x01", b"\x04"
_SIGNATURE_BYTES = 64
_TIME_BYTES = 8


class UnsignedError(SignatureError):
    """No key that counts signed: the keys are unknown, or their time was over. Nothing is known to be altered."""


class Line(NamedTuple):
    """One signature line: who signed, and what stands behind the key hash."""

    name: str
    key_hash: bytes
    blob: bytes


def signer_name(public_key: Ed25519PublicKey) -> str:
    return f"{SIGNER}+{key_id_of(public_key)}"


def witness_name(public_key: Ed25519PublicKey) -> str:
    return f"{WITNESS}+{key_id_of(public_key)}"


def sign(text: str, signer: Signer) -> str:
    """The note over `text`, which must be whole lines, none of them empty."""
    if not text.endswith("\n") or text.startswith("\n") or "\n\n" in text:
        raise ValueError("a note's text is whole lines")
    name = signer_name(signer.public_key)
    blob = _key_hash(name, _ED25519, signer.public_key) + signer.sign_bytes(text.encode())
    return f"{text}\n{_line(name, blob)}"


def countersigned(note: str, signer: Signer) -> str:
    """The note with that key's signature beside those it has; as it is where it has one already."""
    text, lines = parse(note)
    if signer_name(signer.public_key) in {line.name for line in lines}:
        return note
    return note + sign(text, signer).removeprefix(f"{text}\n")


def text_of(note: str) -> str:
    """What a note says, whoever signed it. Raises SignatureError."""
    return parse(note)[0]


def parse(note: str) -> tuple[str, list[Line]]:
    """Text and signature lines of a note. Raises SignatureError when it is none in its canonical form."""
    text, separator, signatures = note.partition("\n\n")
    text += "\n"
    if not separator or len(note) > NOTE_BYTES_MAX or not signatures.endswith("\n") or not text.strip("\n"):
        raise SignatureError("not a signed note")
    return text, [_parsed(line) for line in signatures[:-1].split("\n")]


def verify(note: str, public_keys: Mapping[str, Ed25519PublicKey]) -> str:
    """The note's text, once a known key signed it. `public_keys` are by key id.

    Raises UnsignedError when no known key signed, SignatureError when a known key's signature is wrong.
    """
    text, lines = parse(note)
    known = {signer_name(key): key for key in public_keys.values()}
    signed = [(known[line.name], line) for line in lines if line.name in known]
    if not signed:
        raise UnsignedError("no known key signed the note")
    for public_key, line in signed:
        if line.key_hash != _key_hash(line.name, _ED25519, public_key):
            raise SignatureError("a known signer's key hash does not match")
        _check(public_key, line.blob, text.encode())
    return text


def cosign(text: str, time_s: int, witness: Signer) -> str:
    """The signature line with which a witness says that it saw `text` at `time_s` (C2SP cosignature/v1)."""
    name = witness_name(witness.public_key)
    signature = witness.sign_bytes(_cosigned(text, time_s))
    blob = _key_hash(name, _COSIGNATURE, witness.public_key) + time_s.to_bytes(_TIME_BYTES, "big") + signature
    return _line(name, blob)


def verify_cosignature(text: str, line: str, witness: Ed25519PublicKey) -> int:
    """The moment, in seconds, at which that witness saw `text`. Raises SignatureError."""
    if not line.endswith("\n"):
        raise SignatureError("not a signature line")
    parsed = _parsed(line[:-1])
    name = witness_name(witness)
    if parsed.name != name or parsed.key_hash != _key_hash(name, _COSIGNATURE, witness):
        raise SignatureError("another key than the witness's")
    time_s = int.from_bytes(parsed.blob[:_TIME_BYTES], "big")
    _check(witness, parsed.blob[_TIME_BYTES:], _cosigned(text, time_s))
    return time_s


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _check(public_key: Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    try:
        public_key.verify(signature, message)
    except InvalidSignature as cause:
        raise SignatureError("a known key's signature does not match") from cause


def _key_hash(name: str, kind: bytes, public_key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + public_key.public_bytes_raw()).digest()[:4]


def _line(name: str, blob: bytes) -> str:
    return f"{_DASH}{name} {base64.b64encode(blob).decode()}\n"


def _parsed(line: str) -> Line:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError as cause:
        raise SignatureError("not a signature line") from cause
    canonical = base64.b64encode(blob).decode() == encoded
    if not line.startswith(_DASH) or not name or not space or not canonical or len(blob) < 4 + _SIGNATURE_BYTES:
        raise SignatureError("not a signature line")
    return Line(name, blob[:4], blob[4:])
