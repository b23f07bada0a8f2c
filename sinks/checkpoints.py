"""Checkpoints: rounds over the trees of a partition's tenants, signed, each linked to the one before it."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from schemas.canonical import canonical_plain
from schemas.checkpoint import (
    LEAF_EVERY,
    Covering,
    Growth,
    Leaf,
    Node,
    Round,
    first_link,
    leaf_name,
    link_to,
    note_text,
    round_root,
    tenant_key,
)
from schemas.merkle import EMPTY_ROOT
from sinks.chain_reader import ChainFault, covered_tree, pages
from sinks.keyring import Keyring
from sinks.notes import sign, text_of
from sinks.pg import Connection, Pool
from sinks.signed_leaves import signed_leaves
from sinks.signing import Signer

LOCK_CLASS = 0x4648
"""First half of the advisory lock's key; the partition is the other."""
TENANTS_MAX = 500
ENTRIES_MAX = 50_000
"""What one round covers at most: the rest is the next round's, so that no transaction is long."""
ENTRIES_MIN = 1_000
SEND_MAX = 20

_NO_ROOT = EMPTY_ROOT.hex()
_TENANTS = "SELECT tenant_id FROM tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2"
_GROWN = """
SELECT h.tenant_id, h.seq, coalesce(f.size, 0) AS size, coalesce(f.hashes, ''::bytea) AS hashes, coalesce(f.root, $2),
    coalesce(f.round, 0),
    coalesce((SELECT substring(e.entry FROM '"ingest_ts":"([^"]*)"') FROM chain_entries AS e
        WHERE e.tenant_id = h.tenant_id AND e.seq = coalesce(f.size, 0) + 1), '') AS since
FROM chain_heads AS h LEFT JOIN chain_frontiers AS f USING (tenant_id)
WHERE h.tenant_id = ANY ($1::text[]) AND h.seq > coalesce(f.size, 0) ORDER BY h.tenant_id
"""
_LOCK = "SELECT pg_try_advisory_xact_lock($1, $2)"
_LAST = """
SELECT checkpoint_seq, note FROM chain_checkpoints WHERE partition = $1 ORDER BY checkpoint_seq DESC LIMIT 1
"""
_NAMES = "SELECT tenant_id, name FROM chain_frontiers WHERE tenant_id = ANY ($1::text[])"
_NODES = """
INSERT INTO chain_nodes (tenant_id, level, position, hash)
SELECT * FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bytea[])
"""
_FRONTIERS = """
INSERT INTO chain_frontiers (tenant_id, size, hashes, root, name, partition, round)
SELECT tenant_id, size, hashes, root, name, $1::smallint, $2::bigint
FROM unnest($3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::text[]) AS f (tenant_id, size, hashes, root, name)
ON CONFLICT (tenant_id) DO UPDATE
SET size = EXCLUDED.size, hashes = EXCLUDED.hashes, root = EXCLUDED.root, round = EXCLUDED.round, updated_at = now()
"""
_LEAVES = """
INSERT INTO chain_leaves (tenant_id, size, round, partition, root)
SELECT tenant_id, size, $2::bigint, $1::smallint, root
FROM unnest($3::text[], $4::bigint[], $5::text[]) AS l (tenant_id, size, root)
"""
_ROUND = """
INSERT INTO chain_checkpoints (partition, checkpoint_seq, tree_size, root_sha256, note, leaves, growth)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_SERVED = "DELETE FROM checkpoint_requests WHERE partition = $1 AND requested_at <= $2"
_REQUESTED = "SELECT partition, requested_at FROM checkpoint_requests ORDER BY partition"
_COLUMNS = """
SELECT partition, checkpoint_seq, note, leaves, growth, stored,
    coalesce((SELECT b.note FROM chain_checkpoints AS b
        WHERE b.partition = c.partition AND b.checkpoint_seq = c.checkpoint_seq - 1), '') AS note_before
FROM chain_checkpoints AS c"""
_UNSTORED = f"{_COLUMNS} WHERE NOT stored AND partition = $1 AND checkpoint_seq > $2 ORDER BY checkpoint_seq LIMIT $3"
_UNWITNESSED = f"{_COLUMNS} WHERE growth <> '' AND partition = $1 ORDER BY checkpoint_seq LIMIT $2"
_ONE = f"{_COLUMNS} WHERE partition = $1 AND checkpoint_seq = $2"
_STORED = "UPDATE chain_checkpoints SET stored = true WHERE partition = $1 AND checkpoint_seq = $2"
_COSIGNED = """
UPDATE chain_checkpoints SET cosignature = $3, growth = '' WHERE partition = $1 AND checkpoint_seq = $2
"""


class Grown(NamedTuple):
    """A chain that is longer than its newest leaf, of `round`; `since` is when its first uncovered event came in."""

    tenant_id: str
    seq: int
    size: int
    hashes: bytes
    root: str
    round: int
    since: str


class Made(NamedTuple):
    """What an attempt at a round came to: the tenants it covers, those with more than it could take, and the faults."""

    covered: tuple[str, ...]
    left: tuple[str, ...]
    faults: tuple[ChainFault, ...]


class StoredRound(NamedTuple):
    """A committed round."""

    partition: int
    number: int
    note: str
    leaves: str
    growth: str
    stored: bool
    """Whether it is known to have been put into the WORM store."""
    note_before: str
    """The note of the round before; empty where there is none."""

    @property
    def link(self) -> bytes:
        """What stands before the leaves in the round's tree. Raises SignatureError when the round before is gone."""
        return first_link(self.partition) if self.number == 1 else link_to(text_of(self.note_before))

    @property
    def key(self) -> str:
        return round_key(self.partition, self.number)

    @property
    def data(self) -> bytes:
        """The object in the WORM store: canonical, and the same bytes whoever puts it."""
        leaves = msgspec.Raw(self.leaves.encode())
        return canonical_plain({"leaves": leaves, "note": self.note, "partition": self.partition, "round": self.number})


class _Tree(NamedTuple):
    """One tenant's part of a round."""

    tenant_id: str
    leaf: Leaf
    hashes: bytes
    nodes: list[Node]
    growth: Growth
    kept: bool


def round_key(partition: int, number: int) -> str:
    return f"checkpoints/p{partition:02d}/{number:012d}.json"


class Checkpoints:
    """Rounds in the database. `witnessed`: keep with each round what a witness needs to judge it."""

    def __init__(self, pool: Pool, signer: Signer, secret: bytes, *, witnessed: bool) -> None:
        self._pool = pool
        self._signer = signer
        self._secret = secret
        self._witnessed = witnessed

    async def tenants(self, after: str) -> list[str]:
        """The next tenants in order of id, TENANTS_MAX at most. Raises NoAnswer, as all of this class."""
        async with self._pool.connection() as connection:
            return [row[0] for row in await connection.fetch(_TENANTS, after, TENANTS_MAX)]

    async def grown(self, tenant_ids: Sequence[str]) -> list[Grown]:
        """Those of the tenants whose chain is longer than their newest leaf."""
        async with self._pool.tenant_transaction(tenant_ids) as connection:
            return [Grown(*row) for row in await connection.fetch(_GROWN, tenant_ids, _NO_ROOT)]

    async def round(self, partition: int, tenant_ids: Sequence[str], ring: Keyring) -> Made | None:
        """Commit the partition's next round over what those of its tenants have new; None when another makes one.

        A chain that is not whole, or did not grow from a leaf that a key of the ring signed, gets no leaf and is
        among the faults; without any leaf there is no round.
        """
        taken, left = tenant_ids[:TENANTS_MAX], list(tenant_ids[TENANTS_MAX:])
        async with self._pool.tenant_transaction(taken) as connection:
            if not await connection.fetchval(_LOCK, LOCK_CLASS, partition):
                return None
            grown = [Grown(*row) for row in await connection.fetch(_GROWN, taken, _NO_ROOT)]
            entries_max = max(ENTRIES_MIN, ENTRIES_MAX // max(1, len(grown)))
            trees: list[_Tree] = []
            faults: list[ChainFault] = []
            signed: dict[int, frozenset[Leaf]] = {0: frozenset()}
            for one in grown:
                last = min(one.seq, one.size + entries_max)
                if one.round not in signed:
                    signed[one.round] = await signed_leaves(connection, partition, one.round, ring)
                try:
                    trees.append(await self._tree(connection, one, last, signed[one.round]))
                except ChainFault as fault:
                    faults.append(fault)
                else:
                    left += [one.tenant_id] if last < one.seq else []
            if trees:
                await self._write(connection, partition, sorted(trees, key=lambda tree: tree.leaf.name))
        return Made(tuple(tree.tenant_id for tree in trees), tuple(left), tuple(faults))

    async def named_here(self, tenant_ids: Sequence[str]) -> set[bool]:
        """Of those tenants' newest leaves: whether the secret made their names."""
        async with self._pool.tenant_transaction(tenant_ids) as connection:
            rows = await connection.fetch(_NAMES, tenant_ids)
        return {name == self._name(tenant_id) for tenant_id, name in rows}

    async def requests(self) -> dict[int, object]:
        """The partitions somebody wants a round of now, each with the request to hand to `served`."""
        async with self._pool.connection() as connection:
            return {row["partition"]: row["requested_at"] for row in await connection.fetch(_REQUESTED)}

    async def served(self, partition: int, requested_at: object) -> None:
        """Take a request away; a later one stays."""
        async with self._pool.connection() as connection:
            await connection.execute(_SERVED, partition, requested_at)

    async def last(self, partition: int) -> StoredRound | None:
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_LAST, partition)
        return await self.one(partition, row["checkpoint_seq"]) if row else None

    async def one(self, partition: int, number: int) -> StoredRound | None:
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_ONE, partition, number)
        return StoredRound(*row) if row else None

    async def unstored(self, partition: int, after: int) -> list[StoredRound]:
        """The oldest rounds after that number not known to be in the WORM store."""
        async with self._pool.connection() as connection:
            return [StoredRound(*row) for row in await connection.fetch(_UNSTORED, partition, after, SEND_MAX)]

    async def unwitnessed(self, partition: int, limit: int = SEND_MAX) -> list[StoredRound]:
        """The oldest rounds that no witness has countersigned and one can still judge, `limit` at most."""
        async with self._pool.connection() as connection:
            return [StoredRound(*row) for row in await connection.fetch(_UNWITNESSED, partition, limit)]

    async def stored(self, this: StoredRound) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_STORED, this.partition, this.number)

    async def cosigned(self, this: StoredRound, cosignature: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_COSIGNED, this.partition, this.number, cosignature)

    async def _tree(self, connection: Connection, one: Grown, last: int, signed: frozenset[Leaf]) -> _Tree:
        """Raises ChainFault, also where the frontier is not that of the entries it stands for: a root would be signed
        that no chain has. So it does where the frontier is none of the `signed` leaves of its round: entries, nodes
        and frontier can be rewritten together, and what was signed of them cannot.
        """
        tree, after = await covered_tree(connection, one.tenant_id, one.size)
        if (tree.hashes, tree.root().hex()) != (one.hashes, one.root):
            raise ChainFault(one.tenant_id, "frontier_altered", one.size)
        if one.size and Leaf(self._name(one.tenant_id), one.root, one.size) not in signed:
            raise ChainFault(one.tenant_id, "checkpoint_altered", one.size)
        covering, nodes = Covering(one.size, last), list[Node]()
        async for hashes in pages(connection, one.tenant_id, after, last):
            for node in hashes:
                nodes += tree.append(node)
                covering.append(node)
        leaf = Leaf(self._name(one.tenant_id), tree.root().hex(), last)
        growth = Growth((one.size, one.hashes.hex()), tuple(covering.nodes))
        return _Tree(one.tenant_id, leaf, tree.hashes, nodes, growth, last // LEAF_EVERY > one.size // LEAF_EVERY)

    def _name(self, tenant_id: str) -> str:
        return leaf_name(tenant_key(self._secret, tenant_id), tenant_id)

    async def _write(self, connection: Connection, partition: int, trees: Sequence[_Tree]) -> None:
        last = await connection.fetchrow(_LAST, partition)
        number = last["checkpoint_seq"] + 1 if last else 1
        link = link_to(text_of(last["note"])) if last else first_link(partition)
        leaves = [tree.leaf for tree in trees]
        root = round_root(link, leaves)
        note = sign(note_text(Round(partition, number, root)), self._signer)
        growth = canonical_plain({tree.leaf.name: tree.growth for tree in trees}).decode() if self._witnessed else ""
        nodes = [(tree.tenant_id, *node.place, node.hash) for tree in trees for node in tree.nodes]
        if nodes:
            await connection.execute(_NODES, *zip(*nodes, strict=True))
        rows = [(t.tenant_id, t.leaf.size, t.hashes, t.leaf.root, t.leaf.name) for t in trees]
        await connection.execute(_FRONTIERS, partition, number, *zip(*rows, strict=True))
        kept = [(tree.tenant_id, tree.leaf.size, tree.leaf.root) for tree in trees if tree.kept]
        if kept:
            await connection.execute(_LEAVES, partition, number, *zip(*kept, strict=True))
        text = canonical_plain(leaves).decode()
        await connection.execute(_ROUND, partition, number, 1 + len(leaves), root.hex(), note, text, growth)
