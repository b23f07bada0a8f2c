"""The key ring: the public keys of evidence and their times, signed by a root key that is kept offline."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from schemas.canonical import canonical_plain
from schemas.units import UnixMs, format_rfc3339, parse_rfc3339
from sinks import notes
from sinks.signing import (
    SignatureError,
    Signer,
    fingerprint_of,
    key_id_of,
    payload_of,
    sign_together,
    verified_payload,
)

KEYRING_TYPE = "application/vnd.frostgate.keyring+json"
ROTATION_TYPE = "application/vnd.frostgate.key-rotation+json"
EVIDENCE, WITNESS = "evidence", "witness"
RING_BYTES_MAX = 1024 * 1024
_TYPE, _ROTATION = "frostgate.keyring", "frostgate.key-rotation"


class KeyringError(Exception):
    """The key ring cannot be used. The text says why and what to do."""


class RingKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public key of the ring. An empty `not_after` has no end."""

    key_id: str
    not_after: str
    not_before: str
    public_key: str
    use: str

    @property
    def key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(self.public_key, validate=True))

    def holds_at(self, moment_ms: UnixMs) -> bool:
        """Whether what the key signed at that moment is signed."""
        return self.holds_within(moment_ms, moment_ms)

    def holds_within(self, earliest_ms: UnixMs, latest_ms: UnixMs) -> bool:
        """Whether what the key signed at some moment between the two is signed."""
        if latest_ms < parse_rfc3339(self.not_before):
            return False
        return not self.not_after or earliest_ms <= parse_rfc3339(self.not_after)


class Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ring's document."""

    created_at: str
    keys: tuple[RingKey, ...]
    root_public_key: str
    rotations: tuple[str, ...]
    type: str
    version: int


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One evidence key took another's place."""

    new_key_id: str
    old_key_id: str
    rotated_at: str
    type: str
    version: int


class Keyring(NamedTuple):
    """A verified key ring and the envelope it came in."""

    ring: Ring
    root: Ed25519PublicKey
    envelope: bytes

    @property
    def root_fingerprint(self) -> str:
        return fingerprint_of(self.root)

    def public_keys(self, use: str = EVIDENCE, moment_ms: UnixMs | None = None) -> dict[str, Ed25519PublicKey]:
        """The keys of that use by id; with a moment, those that hold at it."""
        return {
            one.key_id: one.key
            for one in self.ring.keys
            if one.use == use and (moment_ms is None or one.holds_at(moment_ms))
        }

    def rotations(self) -> list[tuple[Rotation, bytes]]:
        """Each rotation with its envelope, oldest first."""
        return [(_rotation(text.encode()), text.encode()) for text in self.ring.rotations]


def read(data: bytes, root_fingerprint: str = "") -> Keyring:
    """The ring in that envelope, once its root key signed it and it is in its one form.

    Without a fingerprint the root is believed to be itself. Raises KeyringError.
    """
    if len(data) > RING_BYTES_MAX:
        raise KeyringError("the key ring is larger than any key ring")
    try:
        ring = msgspec.json.decode(payload_of(data), type=Ring)
        root = Ed25519PublicKey.from_public_bytes(base64.b64decode(ring.root_public_key, validate=True))
        payload = verified_payload(data, KEYRING_TYPE, {key_id_of(root): root})
        sound = canonical_plain(ring) == payload and all(_is_sound(one) for one in ring.keys)
        keyring = Keyring(ring, root, data)
        keyring.rotations()
    except (SignatureError, ValueError) as cause:
        raise KeyringError(f"the key ring proves nothing: {cause}") from cause
    if not sound or ring.type != _TYPE or ring.version < 1:
        raise KeyringError("the key ring is not in its one form")
    if root_fingerprint and keyring.root_fingerprint != root_fingerprint:
        raise KeyringError("the key ring is signed by another root key")
    return keyring


def load(file: Path) -> Keyring:
    """The ring in that file. Raises KeyringError, which says what to do where there is no such file."""
    try:
        data = file.read_bytes()
    except FileNotFoundError as cause:
        raise KeyringError(f"there is no key ring {file}: make one with `frostgate keyring init`") from cause
    except OSError as cause:
        raise KeyringError(f"the key ring {file} cannot be read: {type(cause).__name__}") from cause
    return read(data)


class RingFile:
    """The ring in a file, read again when the file is another one than it was."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[tuple[int, int, int], Keyring] | None = None

    def now(self) -> Keyring:
        """The ring as the file has it now. Raises KeyringError."""
        try:
            found = self._file.stat()
        except OSError:
            return load(self._file)  # which says why it cannot be read
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != version:
            self._read = (version, load(self._file))
        return self._read[1]


def verify_note(keyring: Keyring, note: str, earliest_ms: UnixMs, latest_ms: UnixMs) -> None:
    """On return a key of the ring signed the note, one that held between the two moments (docs/evidence.md, step 9).

    Where a witness of the ring saw it, that is the later moment. Raises UnsignedError where none did, and
    SignatureError for a wrong signature of any key of the ring.
    """
    text = notes.verify(note, keyring.public_keys())
    names = [line.name for line in notes.parse(note)[1]]
    witnesses = {notes.witness_name(one.key): one for one in keyring.ring.keys if one.use == WITNESS}
    for name, line in zip(names, note.partition("\n\n")[2].split("\n"), strict=False):
        if witness := witnesses.get(name):
            seen_ms = UnixMs(notes.verify_cosignature(text, f"{line}\n", witness.key) * 1_000)
            latest_ms = min(latest_ms, seen_ms) if witness.holds_at(seen_ms) else latest_ms
    signers = [one for one in keyring.ring.keys if one.use == EVIDENCE and notes.signer_name(one.key) in names]
    if not any(one.holds_within(earliest_ms, latest_ms) for one in signers):
        raise notes.UnsignedError("the note is signed outside of its key's time")


def fault_of(keyring: Keyring, signer: Signer, moment_ms: UnixMs) -> str:
    """Why that key must not sign evidence at that moment; empty when it may."""
    if signer.key_id not in keyring.public_keys():
        return f"SIGNING_KEY_UNKNOWN: the key ring does not know the signing key {signer.key_id}"
    if signer.key_id not in keyring.public_keys(moment_ms=moment_ms):
        return f"SIGNING_KEY_EXPIRED: the time of the signing key {signer.key_id} is over or has not begun"
    return ""


def first(root: Signer, signing: Ed25519PublicKey, now_ms: UnixMs) -> Keyring:
    """Version 1: one evidence key, valid from now on."""
    return _sealed(root, (_entry(signing, EVIDENCE, now_ms),), (), 1, now_ms)


def rotated(keyring: Keyring, root: Signer, old: Signer, new: Signer, times: tuple[UnixMs, UnixMs]) -> Keyring:
    """The next version: `new` signs from the first of the times on, `old` until the second.

    Raises KeyringError when `old` does not hold now or `root` is another ring's.
    """
    now_ms, until_ms = times
    if fault := fault_of(keyring, old, now_ms):
        raise KeyringError(fault)
    version = keyring.ring.version + 1
    statement = Rotation(new.key_id, old.key_id, format_rfc3339(now_ms), _ROTATION, version)
    envelope = sign_together((old, new), ROTATION_TYPE, canonical_plain(statement)).decode()
    until = format_rfc3339(until_ms)
    keys = tuple(
        msgspec.structs.replace(one, not_after=until) if one.key_id == old.key_id else one for one in keyring.ring.keys
    )
    added = (*keys, _entry(new.public_key, EVIDENCE, now_ms))
    return _next(keyring, root, added, (*keyring.ring.rotations, envelope), now_ms)


def with_witness(keyring: Keyring, root: Signer, witness: Ed25519PublicKey, now_ms: UnixMs) -> Keyring:
    """The next version, which knows that witness too. Raises KeyringError when it is known already."""
    if key_id_of(witness) in {one.key_id for one in keyring.ring.keys}:
        raise KeyringError("the key ring knows that key already")
    keys = (*keyring.ring.keys, _entry(witness, WITNESS, now_ms))
    return _next(keyring, root, keys, keyring.ring.rotations, now_ms)


def _next(keyring: Keyring, root: Signer, keys: Sequence[RingKey], rotations: Sequence[str], now_ms: UnixMs) -> Keyring:
    if fingerprint_of(root.public_key) != keyring.root_fingerprint:
        raise KeyringError("that root key is not the one that signed this key ring")
    return _sealed(root, keys, rotations, keyring.ring.version + 1, now_ms)


def _sealed(root: Signer, keys: Sequence[RingKey], rotations: Sequence[str], version: int, now_ms: UnixMs) -> Keyring:
    ring = Ring(format_rfc3339(now_ms), tuple(keys), _base64(root.public_key), tuple(rotations), _TYPE, version)
    return read(root.sign(KEYRING_TYPE, canonical_plain(ring)))


def _entry(public_key: Ed25519PublicKey, use: str, now_ms: UnixMs) -> RingKey:
    return RingKey(key_id_of(public_key), "", format_rfc3339(now_ms), _base64(public_key), use)


def _rotation(envelope: bytes) -> Rotation:
    statement = msgspec.json.decode(payload_of(envelope), type=Rotation)
    if statement.type != _ROTATION:
        raise ValueError("not a rotation")
    return statement


def _is_sound(one: RingKey) -> bool:
    """Whether id, key and times agree. Raises ValueError where one of them cannot be read."""
    parse_rfc3339(one.not_before)
    if one.not_after:
        parse_rfc3339(one.not_after)
    return key_id_of(one.key) == one.key_id and one.use in {EVIDENCE, WITNESS}


def _base64(public_key: Ed25519PublicKey) -> str:
    return base64.b64encode(public_key.public_bytes_raw()).decode()
