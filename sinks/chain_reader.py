"""Reading a chain while checking it: every entry hashes into the next, is in its place and is its tenant's."""

import hashlib
from collections.abc import AsyncIterator
from typing import NamedTuple, TypeAlias

import msgspec

from schemas.checkpoint import NODE_BITS, NODE_LEVELS, GrowingTree, hashes_of
from schemas.evidence import ChainEntry, genesis_hash
from schemas.merkle import HASH_BYTES, Frontier
from sinks.pg import Connection

PAGE = 1_000
Row: TypeAlias = tuple[int, str, str, str, str, str]
"""Seq, entry, prev_hash, chain_hash, kind and event_id, as the driver's record unpacks."""
_entry = msgspec.json.Decoder(ChainEntry)
_FROM = """
SELECT seq, entry, prev_hash, chain_hash, kind, event_id FROM chain_entries
WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq
"""
_NODE = (
    "SELECT hash FROM chain_nodes WHERE tenant_id = $1 AND level = $2 AND position BETWEEN $3 AND $4 ORDER BY position"
)
# One row of some kilobytes: every chain that grows is asked this for each round.
_HASHES = """
SELECT count(*), coalesce(string_agg(chain_hash::text, '' ORDER BY seq), '')
FROM chain_entries WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3
"""


class ChainFault(Exception):
    """A tenant's chain is not what it was. The text has a reason, a seq and no content."""

    def __init__(self, tenant_id: str, reason: str, seq: int) -> None:
        super().__init__(f"chain of {tenant_id}: {reason} at seq {seq}")
        self.tenant_id = tenant_id
        self.reason = reason
        self.seq = seq


class Place(NamedTuple):
    """Where a walk along a chain stands: the seq it has read up to, and that entry's hash."""

    seq: int
    chain_hash: str


def start(tenant_id: str) -> Place:
    return Place(0, genesis_hash(tenant_id))


async def place_of(connection: Connection, tenant_id: str, seq: int) -> Place:
    """Where a walk stands that has read up to `seq`. Raises ChainFault when that entry is gone or altered."""
    if seq == 0:
        return start(tenant_id)
    rows = await connection.fetch(_FROM, tenant_id, seq, seq)
    if not rows:
        raise ChainFault(tenant_id, "entry_missing", seq)
    _seq, _text, prev_hash, *_rest = rows[0]
    return _next(tenant_id, Place(seq - 1, prev_hash), rows[0])


async def page(connection: Connection, tenant_id: str, after: Place, last: int) -> tuple[Place, list[bytes]]:
    """The hashes of the next entries, a page at most and none after `last`, each checked; and where that leads.

    Raises ChainFault at the first entry that is missing, altered, or does not follow the one before it.
    """
    end = min(last, after.seq + PAGE)
    rows = await connection.fetch(_FROM, tenant_id, after.seq + 1, end)
    hashes = []
    for row in rows:
        after = _next(tenant_id, after, row)
        hashes.append(bytes.fromhex(after.chain_hash))
    if after.seq < end:
        raise ChainFault(tenant_id, "entry_missing", after.seq + 1)
    return after, hashes


async def pages(connection: Connection, tenant_id: str, after: Place, last: int) -> AsyncIterator[list[bytes]]:
    """Every hash after that place up to `last`, page by page. Raises as `page`."""
    while after.seq < last:
        after, hashes = await page(connection, tenant_id, after, last)
        yield hashes


async def tree_at(connection: Connection, tenant_id: str, size: int) -> GrowingTree:
    """The tree of the first `size` entries, made of kept nodes; `size` is a multiple of 256.

    Raises ChainFault when a node is missing.
    """
    frontier = Frontier()
    for level in reversed(NODE_LEVELS):
        first, end = frontier.size >> level, size >> level
        rows = await connection.fetch(_NODE, tenant_id, level, first, end - 1) if end > first else []
        if len(rows) != end - first:
            raise ChainFault(tenant_id, "node_missing", (first + len(rows)) << level)
        for row in rows:
            frontier.append(row["hash"], level)
    return GrowingTree(frontier.size, frontier.hashes)


async def covered_tree(connection: Connection, tenant_id: str, size: int) -> tuple[GrowingTree, Place]:
    """The tree of the first `size` entries, and where a walk stands that has read up to them.

    Made of kept nodes and the hashes of the last entries, 256 at most, whose last one is checked: of what is
    stored, and of nothing that was written down about it. Raises ChainFault.
    """
    begin = max(0, size - 1) >> NODE_BITS << NODE_BITS
    tree, place = await tree_at(connection, tenant_id, begin), await place_of(connection, tenant_id, size)
    count, text = await connection.fetchrow(_HASHES, tenant_id, begin + 1, size)
    if count != size - begin:
        raise ChainFault(tenant_id, "entry_missing", begin + 1)
    try:
        hashes = hashes_of(text)
    except ValueError:
        raise ChainFault(tenant_id, "entry_altered", begin + 1) from None
    if len(hashes) != HASH_BYTES * count:
        raise ChainFault(tenant_id, "entry_altered", begin + 1)
    for at in range(0, len(hashes), HASH_BYTES):
        tree.append(hashes[at : at + HASH_BYTES])
    return tree, place


def _next(tenant_id: str, after: Place, row: Row) -> Place:
    seq, text, prev_hash, chain_hash, kind, event_id = row
    data = text.encode()
    if seq != after.seq + 1:
        raise ChainFault(tenant_id, "entry_missing", after.seq + 1)
    if hashlib.sha256(b"\x00" + data).hexdigest() != chain_hash:
        raise ChainFault(tenant_id, "entry_altered", seq)
    try:
        entry = _entry.decode(data)
    except msgspec.MsgspecError as cause:
        raise ChainFault(tenant_id, "entry_altered", seq) from cause
    bound = (entry.tenant_id, entry.seq, entry.prev_hash, entry.kind, entry.event_id)
    if bound != (tenant_id, seq, prev_hash, kind, event_id):
        raise ChainFault(tenant_id, "entry_altered", seq)
    if prev_hash != after.chain_hash:
        raise ChainFault(tenant_id, "link_broken", seq)
    return Place(seq, chain_hash)
