"""Checkpoints in their words (docs/evidence.md): a tenant's leaf, a partition's round, trees that grow.

No tenant can be read out of a round: a leaf's name is a keyed hash, and the key is the tenant's alone.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import msgspec

from schemas.canonical import canonical_plain
from schemas.merkle import HASH_BYTES, Frontier, Place, cover

SECRET_BYTES = 32
LEAF_EVERY = 10_000
"""Of the leaves of one tenant, one per so many entries is kept for good, and always the newest."""
NODE_BITS = 8
"""Complete subtrees are kept of 2^8, 2^16 and 2^24 leaves."""
NODE_LEVELS = (NODE_BITS, 2 * NODE_BITS, 3 * NODE_BITS)
_NOTE = re.compile(r"frostgate/checkpoint/p(\d{2})\n([1-9]\d{0,15})\n([A-Za-z0-9+/]{43}=)\n", re.ASCII)
_FULL = 1 << NODE_BITS


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Root and size of one tenant's tree; the name says whose to those who hold the tenant's key."""

    name: str
    root: str
    size: int

    @property
    def leaf_hash(self) -> bytes:
        return hashlib.sha256(b"\x00" + canonical_plain(self)).digest()


class Growth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a tree became that of its leaf: the frontier it had, and the subtrees that came, in order.

    `before` is a size and the frontier's hashes in hex, one after the other.
    """

    before: tuple[int, str]
    grown: tuple[tuple[int, str], ...]


class Round(NamedTuple):
    """What a note's text says: the round's number and the root of its tree."""

    partition: int
    number: int
    root: bytes


def tenant_key(secret: bytes, tenant_id: str) -> bytes:
    """The key of one tenant; with it the tenant finds its leaves and nobody else's."""
    return hmac.digest(secret, tenant_id.encode(), "sha256")


def leaf_name(key: bytes, tenant_id: str) -> str:
    return hmac.digest(key, tenant_id.encode(), "sha256").hex()


def first_link(partition: int) -> bytes:
    """What round 1 of a partition links to."""
    return hashlib.sha256(f"\x00fg-checkpoint-v1\n{partition}".encode()).digest()


def link_to(note_text: str) -> bytes:
    """What the round after this one links to."""
    return hashlib.sha256(b"\x00" + note_text.encode()).digest()


def round_root(link: bytes, leaves: Sequence[Leaf]) -> bytes:
    """The root of a round's tree: the link, then the leaves as they are given, which must be in order of name."""
    tree = Frontier()
    tree.append(link)
    for leaf in leaves:
        tree.append(leaf.leaf_hash)
    return tree.root()


def note_text(this: Round) -> str:
    """What is signed: origin, number and root, each on a line."""
    return f"frostgate/checkpoint/p{this.partition:02d}\n{this.number}\n{base64.b64encode(this.root).decode()}\n"


def round_of(text: str) -> Round:
    """The round a note's text tells of. Raises ValueError when it is none in its one form."""
    match = _NOTE.fullmatch(text)
    if match is None:
        raise ValueError("not the text of a round")
    this = Round(int(match[1]), int(match[2]), base64.b64decode(match[3]))
    if note_text(this) != text:
        raise ValueError("not the text of a round")
    return this


def hashes_of(text: str) -> bytes:
    """Lower-case hex as bytes. Raises ValueError for anything else."""
    try:
        data = bytes.fromhex(text)
    except (ValueError, binascii.Error) as cause:
        raise ValueError("not hexadecimal") from cause
    if data.hex() != text:
        raise ValueError("not lower-case hexadecimal")
    return data


class Node(NamedTuple):
    """A complete subtree and its hash."""

    place: Place
    hash: bytes


class GrowingTree:
    """A tree that grows leaf by leaf and gives each of its complete subtrees of the kept levels, once.

    It is held as the frontiers of its digits to the base 256: the last digit counts leaves, the one
    before it subtrees of 2^8 leaves, and so on; the highest digit has no bound.
    """

    def __init__(self, size: int = 0, hashes: bytes = b"") -> None:
        """The tree of this frontier. Raises ValueError when the hashes are not as many as such a frontier has."""
        whole = Frontier.of(size, hashes)
        self.size = whole.size
        self._digits: list[Frontier] = []
        end = len(hashes)
        for at in range(len(NODE_LEVELS)):
            digit = size >> (at * NODE_BITS) & (_FULL - 1)
            start = end - HASH_BYTES * digit.bit_count()
            self._digits.append(Frontier.of(digit, hashes[start:end]))
            end = start
        self._digits.append(Frontier.of(size >> NODE_LEVELS[-1], hashes[:end]))

    def append(self, node: bytes) -> list[Node]:
        """Grow by one leaf; returns the subtrees of kept levels that are complete now."""
        self.size += 1
        complete: list[Node] = []
        for at, digit in enumerate(self._digits[:-1]):
            digit.append(node)
            if digit.size < _FULL:
                return complete
            node = digit.root()
            self._digits[at] = Frontier()
            level = NODE_LEVELS[at]
            complete.append(Node(Place(level, (self.size >> level) - 1), node))
        self._digits[-1].append(node)
        return complete

    @property
    def hashes(self) -> bytes:
        """The frontier's hashes, largest subtree first: what `schemas.merkle.Frontier` writes down too."""
        return b"".join(digit.hashes for digit in reversed(self._digits))

    def root(self) -> bytes:
        return Frontier.of(self.size, self.hashes).root()


class Covering:
    """Takes the leaves from `first` up to, not with, `end` and gives the subtrees that cover them, in order."""

    def __init__(self, first: int, end: int) -> None:
        self._places: Iterator[Place] = cover(first, end)
        self._place = next(self._places, None)
        self._part = Frontier()
        self.nodes: list[tuple[int, str]] = []

    def append(self, node: bytes) -> Self:
        """Take the next leaf. Raises ValueError when there is none left to cover."""
        if self._place is None:
            raise ValueError("more leaves than were to be covered")
        self._part.append(node)
        if self._part.size == 1 << self._place.level:
            self.nodes.append((self._place.level, self._part.root().hex()))
            self._part = Frontier()
            self._place = next(self._places, None)
        return self
