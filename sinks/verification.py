"""Checking stored evidence: chains against their trees, trees against signed rounds."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from schemas.checkpoint import GrowingTree, Leaf
from sinks.chain_reader import ChainFault, Place, page, place_of, start, tree_at
from sinks.keyring import Keyring
from sinks.pg import Pool
from sinks.signed_leaves import signed_leaves

TAIL_ENTRIES = 1_000

_HEAD = "SELECT seq, chain_hash FROM chain_heads WHERE tenant_id = $1"
_FRONTIER = "SELECT size, hashes, root, name, partition, round FROM chain_frontiers WHERE tenant_id = $1"
_ACTIVE = """
SELECT tenant_id FROM chain_heads
WHERE tenant_id = ANY ($1::text[]) AND updated_at > now() - interval '15 minutes' ORDER BY tenant_id
"""
_SHRUNK = """
SELECT f.tenant_id FROM chain_frontiers AS f LEFT JOIN chain_heads AS h USING (tenant_id)
WHERE f.tenant_id = ANY ($1::text[]) AND coalesce(h.seq, 0) < f.size
"""


class _Covered(NamedTuple):
    """What the newest leaf says of a chain."""

    size: int
    hashes: bytes
    root: str
    name: str
    partition: int
    round: int


class Verification:
    """Reads what is stored, as the worker. Raises NoAnswer where a store is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def shrunk(self, tenant_ids: Sequence[str]) -> list[str]:
        """Those of the tenants whose chain is shorter than a round has covered."""
        async with self._pool.tenant_transaction(tenant_ids) as connection:
            return [row[0] for row in await connection.fetch(_SHRUNK, tenant_ids)]

    async def active(self, tenant_ids: Sequence[str]) -> list[str]:
        """Those of the tenants whose chain has lately grown."""
        async with self._pool.tenant_transaction(tenant_ids) as connection:
            return [row[0] for row in await connection.fetch(_ACTIVE, tenant_ids)]

    async def check(self, tenant_id: str, ring: Keyring, *, whole: bool) -> AsyncIterator[int]:
        """Go along a tenant's chain, or along its end only, and yield the seq after each page.

        When it ends, every entry read is what was hashed, follows the one before it and leads to the
        head, and as far as a round covers them they are in the signed root. Raises ChainFault.
        """
        head, covered = await self._claims(tenant_id, ring)
        tree, after = await self._begin(tenant_id, covered, 0 if whole else max(0, head.seq - TAIL_ENTRIES))
        while after.seq < head.seq:
            last = covered.size if covered and after.seq < covered.size else head.seq
            async with self._pool.tenant_transaction([tenant_id]) as connection:
                after, hashes = await page(connection, tenant_id, after, last)
            if covered and after.seq <= covered.size:
                for node in hashes:
                    tree.append(node)
            if covered and after.seq == covered.size and (tree.hashes, tree.root().hex()) != covered[1:3]:
                raise ChainFault(tenant_id, "root_differs", covered.size)
            yield after.seq
        if after != head:
            raise ChainFault(tenant_id, "head_altered", head.seq)

    async def _claims(self, tenant_id: str, ring: Keyring) -> tuple[Place, _Covered | None]:
        """What head and newest leaf say, the leaf being in its signed round."""
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            leaf = await connection.fetchrow(_FRONTIER, tenant_id)
            row = await connection.fetchrow(_HEAD, tenant_id)
            signed = await signed_leaves(connection, leaf["partition"], leaf["round"], ring) if leaf else frozenset()
        head = Place(*row) if row else start(tenant_id)
        if leaf is None:
            return head, None
        covered = _Covered(*leaf)
        if head.seq < covered.size:
            raise ChainFault(tenant_id, "head_behind_checkpoint", head.seq)
        if Leaf(covered.name, covered.root, covered.size) not in signed:
            raise ChainFault(tenant_id, "checkpoint_altered", covered.size)
        return head, covered

    async def _begin(self, tenant_id: str, covered: _Covered | None, seq: int) -> tuple[GrowingTree, Place]:
        """Tree and place where a check starts that must read everything after `seq`."""
        if covered is not None:
            seq = min(seq, covered.size - 1) & ~255
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            tree = await tree_at(connection, tenant_id, seq) if covered else GrowingTree()
            return tree, await place_of(connection, tenant_id, seq)
