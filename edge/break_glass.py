"""The emergency override for the loss of Redis: a signed document that waives rate and nonce, and nothing else.

A document is a DSSE v1 envelope (Ed25519) over JSON. It names one environment and at most one hour.
It is armed by writing its id into a ledger that forgets nothing, then itself beside that ledger: an
id is armed once, and disarming or expiry never gives it back. All of it is files, because it is for
the time when Redis is away.
"""

import base64
import contextlib
import hashlib
import logging
import os
import re
import stat
import tempfile
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from schemas.units import Clock, UnixMs, parse_rfc3339

log = logging.getLogger("edge")

PAYLOAD_TYPE = "application/vnd.frostgate.break-glass+json"
VALID_MS_MAX = 3_600_000
CHECK_MS = 1_000
"""How old the answer of `armed` may be, so that disarming binds within it."""
FILE_BYTES_MAX = 16 * 1024
DOCUMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NOTHING_ARMED = "no break-glass document is armed"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = 0o077
_PRIVATE = 0o600


class DocumentError(Exception):
    """The document waives nothing. The text says why, for the operator."""


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed. Times are RFC 3339."""

    id: str
    environment: str
    not_before: str
    not_after: str
    reason: str
    operator: str


class _Signature(msgspec.Struct, frozen=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True):
    payload: str
    payloadType: str  # noqa: N815  (DSSE's name)
    signatures: tuple[_Signature, ...]


class ArmedDocument:
    """Implements `edge.ports.BreakGlass` over `file`, with the ledger in the directory `<file>.used`.

    `public_key_file` (PEM) is of whoever may sign; empty, or not readable, and nothing is ever armed.
    """

    def __init__(self, file: Path, public_key_file: str, environment: str, clock: Clock) -> None:
        self._file = file
        self._ledger = file.with_name(f"{file.name}.used")
        self._public_key_file = public_key_file
        self._environment = environment
        self._clock = clock
        self._checked_ms: UnixMs | None = None
        self._in_force: Document | None = None
        self._said = _NOTHING_ARMED

    def armed(self) -> str | None:
        """The id of the armed document while it is valid, None on any doubt. Looks at the files once a second."""
        now_ms = self._clock.now_ms()
        if self._checked_ms is None or not 0 <= now_ms - self._checked_ms < CHECK_MS:
            self._checked_ms = now_ms
            self._in_force = self._looked_up()
        document = self._in_force
        return document.id if document is not None and now_ms < parse_rfc3339(document.not_after) else None

    def current(self) -> Document:
        """The document in force. Raises DocumentError."""
        data = _read_private(self._file)
        document = self._judged(data)
        self._judge_places()
        if _read_private(self._ledger / document.id) != _sha256(data):
            raise DocumentError("the armed file is not the document that was armed")
        if self._disarmed(data).exists():
            raise DocumentError(f"document {document.id} was disarmed")
        return document

    def arm(self, data: bytes) -> Document:
        """Return once the document is in force. Raises DocumentError when it never can be, OSError for a full disk.

        After OSError its id may be used up: sign a new one.
        """
        document = self._judged(data)
        self._ledger.mkdir(mode=0o700, exist_ok=True)
        self._judge_places()
        try:
            _write_once(self._ledger / document.id, _sha256(data))
        except FileExistsError as cause:
            raise DocumentError(f"document {document.id} was armed before; each can be armed once") from cause
        _replace(self._file, data)
        return document

    def disarm(self) -> str | None:
        """Return once nothing is armed: the id of the document that was, None when there was none in force."""
        try:
            document_id = self.current().id
        except DocumentError:
            document_id = None
        if self._file.exists():
            self._ledger.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                _write_once(self._disarmed(self._file.read_bytes()), b"")  # putting the file back does not arm it
            self._file.unlink()
        return document_id

    def _judge_places(self) -> None:
        """Raises DocumentError when others may change what was armed, or who may sign: they could arm it again."""
        for place, kind in (
            (self._ledger, stat.S_ISDIR),
            (self._ledger.parent, stat.S_ISDIR),
            (Path(self._public_key_file), stat.S_ISREG),
        ):
            try:
                status = place.lstat() if place == self._ledger else place.stat()
            except OSError as cause:
                raise DocumentError(f"{place.name} is not there, or cannot be looked at") from cause
            ours = status.st_uid in {os.geteuid(), 0}
            if not kind(status.st_mode) or status.st_mode & _WRITABLE_BY_OTHERS or not ours:
                raise DocumentError(f"{place.name} may be changed by others than this user")

    def _disarmed(self, data: bytes) -> Path:
        return self._ledger / f"{_sha256(data).decode()}.disarmed"

    def _looked_up(self) -> Document | None:
        if not os.path.lexists(self._file):
            self._say(_NOTHING_ARMED)
            return None
        try:
            document = self.current()
        except DocumentError as problem:
            self._say(f"no break-glass document is in force: {problem}")
            return None
        self._say(f"break-glass document {document.id} is in force until {document.not_after}")
        return document

    def _say(self, words: str) -> None:
        if words != self._said:
            log.warning("%s", words)
        self._said = words

    def _judged(self, data: bytes) -> Document:
        document = _verified(data, _public_key(self._public_key_file))
        if DOCUMENT_ID.fullmatch(document.id) is None:
            raise DocumentError("the document's id is not 1 to 64 letters, digits, '_' or '-'")
        if document.environment != self._environment:
            raise DocumentError(f"the document is for {document.environment!r}, this is {self._environment!r}")
        try:
            begin_ms, end_ms = parse_rfc3339(document.not_before), parse_rfc3339(document.not_after)
        except ValueError as cause:
            raise DocumentError("the document's times are not RFC 3339") from cause
        if not 0 < end_ms - begin_ms <= VALID_MS_MAX:
            raise DocumentError("the document is not for a time of up to one hour")
        if not begin_ms <= self._clock.now_ms() < end_ms:
            raise DocumentError(f"the document is valid from {document.not_before} until {document.not_after}")
        return document


def signed_bytes(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of a document."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _verified(data: bytes, public_key: Ed25519PublicKey) -> Document:
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [base64.b64decode(one.sig, validate=True) for one in envelope.signatures]
    except (ValueError, RecursionError) as cause:
        raise DocumentError("the file is not a signed document") from cause
    if envelope.payloadType != PAYLOAD_TYPE or not any(_signed(public_key, one, payload) for one in signatures):
        raise DocumentError("the document is not signed by the key that may")
    try:
        return msgspec.json.decode(payload, type=Document)
    except (ValueError, RecursionError) as cause:
        raise DocumentError("the signed text is not a break-glass document") from cause


def _signed(public_key: Ed25519PublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        public_key.verify(signature, signed_bytes(payload))
    except InvalidSignature:
        return False
    return True


def _public_key(file: str) -> Ed25519PublicKey:
    if not file:
        raise DocumentError("no public key is configured: set FG_BREAK_GLASS_PUBLIC_KEY_FILE")
    try:
        key = load_pem_public_key(Path(file).read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as cause:
        raise DocumentError("FG_BREAK_GLASS_PUBLIC_KEY_FILE names no readable PEM public key") from cause
    if not isinstance(key, Ed25519PublicKey):
        raise DocumentError("FG_BREAK_GLASS_PUBLIC_KEY_FILE names a key of another kind than Ed25519")
    return key


def _read_private(file: Path) -> bytes:
    """What the file holds. Raises DocumentError unless it is a small file of this user that nobody else may touch."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_mode & _OTHERS or status.st_uid != os.geteuid():
                raise DocumentError(f"{file.name} must be a file of this user, mode 0600")
            data = opened.read(FILE_BYTES_MAX + 1)
    except OSError as cause:
        raise DocumentError(f"{file.name} is not there, or cannot be read") from cause
    if len(data) > FILE_BYTES_MAX:
        raise DocumentError(f"{file.name} is too long")
    return data


def _write_once(file: Path, data: bytes) -> None:
    """Return once the file is on disk. Raises FileExistsError when its name is taken."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(descriptor)
    _sync(file.parent)


def _replace(file: Path, data: bytes) -> None:
    """Return once the file holds exactly this on disk, mode 0600."""
    descriptor, name = tempfile.mkstemp(prefix=".armed-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(descriptor)
        Path(name).replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
    _sync(file.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
