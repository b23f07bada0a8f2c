"""Ed25519 signatures in DSSE v1 envelopes.

An envelope here has one form only, canonical JSON and canonical base64, so that a changed byte
anywhere in it is found, also where a decoder would not look.
"""

import base64
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from schemas.canonical import canonical_plain, sha256_hex
from sinks.durable_file import write_new

_KEY_MODE = 0o600
_WIDER_MODES = 0o177


class KeyFileError(Exception):
    """The signing key cannot be used; the text names the file and never its content."""


class SignatureError(Exception):
    """The envelope proves nothing."""


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """DSSE v1; the field names are the standard's."""

    payload: str
    payloadType: str  # noqa: N815  (the standard's name)
    signatures: tuple[_Signature, ...]


class Signer:
    """A signing key. `key_id` names its public half."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key()
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def load(cls, key_file: Path) -> Self:
        """Read a key that `create_key` made.

        Raises KeyFileError when there is none, when anybody but its owner may do anything with the
        file, or when it holds anything but an unencrypted Ed25519 private key.
        """
        try:
            descriptor = os.open(key_file, os.O_RDONLY)
            with os.fdopen(descriptor, "rb") as file:
                mode = os.fstat(descriptor).st_mode
                if not stat.S_ISREG(mode) or mode & _WIDER_MODES:
                    raise KeyFileError(f"{key_file} must be a file of mode 0600 or less")
                key = load_pem_private_key(file.read(), password=None)
        except (OSError, ValueError, TypeError) as cause:
            raise KeyFileError(f"{key_file} holds no signing key: {type(cause).__name__}") from cause
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"{key_file} holds a key of another kind than Ed25519")
        return cls(key)

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """Return the envelope over `payload`, one line of JSON."""
        return sign_together((self,), payload_type, payload)

    def sign_bytes(self, message: bytes) -> bytes:
        """The bare signature. The caller sees to it that no message means something in two places."""
        return self._key.sign(message)


def sign_together(signers: Sequence[Signer], payload_type: str, payload: bytes) -> bytes:
    """Return one envelope over `payload` with the signature of each signer, in their order."""
    message = _signed_bytes(payload_type, payload)
    signatures = tuple(_Signature(signer.key_id, _base64(signer.sign_bytes(message))) for signer in signers)
    return canonical_plain(_Envelope(_base64(payload), payload_type, signatures))


def payload_of(envelope: bytes) -> bytes:
    """What the envelope holds, believed by nobody yet. Raises SignatureError when it is no envelope."""
    try:
        return base64.b64decode(msgspec.json.decode(envelope, type=_Envelope).payload, validate=True)
    except ValueError as cause:
        raise SignatureError("not an envelope") from cause


def load_public_key(key_file: Path) -> Ed25519PublicKey:
    """Read a PEM public key. Raises KeyFileError when the file holds none of the kind Ed25519."""
    try:
        key = load_pem_public_key(key_file.read_bytes())
    except (OSError, ValueError) as cause:
        raise KeyFileError(f"{key_file} holds no public key: {type(cause).__name__}") from cause
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{key_file} holds a key of another kind than Ed25519")
    return key


def public_pem(public_key: Ed25519PublicKey) -> bytes:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint_of(public_key: Ed25519PublicKey) -> str:
    """The sha256 of the raw public key, in hex."""
    return sha256_hex(public_key.public_bytes_raw())


def create_key(key_file: Path) -> None:
    """Return once a new key is on disk in `key_file`, mode 0600. Raises FileExistsError when the file is there."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(key_file, pem, _KEY_MODE)


def key_id_of(public_key: Ed25519PublicKey) -> str:
    """The first 8 bytes of the sha256 of the raw public key, in hex."""
    return fingerprint_of(public_key)[:16]


def verified_payload(envelope: bytes, payload_type: str, public_keys: Mapping[str, Ed25519PublicKey]) -> bytes:
    """Return the payload that a known key signed as `payload_type`.

    Signatures of unknown keys count for nothing. Raises SignatureError when no known key signed,
    when a known key's signature is wrong, or when the envelope is of another type or form.
    """
    try:
        read = msgspec.json.decode(envelope, type=_Envelope)
        payload = base64.b64decode(read.payload, validate=True)
        signatures = [(one.keyid, base64.b64decode(one.sig, validate=True)) for one in read.signatures]
    except ValueError as cause:
        raise SignatureError("not an envelope") from cause
    if read.payloadType != payload_type:
        raise SignatureError("an envelope of another type")
    rewritten = tuple(_Signature(key_id, _base64(signature)) for key_id, signature in signatures)
    if canonical_plain(_Envelope(_base64(payload), payload_type, rewritten)) != envelope:
        raise SignatureError("the envelope is not in its canonical form")
    known = [(public_keys[key_id], signature) for key_id, signature in signatures if key_id in public_keys]
    if not known:
        raise SignatureError("no known key signed the envelope")
    try:
        for public_key, signature in known:
            public_key.verify(signature, _signed_bytes(payload_type, payload))
    except InvalidSignature as cause:
        raise SignatureError("a known key's signature does not match") from cause
    return payload


def _signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
