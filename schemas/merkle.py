"""RFC 6962 Merkle trees as frontiers: enough to grow a tree, name its root and prove a leaf, never the whole tree.

A leaf is already hashed: `chain_hash = SHA256(0x00 || entry)` is the RFC's leaf hash. An inner node is
`SHA256(0x01 || left || right)`. A node of level L at position P covers the leaves `P * 2**L` up to `(P + 1) * 2**L`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class Place(NamedTuple):
    """One complete subtree: `2**level` leaves from `position * 2**level` on."""

    level: int
    position: int


def parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The complete subtrees of a tree of `size` leaves, largest first: one hash for each 1 bit of `size`."""

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[tuple[int, bytes]] = []

    @classmethod
    def of(cls, size: int, hashes: bytes) -> Self:
        """The frontier that `hashes` wrote down. Raises ValueError when they are not as many as `size` has 1 bits."""
        levels = [level for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]
        if size < 0 or len(hashes) != HASH_BYTES * len(levels):
            raise ValueError("not a frontier of that size")
        self = cls()
        self.size = size
        self._nodes = [(level, hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]) for at, level in enumerate(levels)]
        return self

    @property
    def hashes(self) -> bytes:
        """Every hash, one after the other: with `size`, all there is to keep."""
        return b"".join(node for _, node in self._nodes)

    def append(self, node: bytes, level: int = 0) -> None:
        """Grow by one leaf, or by a whole subtree of `2**level` leaves.

        Raises ValueError where a subtree of that level cannot begin.
        """
        if self.size & ((1 << level) - 1):
            raise ValueError("a subtree begins at a multiple of its size")
        self.size += 1 << level
        nodes = self._nodes
        while nodes and nodes[-1][0] == level:
            node = parent(nodes.pop()[1], node)
            level += 1
        nodes.append((level, node))

    def root(self) -> bytes:
        """The RFC 6962 root of the leaves so far; of none, the hash of nothing."""
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1][1]
        for _, node in reversed(self._nodes[:-1]):
            root = parent(node, root)
        return root


def cover(first: int, end: int) -> Iterator[Place]:
    """The fewest complete subtrees that hold the leaves `first` up to, not with, `end`; in order."""
    while first < end:
        level = (end - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        yield Place(level, first >> level)
        first += 1 << level


def audit_path(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots prove leaf `index` of `size`, lowest first (RFC 6962, 2.1.1).

    Each `(first, end)` is the sibling on one level. Raises ValueError for a leaf the tree has not.
    """
    if not 0 <= index < size:
        raise ValueError("no such leaf")
    first, end, found = 0, size, []
    while end - first > 1:
        middle = first + (1 << ((end - first - 1).bit_length() - 1))
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((first, middle))
            first = middle
    return found[::-1]


def root_from(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that `path` leads to from this leaf (RFC 9162, 2.1.3.2).

    Raises ValueError when the path is too long or too short for the leaf's place.
    """
    if not 0 <= index < size:
        raise ValueError("no such leaf")
    node, place, last = leaf, index, size - 1
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if place & 1 or place == last:
            node = parent(sibling, node)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            node = parent(node, sibling)
        place >>= 1
        last >>= 1
    if last:
        raise ValueError("the path is too short")
    return node
