"""Proofs about a tenant's tree: hundreds of rows are read for one, never the chain.

`chain_nodes` keeps the complete subtrees of 2^8, 2^16 and 2^24 leaves, so a hash of any level is made of
at most 256 rows of the level kept below it. A tree is as large as a checkpoint says: what was appended
after it has no proof yet.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.checkpoint import NODE_LEVELS, Leaf, first_link, link_to, round_of, round_root
from schemas.event_evidence import Checkpoint
from schemas.merkle import Frontier, Place, audit_path, cover
from sinks.notes import text_of
from sinks.pg import Connection
from sinks.segments import EvidenceError
from sinks.signing import SignatureError

# Rounds keep the newest leaf of a tenant with its frontier, and one older leaf per 10,000 entries.
_LEAVES = """
SELECT size, round, partition, root FROM chain_leaves WHERE tenant_id = $1
UNION SELECT size, round, partition, root FROM chain_frontiers WHERE tenant_id = $1
"""
_COVERING = f"SELECT * FROM ({_LEAVES}) AS l WHERE size >= $2 ORDER BY size LIMIT 1"  # noqa: S608  (no value in it)
_NEWEST = "SELECT size, round, partition, root FROM chain_frontiers WHERE tenant_id = $1"
_SPREAD = f"""
SELECT DISTINCT ON ((size - 1) / $4) * FROM ({_LEAVES}) AS l
WHERE size BETWEEN $2 AND $3 ORDER BY (size - 1) / $4, size DESC
"""  # noqa: S608  (no value in it)
_HASHES = """
SELECT seq - 1 AS position, decode(chain_hash, 'hex') AS hash
FROM unnest($2::bigint[], $3::bigint[]) AS r (first, until)
CROSS JOIN LATERAL (
    SELECT seq, chain_hash FROM chain_entries WHERE tenant_id = $1 AND seq > r.first AND seq <= r.until
) AS e
"""
_NODES = """
SELECT n.level, n.position, n.hash
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS r (level, first, until)
CROSS JOIN LATERAL (
    SELECT level, position, hash FROM chain_nodes
    WHERE tenant_id = $1 AND level = r.level AND position >= r.first AND position < r.until
) AS n
"""
_ROUND = """
SELECT checkpoint_seq, note, cosignature, leaves FROM chain_checkpoints
WHERE partition = $1 AND checkpoint_seq BETWEEN $2::bigint - 1 AND $2
"""
_leaves = msgspec.json.Decoder(tuple[Leaf, ...])


class Covered(NamedTuple):
    """A tree of the tenant that a round has a leaf of."""

    size: int
    round: int
    partition: int
    root: str


async def newest(connection: Connection, tenant_id: str) -> Covered | None:
    """The largest tree of the tenant that a round covers, None when none does."""
    row = await connection.fetchrow(_NEWEST, tenant_id)
    return None if row is None else Covered(*row)


async def covering(connection: Connection, tenant_id: str, seq: int) -> Covered | None:
    """The smallest known tree that holds the entry, None when no round covers it yet."""
    row = await connection.fetchrow(_COVERING, tenant_id, seq)
    return None if row is None else Covered(*row)


async def spread(connection: Connection, tenant_id: str, first: int, last: int, every: int) -> list[Covered]:
    """The trees of sizes from `first` to `last`, at most one per `every` entries, by size."""
    return [Covered(*row) for row in await connection.fetch(_SPREAD, tenant_id, first, last, every)]


async def inclusion(connection: Connection, tenant_id: str, index: int, size: int) -> list[bytes]:
    """The audit path of leaf `index` in the tenant's tree of `size` leaves. Raises EvidenceError when rows are gone."""
    ranges = audit_path(index, size)
    covers = [list(cover(first, end)) for first, end in ranges]
    hashes = iter(await subtrees(connection, tenant_id, [place for places in covers for place in places]))
    return [_joined(places, hashes) for places in covers]


async def between(connection: Connection, tenant_id: str, first: int, end: int) -> list[tuple[int, bytes]]:
    """The fewest complete subtrees that hold the leaves from `first` up to, not with, `end`, each with its level."""
    places = list(cover(first, end))
    hashes = await subtrees(connection, tenant_id, places)
    return [(place.level, node) for place, node in zip(places, hashes, strict=True)]


async def subtrees(connection: Connection, tenant_id: str, places: Sequence[Place]) -> list[bytes]:
    """The hashes of complete subtrees below a covered size. Raises EvidenceError when rows are gone."""
    parts = [_parts(place) for place in places]
    wanted = [(level, positions) for level, positions in parts if level]
    leaves = [positions for level, positions in parts if not level]
    rows = await connection.fetch(
        _NODES,
        tenant_id,
        [level for level, _ in wanted],
        [positions.start for _, positions in wanted],
        [positions.stop for _, positions in wanted],
    )
    found: dict[Place, bytes] = {Place(row["level"], row["position"]): row["hash"] for row in rows}
    rows = await connection.fetch(
        _HASHES, tenant_id, [positions.start for positions in leaves], [positions.stop for positions in leaves]
    )
    found |= {Place(0, row["position"]): row["hash"] for row in rows}
    try:
        return [_root(found[Place(level, position)] for position in positions) for level, positions in parts]
    except KeyError:
        raise EvidenceError("a part of the tree that a checkpoint covers is gone") from None


async def checkpoint(connection: Connection, covered: Covered, name: str) -> Checkpoint:
    """The leaf of this tree in its round, proven by the round's note.

    Raises EvidenceError when the round is gone, holds another leaf of that name or is not what its note says.
    """
    rows = {row["checkpoint_seq"]: row for row in await connection.fetch(_ROUND, covered.partition, covered.round)}
    row, before = rows.get(covered.round), rows.get(covered.round - 1)
    if row is None or (before is None and covered.round > 1):
        raise EvidenceError("the round of a checkpoint is gone")
    leaves, link = _round_of(covered, row, before)
    place = next((at for at, leaf in enumerate(leaves) if leaf.name == name), None)
    if place is None or (leaves[place].size, leaves[place].root) != (covered.size, covered.root):
        raise EvidenceError("a round holds another leaf of the tenant than its tree says")
    tree = [link, *(leaf.leaf_hash for leaf in leaves)]
    index = place + 1
    path = [_root(tree[first:end]) for first, end in audit_path(index, len(tree))]
    return Checkpoint(
        index=index,
        leaf=leaves[place],
        note=row["note"] + row["cosignature"],
        path=tuple(node.hex() for node in path),
        tree_size=len(tree),
    )


def _round_of(covered: Covered, row: Any, before: Any) -> tuple[tuple[Leaf, ...], bytes]:
    """The leaves of a round and what stands before them in its tree, once they make the root its note tells."""
    try:
        leaves = _leaves.decode(row["leaves"])
        link = first_link(covered.partition) if before is None else link_to(text_of(before["note"]))
        root = round_of(text_of(row["note"])).root
    except (SignatureError, ValueError):
        raise EvidenceError("a round cannot be read") from None
    if round_root(link, leaves) != root:
        raise EvidenceError("the leaves of a round are not those its note signs")
    return leaves, link


def _parts(place: Place) -> tuple[int, range]:
    """The level kept at or below the place's, and the positions on it that make the place."""
    level = max((kept for kept in NODE_LEVELS if kept <= place.level), default=0)
    width = 1 << (place.level - level)
    return level, range(place.position * width, (place.position + 1) * width)


def _joined(places: Sequence[Place], hashes: Iterator[bytes]) -> bytes:
    """The root over neighbouring subtrees; takes the hash of each from `hashes`."""
    tree = Frontier()
    for place in places:
        tree.append(next(hashes), place.level)
    return tree.root()


def _root(nodes: Iterable[bytes]) -> bytes:
    tree = Frontier()
    for node in nodes:
        tree.append(node)
    return tree.root()
