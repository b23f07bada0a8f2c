#!/usr/bin/env python3
"""Verify exported evidence offline, or a live database.

This file needs nothing but Python 3.9 and docs/evidence.md, which says what a bundle holds and in which order it is
checked; docs/verification.md says what each verdict means. It reads a bundle of any size in bounded memory and
believes nothing in it before it is proven.
"""

from __future__ import annotations

import argparse
import base64
import gc
import hashlib
import hmac
import json
import re
import sys
from binascii import hexlify
from collections.abc import Coroutine, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

OK, TAMPERED, TRUNCATED, FORKED, BAD_SIGNATURE, UNKNOWN_KEY, MALFORMED = range(7)
WORDS = ("ok", "tampered", "truncated", "forked", "bad signature", "unknown key", "malformed")
USAGE, UNAVAILABLE = 64, 69

MEMBERS = (
    "entries.jsonl",
    "artifacts.jsonl",
    "traces.jsonl",
    "proof.json",
    "checkpoints.jsonl",
    "head.note",
    "keyring.json",
    "manifest.json",
)
OPTIONAL_MEMBER = "traces.jsonl"
DOCUMENT_BYTES_MAX = 1024 * 1024
LINE_BYTES_MAX = 4 * 1024 * 1024
ENTRY_BYTES_MAX = 64 * 1024
ENTRY_BYTES_MIN = 400
SPANS_BYTES_MAX = 256 * 1024
CHECKPOINT_BYTES_MAX = 32 * 1024
SIGNATURE_LINES_MAX = 32
DAYS_KNOWN_MAX = 10_000
CHUNK_BYTES = 64 * 1024
BLOCK_BYTES = 512
APART_BYTES_MIN = 32 * 1024 * 1024
ENTRIES_PER_CHECKPOINT = 10_000
INTEGER_DIGITS_MAX = 16
LEVELS_MAX = 64
MOMENT_MAX = 10**18
CLOCKS_APART_US = 5 * 60 * 1_000_000
TEXT_CHARACTERS_MAX = 200

KEYRING_TYPE = "application/vnd.frostgate.keyring+json"
ROTATION_TYPE = "application/vnd.frostgate.key-rotation+json"
MANIFEST_TYPE = "application/vnd.in-toto+json"


class FaultError(Exception):
    """The first fault found: its exit status, what it is, and the sequence it was found at."""

    def __init__(self, status: int, text: str, seq: int | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.seq = status, text, seq


class UnreadableError(ValueError):
    """Bytes that are not what the format says."""


# --- Ed25519 (RFC 8032, 5.1.7), strict: no second encoding of a point or a scalar is taken -------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]
"""(X, Y, Z, T): x = X/Z, y = Y/Z, x * y = T/Z."""
NEUTRAL = (0, 1, 1, 0)


def _added(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _doubled(p: Point) -> Point:
    a, b = p[0] * p[0] % P, p[1] * p[1] % P
    h = a + b
    e, g = h - (p[0] + p[1]) * (p[0] + p[1]), a - b
    f = 2 * p[2] * p[2] + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def _point(data: bytes) -> Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _encoded(p: Point) -> bytes:
    inverse = pow(p[2], P - 2, P)
    x: int = p[0] * inverse % P
    y: int = p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_BASE_Y = 4 * pow(5, P - 2, P) % P
_BASE = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % P)


def ed25519_verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is that key's over `message`."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, scalar = _point(public_key), int.from_bytes(signature[32:], "little")
    if key is None or scalar >= ORDER:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % ORDER
    minus_key = (P - key[0], key[1], 1, P - key[3])
    terms = (None, _BASE, minus_key, _added(_BASE, minus_key))
    total: Point = NEUTRAL
    for at in range(max(scalar.bit_length(), challenge.bit_length()) - 1, -1, -1):
        total = _doubled(total)
        term = terms[(scalar >> at & 1) | (challenge >> at & 1) << 1]
        if term is not None:
            total = _added(total, term)
    return hmac.compare_digest(_encoded(total), signature[:32])


# --- The words of the format -----------------------------------------------------------------------------------------


def _no_float(text: str) -> NoReturn:
    raise UnreadableError(f"{printable(text)} is no integer")


def _integer(text: str) -> int:
    if len(text) > INTEGER_DIGITS_MAX:
        raise UnreadableError("an integer that is too large")
    return int(text)


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a value of ASCII keys, strings, booleans and integers. Raises UnreadableError."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as cause:
        raise UnreadableError("text that is no text") from cause


def document(data: bytes) -> Any:
    """The value whose one canonical form these bytes are. Raises UnreadableError."""
    try:
        value = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float, parse_int=_integer)
    except (ValueError, RecursionError) as cause:
        raise UnreadableError("not JSON of this format") from cause
    if canonical(value) != data:
        raise UnreadableError("not in its canonical form")
    return value


def fields(value: Any, **types: type) -> tuple[Any, ...]:
    """The values of an object that has exactly these members, of these types. Raises UnreadableError."""
    if type(value) is not dict or set(value) != set(types):
        raise UnreadableError("not the members it must have")
    if any(type(value[name]) is not expected for name, expected in types.items()):
        raise UnreadableError("a member of the wrong type")
    if any(expected is int and value[name] < 0 for name, expected in types.items()):
        raise UnreadableError("a negative number")
    return tuple(value[name] for name in types)


def unhex(text: Any) -> bytes:
    if type(text) is not str or re.fullmatch("[0-9a-f]{64}", text) is None:
        raise UnreadableError("not a hash")
    return bytes.fromhex(text)


def unbase64(text: Any, length: int | None = None) -> bytes:
    """Canonical base64: standard alphabet, padded, no stray bits. Raises UnreadableError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as cause:
        raise UnreadableError("not base64") from cause
    if base64.b64encode(data).decode() != text or (length is not None and len(data) != length):
        raise UnreadableError("not base64 of that length")
    return data


_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z", re.ASCII)


def moment_us(text: str) -> int:
    """An RFC 3339 moment in UTC as microseconds since the Unix epoch. Raises UnreadableError."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise UnreadableError("not a moment")
    try:
        seconds = datetime.fromisoformat(match[1] + "+00:00").timestamp()
    except ValueError as cause:
        raise UnreadableError("not a moment") from cause
    return int(seconds) * 1_000_000 + int((match[2] or "").ljust(6, "0"))


def rfc3339_us(moment: int) -> str:
    try:
        text = datetime.fromtimestamp(moment // 1_000_000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError) as cause:
        raise UnreadableError("a moment out of range") from cause
    return f"{text:0>19}.{moment % 1_000_000:06d}Z"


def printable(text: str) -> str:
    """What a bundle says, without what a terminal would obey."""
    return ascii(text[:TEXT_CHARACTERS_MAX])[1:-1]


# --- Trees -----------------------------------------------------------------------------------------------------------


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """An RFC 6962 tree that grows by leaves and by whole subtrees, as its complete subtrees alone."""

    def __init__(self) -> None:
        self.size = 0
        self.nodes: list[tuple[int, bytes]] = []

    def append(self, node: bytes, level: int = 0) -> None:
        self.size += 1 << level
        nodes = self.nodes
        while nodes and nodes[-1][0] == level:
            node = hashlib.sha256(b"\x01" + nodes.pop()[1] + node).digest()
            level += 1
        nodes.append((level, node))

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append these leaves: one by one up to a whole subtree, which is made level by level."""
        at = 0
        while at < len(leaves):
            free = self.size & -self.size if self.size else len(leaves)
            level = min(free, len(leaves) - at).bit_length() - 1
            nodes = leaves[at : at + (1 << level)]
            at += len(nodes)
            while len(nodes) > 1:
                pairs = zip(nodes[::2], nodes[1::2])  # noqa: B905  (Python 3.9)
                nodes = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
            self.append(nodes[0], level)

    def root(self) -> bytes:
        if not self.nodes:
            return hashlib.sha256(b"").digest()
        root = self.nodes[-1][1]
        for _, node in reversed(self.nodes[:-1]):
            root = _parent(node, root)
        return root


def cover_levels(first: int, end: int) -> list[int]:
    """The levels of the fewest complete subtrees that hold the leaves `first` up to, not with, `end`; in order."""
    levels = []
    while first < end:
        level = (end - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        levels.append(level)
        first += 1 << level
    return levels


def root_from(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """The root that an audit path leads to (RFC 9162, 2.1.3.2); None where it is of another length."""
    if not 0 <= index < size:
        return None
    node, last = leaf, size - 1
    for sibling in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            node = _parent(sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = _parent(node, sibling)
        index, last = index >> 1, last >> 1
    return node if last == 0 else None


# --- Keys and signatures ---------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A key of the ring. Its time includes both ends; without an end, `not_after` is None."""

    public: bytes
    use: str
    not_before: int
    not_after: int | None

    def valid(self, earliest: int, latest: int) -> bool:
        """Whether its time and this one have a moment in common."""
        return self.not_before <= latest and (self.not_after is None or earliest <= self.not_after)


class Ring(NamedTuple):
    root_fingerprint: str
    keys: dict[str, Key]
    version: int
    created_at: str


def key_id(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()[:16]


class Envelope(NamedTuple):
    """A DSSE envelope in its one form: canonical JSON and canonical base64."""

    payload: bytes
    message: bytes
    signatures: list[tuple[str, bytes]]


def envelope(data: bytes, payload_type: str, what: str, signatures_count: int = 1) -> Envelope:
    """Raises FaultError: what is no envelope carries no signature, and what nobody asked for is no part of one."""
    try:
        encoded, kind, signed = fields(document(data), payload=str, payloadType=str, signatures=list)
        payload = unbase64(encoded)
        pairs = [fields(one, keyid=str, sig=str) for one in signed]
        signatures = [(name, unbase64(signature, 64)) for name, signature in pairs]
    except UnreadableError as cause:
        raise FaultError(BAD_SIGNATURE, f"{what} is no envelope: {cause}") from cause
    if kind != payload_type:
        raise FaultError(BAD_SIGNATURE, f"{what} is an envelope of another type")
    if len(signatures) != signatures_count:
        raise FaultError(BAD_SIGNATURE, f"{what} has {len(signatures)} signatures and not {signatures_count}")
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    return Envelope(payload, message, signatures)


def signers(read: Envelope, keys: dict[str, Key], use: str, what: str) -> list[Key]:
    """The keys of the ring that signed. Raises FaultError where none did, or one of them wrongly."""
    known = [(keys[name], signature) for name, signature in read.signatures if name in keys and keys[name].use == use]
    for key, signature in known:
        if not ed25519_verifies(key.public, signature, read.message):
            raise FaultError(BAD_SIGNATURE, f"the signature of {what} does not match")
    if not known:
        raise FaultError(UNKNOWN_KEY, f"{what} is not signed by a known key")
    return [key for key, _ in known]


def read_ring(data: bytes, root: str | None) -> Ring:
    """The keys that the root key signed. Raises FaultError."""
    read = envelope(data, KEYRING_TYPE, "keyring.json")
    try:
        value = document(read.payload)
        root_key = unbase64(value.get("root_public_key") if type(value) is dict else None, 32)
    except UnreadableError as cause:
        raise FaultError(BAD_SIGNATURE, f"keyring.json names no root key: {cause}") from cause
    signers(read, {key_id(root_key): Key(root_key, "root", 0, None)}, "root", "keyring.json")
    fingerprint = hashlib.sha256(root_key).hexdigest()
    if root is not None and not hmac.compare_digest(root, fingerprint):
        raise FaultError(UNKNOWN_KEY, f"the root key is {fingerprint}, not the one that was asked for")
    try:
        ring = _ring(fingerprint, value)
    except UnreadableError as cause:
        raise FaultError(MALFORMED, f"keyring.json is signed and yet unreadable: {cause}") from cause
    for text in value["rotations"]:
        _check_rotation(text, ring)
    return ring


def _ring(fingerprint: str, value: Any) -> Ring:
    created_at, listed, _, _, kind, version = fields(
        value, created_at=str, keys=list, root_public_key=str, rotations=list, type=str, version=int
    )
    moment_us(created_at)
    if kind != "frostgate.keyring":
        raise UnreadableError("not a key ring")
    keys = {}
    for one in listed:
        name, end, begin, public, use = fields(one, key_id=str, not_after=str, not_before=str, public_key=str, use=str)
        raw = unbase64(public, 32)
        if name != key_id(raw) or name in keys or use not in ("evidence", "witness"):
            raise UnreadableError("a key that is not what it is called")
        keys[name] = Key(raw, use, moment_us(begin), moment_us(end) if end else None)
    return Ring(fingerprint, keys, version, created_at)


def _check_rotation(text: Any, ring: Ring) -> None:
    what = "a key rotation"
    if type(text) is not str:
        raise FaultError(MALFORMED, f"{what} is no text")
    read = envelope(text.encode(errors="replace"), ROTATION_TYPE, what, signatures_count=2)
    signed = {key_id(key.public) for key in signers(read, ring.keys, "evidence", what)}
    try:
        new, old, _, kind, _ = fields(
            document(read.payload), new_key_id=str, old_key_id=str, rotated_at=str, type=str, version=int
        )
    except UnreadableError as cause:
        raise FaultError(MALFORMED, f"{what} is signed and yet unreadable: {cause}") from cause
    if kind != "frostgate.key-rotation" or {new, old} - signed:
        raise FaultError(UNKNOWN_KEY, f"{what} is not signed by both of its keys")


class Note(NamedTuple):
    """A C2SP signed note of three lines."""

    text: str
    origin: str
    size: int
    root: bytes
    signatures: list[tuple[str, bytes, bytes]]


_NOTE_TEXT = re.compile("([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n")
_SIGNATURE_LINE = re.compile("\N{EM DASH} ([^ \n]+) ([A-Za-z0-9+/]+={0,2})")


def read_note(note: str) -> Note:
    """Raises UnreadableError."""
    text, blank, below = note.partition("\n\n")
    match = _NOTE_TEXT.fullmatch(text + "\n")
    if match is None or not blank or not below.endswith("\n"):
        raise UnreadableError("not a signed note")
    found = []
    for line in below[:-1].split("\n", SIGNATURE_LINES_MAX):
        signed = _SIGNATURE_LINE.fullmatch(line)
        blob = unbase64(signed[2]) if signed else b""
        if signed is None or len(blob) < 5:
            raise UnreadableError("not a signature line")
        found.append((signed[1], blob[:4], blob[4:]))
    return Note(text + "\n", match[1], int(match[2]), unbase64(match[3], 32), found)


def note_signers(note: Note, ring: Ring, what: str) -> tuple[list[Key], int | None]:
    """The keys that signed, and the moment a witness of the ring saw it. Raises FaultError.

    Signers that are not of the ring count for nothing; a wrong signature of one that is spoils the note.
    """
    named = {f"frostgate{'-witness' if key.use == 'witness' else ''}+{name}": key for name, key in ring.keys.items()}
    known, seen = [], None
    for name, key_hash, blob in note.signatures:
        key = named.get(name)
        if key is None:
            continue
        witness = key.use == "witness"
        expected = hashlib.sha256(name.encode() + (b"\n\x04" if witness else b"\n\x01") + key.public).digest()[:4]
        time, signature = (blob[:8], blob[8:]) if witness else (b"", blob)
        time_s = int.from_bytes(time, "big")
        message = f"cosignature/v1\ntime {time_s}\n{note.text}" if witness else note.text
        if key_hash != expected or not ed25519_verifies(key.public, signature, message.encode()):
            raise FaultError(BAD_SIGNATURE, f"a signature of {what} does not match")
        if not witness:
            known.append(key)
        elif key.valid(time_s * 1_000_000, time_s * 1_000_000):
            seen = time_s * 1_000_000 if seen is None else min(seen, time_s * 1_000_000)
    if not known:
        raise FaultError(UNKNOWN_KEY, f"{what} is not signed by a known key")
    return known, seen


# --- The chain -------------------------------------------------------------------------------------------------------

_TEXT = rb'[^"\\\x00-\x1f]*(?:\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))[^"\\\x00-\x1f]*)*'
_NUMBER = rb"(?:0|[1-9][0-9]{0,15})"
_MILLISECONDS = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z"
ENDLESS = b"9999-12-31T23:59:59.999Z"


def _entry_form(text: bytes, tenant_id: bytes = b"", number: bytes = _NUMBER, end: bytes = b"") -> re.Pattern[bytes]:
    return re.compile(
        rb'%(begin)b\{"artifact_bytes":(?P<artifact_bytes>%(n)b),"artifact_sha256":"(?P<artifact_sha256>[0-9a-f]{64})"'
        rb',"body_bytes":%(n)b,"body_sha256":"%(t)b"(?:,"break_glass":"%(t)b")?,"config_hash":"%(t)b"'
        rb',"event_id":"(?P<event_id>%(t)b)","ingest_ts":"(?P<ingest_ts>%(m)b)"'
        rb',"kind":"(?P<kind>decision|dead_letter|replay|break_glass|key_rotation)","policy_hash":"%(t)b"'
        rb',"prev_hash":"(?P<prev_hash>[0-9a-f]{64})","request_id":"%(t)b","seq":(?P<seq>%(n)b)'
        rb',"tenant_id":"(?P<tenant_id>%(tenant)b)","trace_id":"(?P<trace_id>%(t)b)","v":%(n)b\}%(end)b'
        % {
            b"begin": b"^" if end else b"",
            b"end": end,
            b"n": number,
            b"t": text,
            b"m": _MILLISECONDS,
            b"tenant": tenant_id or text,
        },
        re.MULTILINE if end else 0,
    )


_PLAIN_TEXT = rb'[^"]*'
_ENTRY, _PLAIN_ENTRY = _entry_form(_TEXT), _entry_form(_PLAIN_TEXT)
_CONTROLS = bytes(range(32))
_CONTROLS_IN_LINES = _CONTROLS.replace(b"\n", b"")


def entry_in(line: bytes) -> re.Match[bytes] | None:
    """The entry in its canonical form; None where the line is in another, or longer than any."""
    if len(line) > ENTRY_BYTES_MAX:
        return None
    if b"\\" in line or not line.isascii() or len(line.translate(None, _CONTROLS)) != len(line):
        return _ENTRY.fullmatch(line) if is_text(line) else None
    return _PLAIN_ENTRY.fullmatch(line)


def is_text(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


class Bound(NamedTuple):
    """What entries in a row bind, each as the entry writes it: a column each, of equal length."""

    seqs: Sequence[bytes]
    sizes: Sequence[bytes]
    hashes: Sequence[bytes]
    event_ids: Sequence[bytes]
    trace_ids: Sequence[bytes]

    @classmethod
    def of(cls, entries: Sequence[re.Match[bytes]]) -> Bound:
        names = ("seq", "artifact_bytes", "artifact_sha256", "event_id", "trace_id")
        return cls(*([entry[name] for entry in entries] for name in names))

    def part(self, first: int, end: int) -> Bound:
        return Bound(*(column[first:end] for column in self))


class Chain:
    """Follows one tenant's chain and grows its tree. Every fault names the first sequence that is bad.

    `newest` is the latest `ingest_ts` of all entries so far, which is not always the last one's. They have one width,
    so their texts compare as their moments do.
    """

    def __init__(self, tenant_id: str, first_seq: int, tree: Tree, latest: bytes = ENDLESS) -> None:
        genesis = hashlib.sha256(f"fg-chain-v1\n{tenant_id}\nmain".encode()).hexdigest().encode()
        self.tree = tree
        self.seq = first_seq - 1
        self.forked_at: int | None = None
        self.newest = b""
        self._latest = latest
        self._days: set[bytes] = set()
        self._first_seq = first_seq
        self._tenant_id = tenant_id.encode()
        # Each match is one whole line: it begins one, and where there are as many matches as lines, it ends it.
        self._lines_form = _entry_form(_PLAIN_TEXT, re.escape(self._tenant_id), rb"[1-9][0-9]{0,15}", rb"\n")
        self._heads = {genesis} if first_seq == 1 else set()
        self._siblings_prev = b""
        self._broken: bytes | None = None

    @property
    def heads(self) -> set[str]:
        """The chain hash of the last entry; of a fork, of each."""
        return {name.decode() for name in self._heads}

    def take(self, line: bytes) -> re.Match[bytes]:
        """The next entry, once it is in its place. Raises FaultError."""
        match = entry_in(line)
        if self._broken is not None:
            self._blame(match)
        if match is None:
            raise FaultError(TAMPERED, "not the canonical form of an entry", self.seq + 1)
        if match["tenant_id"] != self._tenant_id:
            raise FaultError(TAMPERED, "an entry of another tenant", self.seq + 1)
        node = hashlib.sha256(b"\x00" + line).digest()
        name = hexlify(node)
        if int(match["seq"]) != self.seq + 1:
            self._take_sibling(match, name)
            return match
        self._take_moment(match["ingest_ts"])
        prev_hash = match["prev_hash"]
        if prev_hash not in self._heads and self._heads:
            self._broken = name
        self.seq += 1
        self._heads, self._siblings_prev = {name}, prev_hash
        self.tree.append(node)
        return match

    def take_all(self, lines: Sequence[bytes], last_seq: int) -> Bound | None:
        """Take all of these entries, or none and return None: then `take` finds what there is to find.

        All are taken where they are plain, link to each other and end at `last_seq` or before. What is proven of
        each is what `take` proves; it is only done for all of them at once, which takes a third of the time.
        """
        page = b"\n".join(lines) + b"\n"
        plain = b"\\" not in page and page.isascii() and len(page.translate(None, _CONTROLS_IN_LINES)) == len(page)
        if not plain or len(self._heads) != 1 or not self.whole or self.seq + len(lines) > last_seq:
            return None
        found = self._lines_form.findall(page)
        if len(found) != len(lines) or max(map(len, lines)) > ENTRY_BYTES_MAX:
            return None
        sizes, hashes, event_ids, moments, _, prev_hashes, seqs, _, trace_ids = zip(*found)  # noqa: B905  (Python 3.9)
        nodes = [hashlib.sha256(b"\x00" + line).digest() for line in lines]
        names = [hexlify(node) for node in nodes]
        links = prev_hashes == (*self._heads, *names[:-1])
        if not links or seqs != tuple([b"%d" % seq for seq in range(self.seq + 1, self.seq + 1 + len(lines))]):
            return None
        try:
            self._take_days(moments)
        except FaultError:
            return None
        self.newest = max(self.newest, *moments)
        self.seq += len(lines)
        self._heads, self._siblings_prev = {names[-1]}, prev_hashes[-1]
        self.tree.extend(nodes)
        return Bound(seqs, sizes, hashes, event_ids, trace_ids)

    @property
    def whole(self) -> bool:
        """Whether nothing is amiss so far."""
        return self._broken is None and self.forked_at is None

    def end(self) -> None:
        """No entry follows. Raises FaultError for what the last one left open."""
        if self._broken is not None:
            self._blame(None)

    def _take_moment(self, moment: bytes) -> None:
        self._take_days((moment,))
        self.newest = max(self.newest, moment)

    def _take_days(self, moments: Sequence[bytes]) -> None:
        """Return when each is a moment, and none after the bundle was made. Raises FaultError."""
        for day in {moment[:10] for moment in moments} - self._days:
            try:
                moment_us(f"{day.decode()}T00:00:00Z")
            except UnreadableError as cause:
                raise FaultError(TAMPERED, "it came at a moment that is none", self.seq + 1) from cause
            if len(self._days) == DAYS_KNOWN_MAX:
                self._days.clear()
            self._days.add(day)
        if max(moments) > self._latest:
            raise FaultError(TAMPERED, "it came after the bundle was made", self.seq + 1)

    def _take_sibling(self, match: re.Match[bytes], name: bytes) -> None:
        """Two entries for one place are a fork; anything else out of order is tampering."""
        again = int(match["seq"]) == self.seq and self.seq >= self._first_seq
        if not again or match["prev_hash"] != self._siblings_prev or name in self._heads:
            raise FaultError(TAMPERED, f"entry {int(match['seq'])} stands here", self.seq + 1)
        self._heads.add(name)
        self.forked_at = self.seq if self.forked_at is None else self.forked_at

    def _blame(self, following: re.Match[bytes] | None) -> None:
        """The link before `self.seq` is broken. Where the entry after it agrees with it, the one before was changed."""
        rewritten = following is not None and following["prev_hash"] != self._broken
        first = self.seq if rewritten or self.seq == self._first_seq else self.seq - 1
        raise FaultError(TAMPERED, f"the link from entry {self.seq - 1} to {self.seq} is broken", first)


# --- The archive -----------------------------------------------------------------------------------------------------


class Member:
    """One file of the archive, read in pieces, each of which fits the caches of a processor.

    Its digest is of all of it, however much was read; where another process sees to that, `hashed` is false.
    """

    def __init__(self, file: BinaryIO, name: str, offset: int, size: int) -> None:
        self.name, self.size, self.hashed = name, size, True
        self._file, self._offset, self._read = file, offset, 0
        self._digest = hashlib.sha256()

    def _chunk(self) -> bytes:
        self._file.seek(self._offset + self._read)
        data = self._file.read(min(CHUNK_BYTES, self.size - self._read))
        if not data and self._read < self.size:
            raise FaultError(TRUNCATED, f"{self.name} ends early")
        self._read += len(data)
        if self.hashed:
            self._digest.update(data)
        return data

    @property
    def share_read(self) -> float:
        return self._read / self.size if self.size else 1.0

    def hash_up_to(self, share: float) -> None:
        """Read that share of it. Raises FaultError."""
        while self.share_read < share:
            self._chunk()

    def last_byte(self) -> bytes:
        self._file.seek(self._offset + max(self.size - 1, 0))
        return self._file.read(min(self.size, 1))

    def whole(self) -> bytes:
        """All of a document. Raises FaultError for one that is too long to be read."""
        if self.size > DOCUMENT_BYTES_MAX:
            raise FaultError(MALFORMED, f"{self.name} is too long")
        return b"".join(iter(self._chunk, b""))

    def lines(self, bytes_max: int = LINE_BYTES_MAX) -> Iterator[list[bytes]]:
        """The lines, some at a time. Raises FaultError once those before a line that is too long are given."""
        rest = b""
        for chunk in iter(self._chunk, b""):
            *whole, rest = (rest + chunk).split(b"\n")
            longest = max(map(len, whole), default=0)
            if longest > bytes_max:
                whole = whole[: [len(line) > bytes_max for line in whole].index(True)]
            yield whole
            if max(longest, len(rest)) > bytes_max:
                raise FaultError(MALFORMED, f"a line of {self.name} is too long")

    def sha256(self) -> str:
        while self._chunk():
            pass
        return self._digest.hexdigest()


def _header(block: bytes) -> tuple[str, int]:
    """Name and size in the one header that a bundle has for them. Raises FaultError."""
    name, size = block[:100].rstrip(b"\0"), re.fullmatch(rb"([0-7]{11})\0", block[124:136])
    if size is None or not name or not re.fullmatch(rb"[a-z.]+", name):
        raise FaultError(MALFORMED, "a header that is none")
    owner, checksum = b"0000444\0" + 2 * b"0000000\0", 8 * b" "
    begin = name.ljust(100, b"\0") + owner + block[124:136] + b"00000000000\0"
    end = (b"0" + bytes(100) + b"ustar\x0000").ljust(BLOCK_BYTES - 156, b"\0")
    checksum = b"%06o\0 " % sum(begin + checksum + end)
    if block != begin + checksum + end:
        raise FaultError(MALFORMED, "a header of another file than a bundle's")
    return name.decode(), int(size[1], 8)


def read_archive(file: BinaryIO) -> dict[str, Member]:
    """Steps 1 and 2: the members of a bundle, in their order, and nothing else. Raises FaultError."""
    end = file.seek(0, 2)
    members: dict[str, Member] = {}
    awaited, at = list(MEMBERS), 0
    while awaited:
        file.seek(at)
        block = file.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES and (at or MEMBERS[0].encode().startswith(block[: len(MEMBERS[0])])):
            raise FaultError(TRUNCATED, f"the file ends before {awaited[0]}")
        if len(block) == BLOCK_BYTES and not block.strip(b"\0"):
            raise FaultError(TRUNCATED if at else MALFORMED, f"there is no {awaited[0]}")
        name, size = _header(block.ljust(BLOCK_BYTES, b"\0"))
        if awaited[0] == OPTIONAL_MEMBER != name:
            awaited.pop(0)
        if name != awaited.pop(0):
            raise FaultError(MALFORMED, f"a member that a bundle does not have here: {printable(name)}")
        members[name] = Member(file, name, at + BLOCK_BYTES, size)
        at = _past(file, at + BLOCK_BYTES, size, end, name)
    _check_end(file, at)
    for member in members.values():
        last = b"}" if member.name.endswith(".json") else b"\n"
        if member.last_byte() != last and (member.size or not member.name.endswith(".jsonl")):
            raise FaultError(TRUNCATED, f"{member.name} ends early")
    return members


def _past(file: BinaryIO, start: int, size: int, end: int, name: str) -> int:
    padded = -size % BLOCK_BYTES
    if start + size + padded > end:
        raise FaultError(TRUNCATED, f"the file ends in {name}")
    file.seek(start + size)
    if file.read(padded).strip(b"\0"):
        raise FaultError(MALFORMED, f"something is hidden after {name}")
    return start + size + padded


def _check_end(file: BinaryIO, at: int) -> None:
    file.seek(at)
    rest = file.read(2 * BLOCK_BYTES + 1)
    if rest.strip(b"\0") or len(rest) > 2 * BLOCK_BYTES:
        raise FaultError(MALFORMED, "something follows the last member")
    if len(rest) < 2 * BLOCK_BYTES:
        raise FaultError(TRUNCATED, "the file ends before its end mark")


# --- A bundle --------------------------------------------------------------------------------------------------------


class Claims(NamedTuple):
    """What the signed manifest says."""

    tenant_id: str
    tenant_key: bytes
    partition: int
    created_at: int
    first_seq: int
    last_seq: int
    tree_size: int
    include_trace: bool
    trace_bundle: dict[str, Any]
    digests: list[tuple[str, str]]
    signers: tuple[Key, ...] = ()


class Checkpoint(NamedTuple):
    """One of the tenant's leaves and the round it is in."""

    leaf_hash: bytes
    name: str
    size: int
    root: bytes
    place: int
    tree_size: int
    path: list[bytes]
    note: Note


class Verdict(NamedTuple):
    status: int
    text: str
    seq: int | None
    facts: dict[str, Any]


_TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)


def read_manifest(data: bytes, ring: Ring) -> Claims:
    """Step 4. Raises FaultError."""
    read = envelope(data, MANIFEST_TYPE, "manifest.json")
    keys = signers(read, ring.keys, "evidence", "manifest.json")
    try:
        claims = _claims(document(read.payload))
    except UnreadableError as cause:
        raise FaultError(MALFORMED, f"manifest.json is signed and yet unreadable: {cause}") from cause
    if not any(key.valid(claims.created_at, claims.created_at) for key in keys):
        raise FaultError(UNKNOWN_KEY, "manifest.json is signed outside of its key's time")
    return claims._replace(signers=tuple(keys))


def _claims(value: Any) -> Claims:
    kind, predicate, predicate_type, subject = fields(value, _type=str, predicate=dict, predicateType=str, subject=list)
    if (kind, predicate_type) != ("https://in-toto.io/Statement/v1", "https://frostgate.dev/evidence-bundle/v1"):
        raise UnreadableError("a statement of another type")
    _, chain, created_at, first, last, traced, partition, tenant, key, size, bundle = fields(
        predicate,
        bundle_id=str,
        chain=str,
        created_at=str,
        first_seq=int,
        last_seq=int,
        include_trace=bool,
        partition=int,
        tenant_id=str,
        tenant_key=str,
        tree_size=int,
        trace_bundle=dict,
    )
    fields(bundle, first_span_at=str, last_span_at=str, span_count=int, spans_sha256=str)
    if chain != "main" or _TENANT_ID.fullmatch(tenant) is None or not 1 <= first <= last + 1 or last > size:
        raise UnreadableError("a range that no chain has")
    digests = []
    for one in subject:
        digest, name = fields(one, digest=dict, name=str)
        digests.append((name, unhex(fields(digest, sha256=str)[0]).hex()))
    created = moment_us(created_at)
    return Claims(tenant, unhex(key), partition, created, first, last, size, traced, bundle, digests)


class Spans:
    """The trace bundle as it follows from the artifacts."""

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None
        self._digest = hashlib.sha256()

    def take_all(self, bound: Bound, artifacts: Sequence[bytes]) -> list[bytes] | None:
        """The lines of `traces.jsonl` for these entries. None, and none is taken, where one has to be parsed."""
        cut = _plain_spans(artifacts)
        if cut is None:
            return None
        ended = [one[: _MOMENT_DIGITS + 1] for one in b"".join(cut).split(b'"end_us":')[1:]]
        # They are sorted by their start.
        starts = [(spans, spans.find(b'"start_us":')) for spans in cut if spans != b"[]"]
        begun = [spans[at + 11 : spans.find(b"}", at)] + b"," for spans, at in starts if at > 0]
        moments = b"".join(ended) + b"".join(begun)
        count = len(ended) + len(begun)
        # As texts of one width they compare as numbers do. A number of another width is for `take`.
        if (
            not len(starts) == len(begun) <= len(ended)
            or moments[_MOMENT_DIGITS :: _MOMENT_DIGITS + 1] != count * b","
            or moments.count(b",") != count
        ):
            return None
        if begun:
            if not moments.replace(b",", b"").isdigit() or moments.startswith(b"0") or b",0" in moments:
                return None
            self._span(min(begun)[:-1], max(ended)[:-1], len(ended))
        lines = [
            b'{"event_id":"%b","seq":%b,"spans":%b,"trace_id":"%b"}' % told
            for told in zip(bound.event_ids, bound.seqs, cut, bound.trace_ids)  # noqa: B905  (Python 3.9)
        ]
        self._digest.update(b"\n".join(lines) + b"\n")
        return lines

    def take(self, bound: Bound, artifact: bytes) -> bytes:
        """The same for one entry, whatever its artifact is. Raises UnreadableError."""
        spans = _spans_of(artifact)
        if spans != b"[]":
            each = [(int(start), int(end)) for end, start in _TIMES.findall(spans)]
            self._span(min(start for start, _ in each), max(end for _, end in each), len(each))
        told = (bound.event_ids[0], bound.seqs[0], spans, bound.trace_ids[0])
        line = b'{"event_id":"%b","seq":%b,"spans":%b,"trace_id":"%b"}' % told
        self._digest.update(line + b"\n")
        return line

    def _span(self, first: int | bytes, last: int | bytes, count: int) -> None:
        first, last = int(first), int(last)
        self.count += count
        self.first = first if self.first is None or first < self.first else self.first
        self.last = last if self.last is None or last > self.last else self.last

    def bundle(self) -> dict[str, Any]:
        return {
            "first_span_at": "" if self.first is None else rfc3339_us(self.first),
            "last_span_at": "" if self.last is None else rfc3339_us(self.last),
            "span_count": self.count,
            "spans_sha256": self._digest.hexdigest(),
        }


_SPAN = rb'\{"end_us":%(n)b,"name":"%(t)b","parent_span_id":"%(t)b","span_id":"%(t)b","start_us":%(n)b\}' % {
    b"n": _NUMBER,
    b"t": _TEXT,
}
_SPANS = re.compile(rb"\[(?:%(s)b(?:,%(s)b)*)?\]" % {b"s": _SPAN})
_TIMES = re.compile(rb'\{"end_us":(%(n)b),"name":"%(t)b".*?,"start_us":(%(n)b)\}' % {b"n": _NUMBER, b"t": _TEXT})
_MOMENT_DIGITS = 16
"""Of microseconds since 1970: from 2001 to 2286."""


def _plain_spans(artifacts: Sequence[bytes]) -> list[bytes] | None:
    """Each artifact's list of spans, cut out of it; None where one has to be parsed to be found.

    An artifact is what its entry says, and canonical JSON, in whose texts every quote has a backslash before it: what
    is found first is the name of a member. From its `[` to the artifact's last `]` there are no others, so that is its
    list. After it one `}` follows, which is the artifact's own, so that it is a member of the artifact.
    """
    found, rests = [], []
    for artifact in artifacts:
        begin, end = artifact.find(b',"spans":[{') + 9, artifact.rfind(b"]") + 1
        if begin < 9 and b'"spans":' not in artifact:
            found.append(b"[]")
            continue
        if not 9 <= begin < end:
            return None
        found.append(artifact[begin:end])
        rests.append(artifact[end:])
    # Each list has at least one bracket of each kind and each line one end, so where there are no more each has one.
    lists, after = b"".join(found), b"\n".join(rests) + b"\n"
    one_list = lists.count(b"[") == lists.count(b"]") == len(found)
    one_end = after.count(b"}\n") == after.count(b"}") == len(rests)
    return found if one_list and one_end and max(map(len, artifacts)) <= SPANS_BYTES_MAX else None


def _spans_of(artifact: bytes) -> bytes:
    """The artifact's list of spans, in its canonical form. Raises UnreadableError."""
    if b'"spans":' not in artifact:
        return b"[]"
    if len(artifact) > SPANS_BYTES_MAX:
        raise UnreadableError("more spans than an artifact has")
    value = document(artifact)
    spans = canonical(value.get("spans", [])) if type(value) is dict else b"[]"
    if _SPANS.fullmatch(spans) is None:
        raise UnreadableError("spans that are none")
    return spans


class Pins(NamedTuple):
    """What is known from elsewhere than the bundle: two fingerprints, and a key ring of the same root key."""

    root: str | None = None
    tenant_key: str | None = None
    ring: Ring | None = None


class Bundle:
    """One bundle under examination. `verify` takes the steps of docs/evidence.md in their order."""

    def __init__(self, file: BinaryIO, pins: Pins) -> None:
        self._file, self._pins = file, pins
        self.facts: dict[str, Any] = {
            "root_pinned": pins.root is not None,
            "tenant_key_pinned": pins.tenant_key is not None,
            "keyring_given": pins.ring is not None,
        }

    def verify(self) -> None:
        """Return when the bundle is whole; `facts` says of what. Raises FaultError with the first fault."""
        self._members = read_archive(self._file)
        self._ring = ring = self._newer(read_ring(self._signed("keyring.json"), self._pins.root))
        self.facts.update(keyring_version=ring.version, keyring_created_at=ring.created_at)
        self._claims = claims = read_manifest(self._signed("manifest.json"), ring)
        self.facts.update(tenant_id=claims.tenant_id, first_seq=claims.first_seq, last_seq=claims.last_seq)
        self._check_tenant_key()
        unreadable = self._read_small_members()
        self._follow()
        if unreadable is not None:
            raise unreadable
        self._check_signers()
        self._check_roots()
        larger = [one.size for one in self._checkpoints if one.size > claims.tree_size]
        if larger:
            raise FaultError(TRUNCATED, f"a checkpoint knows {larger[0]} entries", claims.tree_size + 1)
        self.facts.update(tree_size=claims.tree_size, checkpoints=len(self._checkpoints))

    def _signed(self, name: str) -> bytes:
        """A member that is an envelope. Raises FaultError: of one that is too long none was made."""
        if self._members[name].size > DOCUMENT_BYTES_MAX:
            raise FaultError(BAD_SIGNATURE, f"{name} is no envelope: it is too long")
        return self._members[name].whole()

    def _newer(self, own: Ring) -> Ring:
        """Of the bundle's key ring and the one that was given, the newer: a bundle may bring an old one."""
        self.facts["root_fingerprint"] = own.root_fingerprint
        given = self._pins.ring
        if given is None:
            return own
        if given.root_fingerprint != own.root_fingerprint:
            raise FaultError(UNKNOWN_KEY, "the key ring that was given is of another root key")
        return own if own.version > given.version else given

    def _check_tenant_key(self) -> None:
        """A witness cannot know that two names are one tenant's. Whoever knows the tenant's key can."""
        found = self.facts["tenant_key_sha256"] = hashlib.sha256(self._claims.tenant_key).hexdigest()
        if self._pins.tenant_key is not None and not hmac.compare_digest(self._pins.tenant_key, found):
            raise FaultError(FORKED, f"the tenant key's fingerprint is {found}, not the one that was asked for")

    def _read_small_members(self) -> FaultError | None:
        """What the small members say. Their faults wait until every digest is checked."""
        self._before: list[tuple[int, bytes]] = []
        self._after: list[tuple[int, bytes]] = []
        self._checkpoints: list[Checkpoint] = []
        what = "proof.json"
        try:
            self._before, self._after = self._proof(document(self._members[what].whole()))
            what = "checkpoints.jsonl"
            self._checkpoints = self._read_checkpoints()
            what = "head.note"
            self._head = read_note(self._members[what].whole().decode())
        except (UnreadableError, UnicodeDecodeError) as cause:
            return FaultError(MALFORMED, f"{what} is unreadable: {cause}")
        except FaultError as fault:
            return fault
        return None

    def _proof(self, value: Any) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
        after, before, size = fields(value, after=list, before=list, size=int)
        parts = []
        for listed in (before, after):
            if any(type(one) is not list or len(one) != 2 or type(one[0]) is not int for one in listed):
                raise UnreadableError("not a list of subtrees")
            parts.append([(one[0], unhex(one[1])) for one in listed])
        wanted = [cover_levels(0, self._claims.first_seq - 1), cover_levels(self._claims.last_seq, size)]
        if size != self._claims.tree_size or [[level for level, _ in part] for part in parts] != wanted:
            raise FaultError(TAMPERED, "proof.json is of other entries")
        return parts[0], parts[1]

    def _read_checkpoints(self) -> list[Checkpoint]:
        claims = self._claims
        # What the manifest says is not proven yet, and what is read here is kept: the entries' size bounds it.
        entries = min(claims.last_seq - claims.first_seq + 1, self._members["entries.jsonl"].size // ENTRY_BYTES_MIN)
        count_max = entries // ENTRIES_PER_CHECKPOINT + 3
        found: list[Checkpoint] = []
        lines = self._members["checkpoints.jsonl"].lines(CHECKPOINT_BYTES_MAX)
        for line in (line for some in lines for line in some):
            if len(found) == count_max:
                raise UnreadableError("more than a bundle has")
            index, leaf, note, path, size = fields(
                document(line), index=int, leaf=dict, note=str, path=list, tree_size=int
            )
            name, root, leaf_size = fields(leaf, name=str, root=str, size=int)
            leaf_hash = hashlib.sha256(b"\x00" + canonical(leaf)).digest()
            if len(path) > LEVELS_MAX:
                raise UnreadableError("a path of no tree")
            hashes = [unhex(one) for one in path]
            found.append(Checkpoint(leaf_hash, name, leaf_size, unhex(root), index, size, hashes, read_note(note)))
        return found

    def _follow(self) -> None:
        """Steps 5 to 8, in one pass over the entries and what belongs to them. Raises FaultError."""
        claims = self._claims
        tree = Tree()
        for level, node in self._before:
            tree.append(node, level)
        chain = Chain(claims.tenant_id, claims.first_seq, tree, _latest(claims.created_at))
        self._roots: dict[int, bytes] = {}
        self._moments: dict[int, bytes] = {}
        apart = self._members["entries.jsonl"].size >= APART_BYTES_MIN and isinstance(
            getattr(self._file, "name", None), str
        )
        with _Apart(self._file.name, self._members) if apart else _Beside(self._members) as beside:
            self._follow_entries(chain, beside)
            self._check_chain(chain)
            found = beside.found()
        status, text, seq = found.fault or (OK, "", None)
        if status not in (OK, MALFORMED):
            raise FaultError(status, text, seq)
        # What was signed and cannot be read is malformed. What cannot be read since it was signed was altered.
        self._check_digests(seq)
        if status:
            raise FaultError(status, text, seq)
        if found.trace_bundle != claims.trace_bundle:
            raise FaultError(TAMPERED, "the trace bundle is not that of the artifacts")
        self._grow(tree, chain.newest)

    def _follow_entries(self, chain: Chain, beside: _Beside | _Apart) -> None:
        """Take every entry, and keep the roots of the trees that checkpoints tell of. Raises FaultError."""
        wanted = {one.size for one in self._checkpoints}
        try:
            for lines in self._members["entries.jsonl"].lines(ENTRY_BYTES_MAX):
                end = chain.seq + len(lines)
                stops = sorted(size for size in wanted if chain.seq < size < end)
                ends = [stop - chain.seq for stop in (*stops, end)]
                for first, past in zip([0, *ends], ends):  # noqa: B905  (one longer than the other)
                    if first < past:
                        self._take(chain, beside, lines[first:past], wanted)
        except FaultError as fault:
            if fault.status != MALFORMED:
                raise
            chain.end()
            raise FaultError(TAMPERED, "not the canonical form of an entry", chain.seq + 1) from fault

    def _take(self, chain: Chain, beside: _Beside | _Apart, lines: Sequence[bytes], wanted: set[int]) -> None:
        """These entries; no checkpoint's tree ends between two of them. Raises FaultError."""
        last_seq = self._claims.last_seq
        bound = chain.take_all(lines, last_seq)
        if bound is not None:
            self._note(chain, wanted)
            beside.take(bound)
            return
        for line in lines:
            entry = chain.take(line)
            if chain.seq > last_seq:
                raise FaultError(TAMPERED, "an entry that the manifest does not know", chain.seq)
            self._note(chain, wanted)
            beside.take(Bound.of([entry]))

    def _note(self, chain: Chain, wanted: set[int]) -> None:
        if chain.seq in wanted:
            self._roots[chain.seq], self._moments[chain.seq] = chain.tree.root(), chain.newest

    def _check_chain(self, chain: Chain) -> None:
        """Steps 5 to 7, of what the last entry left open. Raises FaultError."""
        claims = self._claims
        chain.end()
        if chain.seq < claims.last_seq:
            raise FaultError(TRUNCATED, f"the entries end before {claims.last_seq}", chain.seq + 1)
        if chain.forked_at is not None:
            raise FaultError(FORKED, "two entries for one place", chain.forked_at)

    def _check_digests(self, unreadable_seq: int | None) -> None:
        """Every member but the manifest is in it, and the bytes are those that were signed. Raises FaultError.

        `unreadable_seq` is the entry whose artifact or trace could not be read, if there is one.
        """
        present = [name for name in self._members if name != "manifest.json"]
        if [name for name, _ in self._claims.digests] != present:
            raise FaultError(TAMPERED, "the manifest is of other members")
        if self._claims.include_trace != (OPTIONAL_MEMBER in self._members):
            raise FaultError(TAMPERED, "the manifest says otherwise about the traces")
        for name, digest in self._claims.digests:
            if self._members[name].sha256() != digest:
                # The links hold, so of the entries only the last can be another than the signed one.
                seq = self._claims.last_seq if name == "entries.jsonl" else None
                if name in ("artifacts.jsonl", OPTIONAL_MEMBER):
                    seq = unreadable_seq
                raise FaultError(TAMPERED, f"{name} is not what the manifest says", seq)

    def _grow(self, tree: Tree, newest: bytes) -> None:
        """Add what lies after the bundle's entries."""
        for level, node in self._after:
            tree.append(node, level)
        size = self._claims.tree_size
        self._roots[size] = tree.root()
        self._moments.setdefault(size, newest)
        self._moments[self._claims.last_seq] = newest

    def _check_signers(self) -> None:
        """Step 9. A checkpoint was signed after the newest of its entries came and before the bundle was made."""
        created_at, ring = self._claims.created_at, self._ring
        newest = self._moment(self._claims.last_seq)
        head_keys, _ = note_signers(self._head, ring, "head.note")
        for what, keys in (("manifest.json", self._claims.signers), ("head.note", head_keys)):
            # Whoever has a key whose time is over can write any `created_at`, but not before the entries came.
            if not any(key.valid(created_at, created_at) and key.valid(newest, MOMENT_MAX) for key in keys):
                raise FaultError(UNKNOWN_KEY, f"{what} is signed outside of its key's time")
        self.facts["witnessed_size"] = 0
        for one in self._checkpoints:
            what = f"the checkpoint of {one.size} entries"
            keys, seen = note_signers(one.note, ring, what)
            earliest = self._moment(one.size)
            if not any(key.valid(earliest, created_at if seen is None else seen) for key in keys):
                raise FaultError(UNKNOWN_KEY, f"{what} is signed outside of its key's time")
            if seen is not None:
                self.facts["witnessed_size"] = max(self.facts["witnessed_size"], one.size)

    def _moment(self, size: int) -> int:
        try:
            return moment_us(self._moments[size].decode())
        except (KeyError, UnreadableError):
            return 0

    def _check_roots(self) -> None:
        """Step 10. Raises FaultError."""
        claims, head = self._claims, self._head
        if (head.origin, head.size) != (f"frostgate/tenant/{claims.tenant_id}/main", claims.tree_size):
            raise FaultError(TAMPERED, "head.note is of another tree")
        if head.root != self._roots[claims.tree_size]:
            raise FaultError(TAMPERED, "the entries do not make the root of head.note")
        name = hmac.new(claims.tenant_key, claims.tenant_id.encode(), hashlib.sha256).hexdigest()
        size_before, round_before = 0, 0
        for one in self._checkpoints:
            what = f"the checkpoint of {one.size} entries"
            if one.name != name or one.note.origin != f"frostgate/checkpoint/p{claims.partition:02d}":
                raise FaultError(TAMPERED, f"{what} is not of this tenant")
            if one.place == 0 or root_from(one.leaf_hash, one.place, one.tree_size, one.path) != one.note.root:
                raise FaultError(TAMPERED, f"{what} is not in its round")
            if one.size <= claims.tree_size and one.root != self._roots.get(one.size):
                self._raise_other_root(one.size)
            if one.size <= size_before:
                raise FaultError(TAMPERED, f"{what} is not after the one before it")
            if one.note.size <= round_before:
                raise FaultError(FORKED, f"{what} is of a round before that of a smaller one")
            size_before, round_before = one.size, one.note.size

    def _raise_other_root(self, size: int) -> NoReturn:
        if size in self._roots:
            raise FaultError(FORKED, "up to here, another tree is signed", size)
        raise FaultError(TAMPERED, f"a checkpoint of {size} entries, which this bundle cannot prove")


def _latest(created_at: int) -> bytes:
    """The last `ingest_ts` of a bundle that was made then. It is another machine's clock that wrote it."""
    try:
        return f"{rfc3339_us(created_at + CLOCKS_APART_US)[:23]}Z".encode()
    except UnreadableError:
        return ENDLESS


class Found(NamedTuple):
    """What artifacts and traces came to: the first fault and the trace bundle."""

    fault: tuple[int, str, int | None] | None
    trace_bundle: dict[str, Any]


class _Lines:
    """A member's lines, taken as they are needed."""

    def __init__(self, member: Member) -> None:
        self._more = member.lines()
        self._kept: list[bytes] = []
        self._at = 0

    def some(self, count: int) -> list[bytes]:
        """The next lines, at least one and `count` at most; none at the end. Raises FaultError."""
        while self._at == len(self._kept):
            kept = next(self._more, None)
            if kept is None:
                return []
            self._kept, self._at = kept, 0
        taken = self._kept[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def one(self) -> bytes | None:
        """Raises FaultError."""
        return next(iter(self.some(1)), None)


class _Beside:
    """Holds artifacts and traces to their entries. The first fault waits: faults of the entries come first."""

    def __init__(self, members: dict[str, Member]) -> None:
        self._artifacts, self._traces = _Lines(members["artifacts.jsonl"]), None
        if OPTIONAL_MEMBER in members:
            self._traces = _Lines(members[OPTIONAL_MEMBER])
        self._spans = Spans()
        self._fault: FaultError | None = None

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def take(self, bound: Bound) -> None:
        """The next entries."""
        done = 0
        while self._fault is None and done < len(bound.seqs):
            try:
                done += self._take_some(bound.part(done, len(bound.seqs)))
            except FaultError as fault:
                seq = int(bound.seqs[done]) if fault.seq is None else fault.seq
                self._fault = FaultError(fault.status, fault.text, seq)

    def _take_some(self, bound: Bound) -> int:
        """How many of the entries have their artifact and trace. Raises FaultError for the first one that has not."""
        artifacts = self._artifacts.some(len(bound.seqs))
        if not artifacts:
            raise FaultError(TAMPERED, "its artifact is missing")
        self._compare(bound.part(0, len(artifacts)), artifacts)
        return len(artifacts)

    def _compare(self, bound: Bound, artifacts: list[bytes]) -> None:
        hashes = [hexlify(hashlib.sha256(artifact).digest()) for artifact in artifacts]
        sizes = [b"%d" % len(artifact) for artifact in artifacts]
        lines = None
        if (hashes, sizes) == (list(bound.hashes), list(bound.sizes)):
            lines = self._spans.take_all(bound, artifacts)
        if lines is None:
            self._compare_each(bound, artifacts)
        elif self._traces is not None:
            for seq, line in zip(bound.seqs, lines):  # noqa: B905  (Python 3.9)
                self._compare_trace(int(seq), line)

    def _compare_each(self, bound: Bound, artifacts: list[bytes]) -> None:
        for at, artifact in enumerate(artifacts):
            one = bound.part(at, at + 1)
            seq = int(one.seqs[0])
            if hexlify(hashlib.sha256(artifact).digest()) != one.hashes[0]:
                raise FaultError(TAMPERED, "its artifact is another one", seq)
            if len(artifact) != int(one.sizes[0]):
                raise FaultError(TAMPERED, "its artifact is of another length", seq)
            try:
                line = self._spans.take(one, artifact)
            except UnreadableError as cause:
                raise FaultError(MALFORMED, f"its artifact is unreadable: {cause}", seq) from cause
            if self._traces is not None:
                self._compare_trace(seq, line)

    def _compare_trace(self, seq: int, line: bytes) -> None:
        if self._traces is not None and self._traces.one() != line:
            raise FaultError(TAMPERED, "its trace is another one", seq)

    def found(self) -> Found:
        """Every entry was taken."""
        fault = self._fault
        try:
            rest = (self._artifacts, self._traces)
            if fault is None and any(lines is not None and lines.one() is not None for lines in rest):
                fault = FaultError(TAMPERED, "there are more artifacts or traces than entries")
            if fault is not None:
                return Found((fault.status, fault.text, fault.seq), {})
            return Found(None, self._spans.bundle())
        except FaultError as late:
            return Found((late.status, late.text, late.seq), {})
        except UnreadableError as cause:
            return Found((MALFORMED, f"spans: {cause}", None), {})


class _Apart:
    """The same as `_Beside`, in another process, which is told what the entries bind: it takes half the time."""

    def __init__(self, path: str, members: dict[str, Member]) -> None:
        import multiprocessing  # noqa: PLC0415  (few bundles are so large)

        self._entries = members["entries.jsonl"]
        self._others = [members[name] for name in ("artifacts.jsonl", OPTIONAL_MEMBER) if name in members]
        self._other, other = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=_answer_apart, args=(path, self._other, other), daemon=True)
        self._process.start()
        other.close()
        self._gone = False

    def __enter__(self) -> _Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._other.close()

    def take(self, bound: Bound) -> None:
        """Tell the other process, and while it is at work, hash what it reads. Raises FaultError.

        This one waits here while that one is behind. No column holds a newline or a zero.
        """
        self._tell(b"\0".join([b"\n".join(column) for column in bound]))
        for member in self._others:
            member.hash_up_to(self._entries.share_read)

    def found(self) -> Found:
        self._tell(b"")
        try:
            return Found(*self._other.recv())
        except (EOFError, OSError):
            return Found((MALFORMED, "more than a bundle holds", None), {})

    def _tell(self, words: bytes) -> None:
        try:
            if not self._gone:
                self._other.send_bytes(words)
        except OSError:  # it has ended, and `found` says so
            self._gone = True


def _answer_apart(path: str, theirs: Any, mine: Any) -> None:
    """Raises SystemExit where it cannot answer: the end of the pipe says so."""
    theirs.close()
    gc.disable()
    try:
        with Path(path).open("rb") as file:
            members = read_archive(file)
            for member in members.values():
                member.hashed = False
            beside = _Beside(members)
            while told := mine.recv_bytes():
                beside.take(Bound(*(column.split(b"\n") for column in told.split(b"\0"))))
            mine.send(tuple(beside.found()))
    except (EOFError, FaultError, MemoryError, OSError) as cause:
        raise SystemExit(MALFORMED) from cause


def verify_file(
    file: BinaryIO, root: str | None = None, tenant_key: str | None = None, ring: Ring | None = None
) -> Verdict:
    """The verdict on the bundle in this file. What is given besides is known from elsewhere (`Pins`)."""
    bundle = Bundle(file, Pins(root, tenant_key, ring))
    try:
        bundle.verify()
    except FaultError as fault:
        return Verdict(fault.status, fault.text, fault.seq, bundle.facts)
    except (MemoryError, RecursionError):
        return Verdict(MALFORMED, "more than a bundle holds", None, bundle.facts)
    return Verdict(OK, "the bundle is whole", None, bundle.facts)


# --- A live database -------------------------------------------------------------------------------------------------

_TENANTS = "SELECT tenant_id FROM tenants ORDER BY tenant_id"
_EVERY_TENANT = """
SELECT tenant_id FROM tenants UNION SELECT tenant_id FROM chain_heads UNION SELECT tenant_id FROM chain_entries
ORDER BY tenant_id
"""
_SEES_ALL = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
_ENTRIES = """
SELECT seq, kind, event_id, entry, prev_hash, chain_hash FROM chain_entries WHERE tenant_id = $1
ORDER BY seq, chain_hash
"""
_HEAD = "SELECT seq, chain_hash FROM chain_heads WHERE tenant_id = $1"
_DECISION = """
SELECT coalesce(c.seq, d.decision_id) FROM (SELECT * FROM decisions WHERE tenant_id = $1) AS d
FULL JOIN (SELECT *, entry::json AS e FROM chain_entries WHERE tenant_id = $1 AND kind = 'decision') AS c
    ON c.seq = d.decision_id
WHERE c.seq IS NULL OR d.decision_id IS NULL OR d.prev_hash <> c.prev_hash OR d.chain_hash <> c.chain_hash
    OR (d.event_id, d.trace_id, d.request_id, d.policy_hash, d.config_hash)
        IS DISTINCT FROM (e->>'event_id', e->>'trace_id', e->>'request_id', e->>'policy_hash', e->>'config_hash')
    OR d.ingest_ts IS DISTINCT FROM (e->>'ingest_ts')::timestamptz
ORDER BY 1 LIMIT 1
"""
_ARTIFACT = """
SELECT a.chain_seq FROM decision_evidence_artifacts AS a LEFT JOIN (
    SELECT *, entry::json AS e FROM chain_entries WHERE tenant_id = $1
) AS c ON c.seq = a.chain_seq
WHERE a.tenant_id = $1 AND (c.seq IS NULL OR (a.event_id, a.artifact_class, a.artifact_sha256, a.artifact_bytes)
    IS DISTINCT FROM (c.event_id, c.kind, e->>'artifact_sha256', (e->>'artifact_bytes')::bigint)
    OR a.artifact_id <> concat_ws('/', $1::text, left(e->>'ingest_ts', 10), a.event_id, a.artifact_sha256))
ORDER BY 1 LIMIT 1
"""
# What a decision's row and its artifact both say, under the artifact's names.
_SEALED = """
SELECT c.seq, c.entry, a.segment_id, a.segment_offset, a.trace_hash, CASE WHEN d.tenant_id IS NULL THEN '{}' ELSE
    jsonb_build_object('agent_id', agent_id, 'config_hash', config_hash, 'contributions', contributions,
        'decided_at', to_char(decided_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'event_id', d.event_id, 'features', features, 'policy_code', policy_code, 'policy_hash', policy_hash,
        'ingest_ts', to_char(ingest_ts AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'policy_reasons', policy_reasons, 'request_id', request_id, 'score', score, 'source', source,
        'tenant_id', d.tenant_id, 'trace_id', trace_id, 'verdict', verdict)::text END AS decided
FROM chain_entries AS c
LEFT JOIN decision_evidence_artifacts AS a
    ON (a.tenant_id, a.event_id, a.artifact_class) = (c.tenant_id, c.event_id, c.kind)
LEFT JOIN decisions AS d ON c.kind = 'decision' AND (d.tenant_id, d.decision_id) = (c.tenant_id, c.seq)
WHERE c.tenant_id = $1 ORDER BY c.seq
"""
_SEGMENT_ID = re.compile(r"(?:([a-z]{1,16})-)?(\d{4}-\d{2}-\d{2})-p(\d{2})-[0-9a-f]{32}", re.ASCII)
_ROUNDS = """
SELECT partition, checkpoint_seq, tree_size, root_sha256, note, cosignature, leaves, created_at FROM chain_checkpoints
ORDER BY partition, checkpoint_seq
"""
_FRONTIER = "SELECT size, hashes, root, name, partition, round FROM chain_frontiers WHERE tenant_id = $1"
_KEPT = "SELECT size, root FROM chain_leaves WHERE tenant_id = $1 ORDER BY size"
_NAME = "SELECT name FROM chain_frontiers WHERE tenant_id = $1"
_HAS_ROUNDS = "SELECT to_regclass('chain_frontiers') IS NOT NULL"


class Leaf(NamedTuple):
    """A root that is signed, and the end of the keys that signed it: no entry in its tree came later."""

    root: bytes
    signed_until: int


class Leaves(NamedTuple):
    """Of each name: the newest leaf of every 10,000 entries, and which round the newest of all is in."""

    roots: dict[str, dict[int, Leaf]]
    newest: dict[str, tuple[int, int]]


class Store:
    """The WORM directory, as far as artifacts are in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segment: tuple[str, BinaryIO] | None = None

    def artifact(self, segment_id: str, offset: int, length: int) -> bytes | None:
        """What lies there, at most `length` bytes; None where there is no such segment. Raises UnavailableError."""
        if self._segment is None or self._segment[0] != segment_id:
            self.close()
            match = _SEGMENT_ID.fullmatch(segment_id)
            if match is None:
                return None
            folder = self._directory.joinpath("segments", *[part for part in (match[1],) if part])
            try:
                self._segment = segment_id, (folder / match[2] / f"p{match[3]}" / f"{segment_id}.dsse").open("rb")
            except FileNotFoundError:
                return None
            except OSError as cause:
                raise UnavailableError(f"the WORM directory cannot be read: {cause.strerror}") from cause
        self._segment[1].seek(max(offset, 0))
        return self._segment[1].read(length)

    def close(self) -> None:
        if self._segment is not None:
            self._segment[1].close()
            self._segment = None


class Database:
    """A live database under examination, through one connection of asyncpg in one transaction with one snapshot."""

    def __init__(self, connection: Any, ring: Ring | None, store: Store | None = None) -> None:
        self._connection, self._ring, self._store = connection, ring, store
        self.at: str | None = None
        self._leaves = Leaves({}, {})
        self._rounds: dict[int, int] = {}
        self._grows = False
        self._named: dict[str, str] = {}
        self.facts: dict[str, Any] = {"signatures_checked": ring is not None, "tenants": 0, "entries": 0, "rounds": 0}
        self.facts.update(artifacts_compared=None if store is None else 0, artifacts_waiting=0)

    async def tenants(self) -> list[str]:
        """Whose rows this login may look for."""
        every = await self._connection.fetchval(_SEES_ALL)
        return [row[0] for row in await self._connection.fetch(_EVERY_TENANT if every else _TENANTS)]

    async def verify(self, tenant_ids: list[str]) -> None:
        """All there is to verify of these; `at` is the tenant whose turn it is. Raises FaultError."""
        await self.verify_rounds()
        for self.at in tenant_ids:
            await self._as_tenant(self.at, self.verify_tenant(self.at))
        self.at = None
        await self.verify_names()

    async def _as_tenant(self, tenant_id: str, work: Coroutine[Any, Any, Any]) -> Any:
        """Do the work with this tenant's rows in sight, and put them out of it again, as only a rollback can."""
        named = self._connection.transaction()
        await named.start()
        try:
            await self._connection.execute("SELECT app.set_tenants(ARRAY[$1])", tenant_id)
            return await work
        finally:
            work.close()
            await named.rollback()

    async def verify_rounds(self) -> None:
        """Every round links to the one before it and holds the leaves its note signs. Raises FaultError."""
        self._grows = await self._connection.fetchval(_HAS_ROUNDS)
        if not self._grows:
            return
        before: tuple[int, int, bytes] = (-1, 0, b"")
        async for row in self._connection.cursor(_ROUNDS, prefetch=100):
            if row["partition"] != before[0]:
                before = (row["partition"], 0, b"fg-checkpoint-v1\n%d" % row["partition"])
            try:
                text = self._verify_round(row, before)
            except UnreadableError as cause:
                what = f"round {row['checkpoint_seq']} of partition {row['partition']}"
                raise FaultError(TAMPERED, f"{what} is unreadable: {cause}") from cause
            before = (row["partition"], row["checkpoint_seq"], text)
            self._rounds[row["partition"]] = row["checkpoint_seq"]
            self.facts["rounds"] += 1

    def _verify_round(self, row: Any, before: tuple[int, int, bytes]) -> bytes:
        number, partition = row["checkpoint_seq"], row["partition"]
        what = f"round {number} of partition {partition}"
        if number != before[1] + 1:
            raise FaultError(TAMPERED, f"{what} follows round {before[1]}")
        note = read_note(row["note"] + row["cosignature"])
        tree = Tree()
        tree.append(hashlib.sha256(b"\x00" + before[2]).digest())
        leaves, listed = [], document(row["leaves"].encode())
        for leaf in listed if type(listed) is list else [listed]:
            name, root, size = fields(leaf, name=str, root=str, size=int)
            tree.append(hashlib.sha256(b"\x00" + canonical(leaf)).digest())
            leaves.append((name, size, unhex(root)))
        names = [name for name, _, _ in leaves]
        if names != sorted(set(names)) or (note.origin, note.size) != (
            f"frostgate/checkpoint/p{partition:02d}",
            number,
        ):
            raise FaultError(TAMPERED, f"{what} is another one")
        if tree.root() != note.root or row["root_sha256"] != note.root.hex() or row["tree_size"] != tree.size:
            raise FaultError(TAMPERED, f"{what} holds other leaves than its note says")
        signed_until = self._signed_until(note, row["created_at"], what)
        for name, size, root in leaves:
            self._keep(name, size, Leaf(root, signed_until), number)
        return note.text.encode()

    def _signed_until(self, note: Note, created_at: datetime, what: str) -> int:
        """The end of the keys that signed a round, of those that held when it was made. Raises FaultError."""
        if self._ring is None:
            return MOMENT_MAX
        keys, seen = note_signers(note, self._ring, what)
        made = int(created_at.timestamp()) * 1_000_000
        latest = made + CLOCKS_APART_US if seen is None else min(seen, made + CLOCKS_APART_US)
        held = [key for key in keys if key.valid(made - CLOCKS_APART_US, latest)]
        if not held:
            raise FaultError(UNKNOWN_KEY, f"{what} is signed outside of its key's time")
        return max(MOMENT_MAX if key.not_after is None else key.not_after for key in held)

    def _keep(self, name: str, size: int, leaf: Leaf, number: int) -> None:
        roots, (newest, _) = self._leaves.roots.setdefault(name, {}), self._leaves.newest.get(name, (0, 0))
        if size <= newest:
            raise FaultError(FORKED, f"a tree that had {newest} entries has {size} in round {number}", size)
        if newest and newest // ENTRIES_PER_CHECKPOINT == size // ENTRIES_PER_CHECKPOINT:
            del roots[newest]
        roots[size] = leaf
        self._leaves.newest[name] = (size, number)

    async def verify_tenant(self, tenant_id: str) -> None:
        """One tenant's chain, and what else the database says of it. Raises FaultError."""
        frontier, promised = await self._promised(tenant_id)
        chain = Chain(tenant_id, 1, Tree())
        async for row in self._connection.cursor(_ENTRIES, tenant_id, prefetch=1000):
            entry = chain.take(row["entry"].encode())
            copies = (row["seq"], row["kind"], row["prev_hash"])
            event_id = json.loads(b'"%b"' % entry["event_id"])
            stated = (int(entry["seq"]), entry["kind"].decode(), entry["prev_hash"].decode())
            if copies != stated or row["event_id"] != event_id or row["chain_hash"] not in chain.heads:
                raise FaultError(TAMPERED, "its columns say something else", chain.seq)
            if chain.seq in promised and chain.whole:
                self._compare(chain, promised.pop(chain.seq), frontier)
        chain.end()
        await self._verify_head(tenant_id, chain)
        if chain.forked_at is not None:
            raise FaultError(FORKED, "two entries for one place", chain.forked_at)
        if promised:
            raise FaultError(TRUNCATED, f"a checkpoint knows {max(promised)} entries", chain.seq + 1)
        for query, what in ((_DECISION, "its decision is another one"), (_ARTIFACT, "its artifact is another one")):
            seq = await self._connection.fetchval(query, tenant_id)
            if seq is not None:
                raise FaultError(TAMPERED, what, seq)
        if self._store is not None:
            async for row in self._connection.cursor(_SEALED, tenant_id, prefetch=500):
                self._compare_sealed(row, self._store)
        self.facts["tenants"] += 1
        self.facts["entries"] += chain.seq

    def _compare_sealed(self, row: Any, store: Store) -> None:
        """The artifact is the one its entry binds, and the row of a decision says what it says. Raises FaultError."""
        seq = row["seq"]
        if row["segment_id"] is None:
            self.facts["artifacts_waiting"] += 1
            return
        bound = json.loads(row["entry"])
        artifact = store.artifact(
            row["segment_id"], row["segment_offset"], min(bound["artifact_bytes"], LINE_BYTES_MAX)
        )
        if artifact is None:
            raise FaultError(TAMPERED, "its segment is not in the WORM directory", seq)
        if hashlib.sha256(artifact).hexdigest() != bound["artifact_sha256"]:
            raise FaultError(TAMPERED, "its artifact in the WORM directory is another one", seq)
        try:
            told, decided = document(artifact), json.loads(row["decided"])
            same = type(told) is dict and canonical({name: told.get(name) for name in decided}) == canonical(decided)
            spans = hashlib.sha256(_spans_of(artifact)).hexdigest()
        except UnreadableError as cause:
            raise FaultError(MALFORMED, f"its artifact is unreadable: {cause}", seq) from cause
        if not same or row["trace_hash"] not in (None, spans):
            raise FaultError(TAMPERED, "its row says something else than its artifact", seq)
        self.facts["artifacts_compared"] += 1

    async def verify_names(self) -> None:
        """Every leaf is of a tenant that is on record, whichever tenants were verified. Raises FaultError."""
        if not self._grows:
            return
        names = set(self._named.values())
        for tenant_id in await self.tenants():
            if tenant_id not in self._named:
                rows = await self._as_tenant(tenant_id, self._connection.fetch(_NAME, tenant_id))
                names.update(row["name"] for row in rows)
        if set(self._leaves.roots) - names:
            raise FaultError(TAMPERED, "a round has leaves of a tenant whose tree is on no record")

    async def _promised(self, tenant_id: str) -> tuple[Any, dict[int, tuple[bytes, ...]]]:
        """The tenant's frontier row, and by size every root that is on record. Raises FaultError."""
        frontier = await self._connection.fetchrow(_FRONTIER, tenant_id) if self._grows else None
        if frontier is None:
            return None, {}
        self._named[tenant_id] = frontier["name"]
        leaves = self._leaves.roots.get(frontier["name"], {})
        promised: dict[int, tuple[bytes, ...]] = {size: (leaf.root,) for size, leaf in leaves.items()}
        for row in await self._connection.fetch(_KEPT, tenant_id):
            promised[row["size"]] = (*promised.get(row["size"], ()), _stored_hash(row["root"]))
        size = frontier["size"]
        promised[size] = (*promised.get(size, ()), _stored_hash(frontier["root"]))
        if self._rounds.get(frontier["partition"], 0) < frontier["round"]:
            raise FaultError(TRUNCATED, f"the rounds of partition {frontier['partition']} end before its newest leaf")
        if self._leaves.newest.get(frontier["name"]) != (size, frontier["round"]):
            raise FaultError(TAMPERED, "the newest leaf is not the one of its round", size)
        return frontier, promised

    def _compare(self, chain: Chain, roots: tuple[bytes, ...], frontier: Any) -> None:
        root = chain.tree.root()
        signed = self._leaves.roots.get(frontier["name"], {}).get(chain.seq)
        if signed is not None and signed.root != root:
            raise FaultError(FORKED, "up to here, another tree is signed", chain.seq)
        if signed is not None and signed.signed_until < moment_us(chain.newest.decode()):
            raise FaultError(UNKNOWN_KEY, "up to here, it is signed outside of its key's time", chain.seq)
        hashes = b"".join(node for _, node in chain.tree.nodes)
        if any(one != root for one in roots) or (chain.seq == frontier["size"] and frontier["hashes"] != hashes):
            raise FaultError(TAMPERED, "its tree is on record with another root", chain.seq)

    async def _verify_head(self, tenant_id: str, chain: Chain) -> None:
        head = await self._connection.fetchrow(_HEAD, tenant_id)
        seq, chain_hash = (head["seq"], head["chain_hash"]) if head else (0, "")
        if seq > chain.seq:
            raise FaultError(TRUNCATED, f"the entries end before {seq}", chain.seq + 1)
        if seq < chain.seq or (head and chain_hash not in chain.heads):
            raise FaultError(TAMPERED, "the head is another entry than the last", chain.seq)


def _stored_hash(text: str) -> bytes:
    try:
        return unhex(text)
    except UnreadableError:
        return b""


async def verify_database(
    connection: Any, tenant_id: str | None = None, ring: Ring | None = None, store: Store | None = None
) -> Verdict:
    """The verdict on a live database as it stood at one moment, whoever writes to it meanwhile."""
    database = Database(connection, ring, store)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            tenants = await database.tenants() if tenant_id is None else [tenant_id]
            await database.verify(tenants)
    except FaultError as fault:
        return Verdict(fault.status, fault.text, fault.seq, {**database.facts, "tenant_id": database.at})
    return Verdict(OK, "the database is whole", None, database.facts)


async def _connect_and_verify(dsn: str, tenant_id: str | None, ring: Ring | None, store: Store | None) -> Verdict:
    """Raises UnavailableError."""
    try:
        import asyncpg  # noqa: PLC0415  (for a live database alone; everything else does without)
    except ImportError as cause:
        raise UnavailableError("--dsn needs asyncpg: pip install asyncpg") from cause
    try:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            return await verify_database(connection, tenant_id, ring, store)
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as cause:
        code = getattr(cause, "sqlstate", None)
        raise UnavailableError(f"the database does not answer: {type(cause).__name__} {code or ''}".strip()) from cause


# --- The command -----------------------------------------------------------------------------------------------------


class UnavailableError(Exception):
    """What was to be verified cannot be read at all."""


class Parser(argparse.ArgumentParser):
    """Says wrong usage with a status that no verdict has."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Verify a bundle of `frostgate export` offline, or with --dsn a live database.",
        epilog="Exit status: 0 ok; 1 tampered; 2 truncated; 3 forked; 4 bad signature; 5 unknown key; 6 malformed; "
        "64 usage; 69 the file, the key ring or the database cannot be read.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE.tar", help="the bundle")
    parser.add_argument("--root", metavar="FINGERPRINT", help="the root key's fingerprint, known from elsewhere")
    parser.add_argument(
        "--tenant-key", metavar="FINGERPRINT", help="the fingerprint of the tenant's key, known from elsewhere"
    )
    parser.add_argument(
        "--keyring",
        metavar="FILE",
        help="the newest key ring: judge an older one's bundle, or with --dsn the rounds, by it",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object")
    parser.add_argument("--dsn", help="verify this live database instead (PGPASSWORD or a .pgpass file is read too)")
    parser.add_argument("--tenant", help="with --dsn: only this tenant")
    parser.add_argument(
        "--worm", metavar="DIR", help="with --dsn: compare the rows with the artifacts in this WORM directory"
    )
    found = parser.parse_args(words)
    if (found.file is None) == (found.dsn is None):
        parser.error("name a bundle, or a database with --dsn")
    if found.dsn is None and (found.tenant or found.worm):
        parser.error("--tenant and --worm go with --dsn")
    if found.dsn is not None and found.root and not found.keyring:
        parser.error("with --dsn, --root goes with --keyring")
    if found.dsn is not None and found.tenant_key:
        parser.error("--tenant-key goes with a bundle")
    for name, fingerprint in (("--root", found.root), ("--tenant-key", found.tenant_key)):
        if fingerprint is not None and re.fullmatch("[0-9a-f]{64}", fingerprint) is None:
            parser.error(f"{name} takes the 64 hex digits of a fingerprint")
    if found.tenant is not None and _TENANT_ID.fullmatch(found.tenant) is None:
        parser.error("--tenant takes a tenant id")
    return found


def _verdict(arguments: argparse.Namespace) -> Verdict:
    try:
        ring = None
        if arguments.keyring is not None:
            with Path(arguments.keyring).open("rb") as file:
                ring = read_ring(file.read(DOCUMENT_BYTES_MAX), arguments.root)
        if arguments.file is not None:
            gc.disable()  # A bundle makes no cycles, and it takes a fifth of the time to look for them.
            with Path(arguments.file).open("rb") as file:
                return verify_file(file, arguments.root, arguments.tenant_key, ring)
    except OSError as cause:
        raise UnavailableError(f"cannot be read: {cause.strerror}") from cause
    except FaultError as fault:
        return Verdict(fault.status, f"of --keyring: {fault.text}", None, {})
    import asyncio  # noqa: PLC0415  (it takes longer to load than most bundles to verify)

    store = None if arguments.worm is None else Store(Path(arguments.worm))
    if store is not None and not Path(arguments.worm).is_dir():
        raise UnavailableError("the WORM directory is no directory")
    return asyncio.run(_connect_and_verify(arguments.dsn, arguments.tenant, ring, store))


def _said(verdict: Verdict) -> Iterator[str]:
    """The verdict for people."""
    facts = verdict.facts
    at = "" if verdict.seq is None else f"entry {verdict.seq}: "
    whose = f" (tenant {facts['tenant_id']})" if facts.get("tenant_id") and verdict.status else ""
    yield f"{WORDS[verdict.status]}: {at}{verdict.text}{whose}"
    if verdict.status == OK and "tree_size" in facts:
        whole = f"entries {facts['first_seq']} to {facts['last_seq']} of {facts['tree_size']}"
        yield f"  tenant {facts['tenant_id']}, {whole}"
        yield f"  {facts['checkpoints']} checkpoints, countersigned by a witness up to entry {facts['witnessed_size']}"
    if verdict.status == OK and "rounds" in facts:
        yield f"  {facts['tenants']} tenants, {facts['entries']} entries, {facts['rounds']} rounds"
        if facts["artifacts_compared"] is None:
            yield "  what was decided stands in the artifacts, and no row was held to them: pass --worm DIR"
        else:
            waiting = f"{facts['artifacts_waiting']} wait to be sealed"
            yield f"  {facts['artifacts_compared']} artifacts held to their entries and rows, {waiting}"
    if facts.get("signatures_checked") is False:
        yield "  signatures not checked: pass --keyring FILE"
    yield from _said_of_keys(facts)


def _said_of_keys(facts: dict[str, Any]) -> Iterator[str]:
    """By which keys a bundle was judged, and what nobody vouched for."""
    if "keyring_version" in facts:
        hint = "" if facts["keyring_given"] else "; a newer one may have ended a key: pass --keyring FILE"
        yield f"  key ring version {facts['keyring_version']} of {facts['keyring_created_at']}{hint}"
    if facts.get("tenant_key_pinned"):
        yield f"  tenant key {facts.get('tenant_key_sha256', 'unknown')}"
    elif "tenant_key_pinned" in facts:
        known = facts.get("tenant_key_sha256", "unknown")
        yield (
            "  tenant key not pinned: with another one the same tenant can have another history; "
            f"pass --tenant-key FINGERPRINT (the one inside is {known})"
        )
    if facts.get("root_pinned") is False:
        known = facts.get("root_fingerprint", "unknown")
        yield f"  root not pinned: anybody could have made this; pass --root FINGERPRINT (the one inside is {known})"


def main(words: list[str] | None = None) -> int:
    arguments = _arguments(words)
    try:
        verdict = _verdict(arguments)
    except UnavailableError as fault:
        print(f"{sys.argv[0]}: {fault}", file=sys.stderr)
        return UNAVAILABLE
    if arguments.json:
        facts = {"status": verdict.status, "verdict": WORDS[verdict.status], "reason": verdict.text}
        print(json.dumps({**verdict.facts, **facts, "first_bad_seq": verdict.seq}, sort_keys=True))
    else:
        print("\n".join(_said(verdict)))
    return verdict.status


if __name__ == "__main__":
    sys.exit(main())
