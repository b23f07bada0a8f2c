"""Reading a chain back: whatever its rows hold is the chain, or a fault with a name."""

from typing import Any

import pytest

from schemas.evidence import ChainEntry, genesis_hash, seal
from schemas.merkle import Frontier
from sinks.chain_reader import ChainFault, covered_tree


def _rows(count: int) -> list[tuple[int, str, str, str, str, str]]:
    rows, before = [], genesis_hash("acme")
    for seq in range(1, count + 1):
        words = ("2026-01-01T00:00:00.000Z", "t", "r", "p", "c", "b", 1, "a", 1, before)
        entry, chain_hash = seal(ChainEntry(1, "acme", seq, "decision", f"e-{seq}", *words))
        rows.append((seq, entry.decode(), before, chain_hash, "decision", f"e-{seq}"))
        before = chain_hash
    return rows


class _Chain:
    """A connection to a database that holds these entries and no node."""

    def __init__(self, rows: list[tuple[int, str, str, str, str, str]], hashes: str) -> None:
        self._rows = rows
        self._hashes = hashes

    async def fetch(self, _query: str, _tenant_id: str, first: int, last: int) -> list[Any]:
        return [row for row in self._rows if first <= row[0] <= last]

    async def fetchrow(self, _query: str, _tenant_id: str, first: int, last: int) -> tuple[int, str]:
        return last - first + 1, self._hashes


async def test_the_tree_is_that_of_the_hashes_and_the_walk_stands_behind_the_last() -> None:
    rows = _rows(5)
    tree, place = await covered_tree(_Chain(rows, "".join(row[3] for row in rows)), "acme", 5)
    whole = Frontier()
    for row in rows:
        whole.append(bytes.fromhex(row[3]))
    assert (tree.size, tree.root(), place) == (5, whole.root(), (5, rows[-1][3]))


@pytest.mark.parametrize("hashes", ["z" * 64 * 5, "0" * 63, "A" * 64 * 5, "00" * (32 * 5 - 1), "00" * 32 * 4])
async def test_what_is_no_hash_is_a_fault_of_the_chain_and_of_nobody_else(hashes: str) -> None:
    with pytest.raises(ChainFault, match="entry_altered"):
        await covered_tree(_Chain(_rows(5), hashes), "acme", 5)
