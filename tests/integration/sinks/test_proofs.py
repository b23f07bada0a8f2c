"""Inclusion proofs from kept nodes, on real trees that are larger than one node."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ops.embedded import EmbeddedServers
from schemas.checkpoint import leaf_name, round_of, tenant_key
from schemas.merkle import Frontier, Place, audit_path, root_from
from schemas.subjects import partition_of
from sinks import proofs
from sinks.notes import text_of
from sinks.pg import Pool
from sinks.segments import EvidenceError
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings
from tests.integration.sinks.sealed import SECRET, Evidence

SIZE = 1_300
"""Five nodes of 256 leaves, and 20 leaves more."""


class Grown:
    """A tenant with a chain of SIZE entries, covered by a round, and the leaves of its tree."""

    def __init__(self, tenant_id: str, pool: Pool, leaves: list[bytes]) -> None:
        self.tenant_id = tenant_id
        self.pool = pool
        self.leaves = leaves


@pytest.fixture(scope="module")
async def grown(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Grown]:
    pool = await Pool.open(settings(servers.postgres_dsn("worker")))
    tenant = make.tenant_id()
    evidence = Evidence.begin(pool, tmp_path_factory.mktemp("worm"))
    await evidence.decide(tenant, range(SIZE))
    await evidence.cover(tenant)
    async with pool.tenant_transaction([tenant]) as connection:
        rows = await connection.fetch("SELECT chain_hash FROM chain_entries WHERE tenant_id = $1 ORDER BY seq", tenant)
    yield Grown(tenant, pool, [bytes.fromhex(row["chain_hash"]) for row in rows])
    await pool.close()


def _root(leaves: list[bytes]) -> bytes:
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 512, 700, 1_280, SIZE])
async def test_every_leaf_is_proven_in_every_covered_tree(grown: Grown, size: int) -> None:
    root = _root(grown.leaves[:size])
    for index in sorted({0, 1, size // 3, size // 2, size - 1} & set(range(size))):
        async with grown.pool.tenant_transaction([grown.tenant_id]) as connection:
            path = await proofs.inclusion(connection, grown.tenant_id, index, size)
        assert path == [_root(grown.leaves[first:end]) for first, end in audit_path(index, size)]
        assert root_from(grown.leaves[index], index, size, path) == root


async def test_a_proof_reads_hundreds_of_rows_and_never_the_chain(grown: Grown) -> None:
    read = 0

    class Counting:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        async def fetch(self, *arguments: Any) -> Any:
            nonlocal read
            rows = await self._connection.fetch(*arguments)
            read += len(rows)
            return rows

    async with grown.pool.tenant_transaction([grown.tenant_id]) as connection:
        await proofs.inclusion(Counting(connection), grown.tenant_id, 700, SIZE)
    assert 0 < read <= 255 + 5 + 20


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, SIZE), (1, SIZE), (255, 257), (700, SIZE), (SIZE, SIZE)])
async def test_a_cover_is_the_frontier_that_grows_one_tree_into_the_other(grown: Grown, first: int, end: int) -> None:
    async with grown.pool.tenant_transaction([grown.tenant_id]) as connection:
        before = await proofs.between(connection, grown.tenant_id, 0, first)
        after = await proofs.between(connection, grown.tenant_id, first, end)
    tree = Frontier()
    for level, node in [*before, *after]:
        tree.append(node, level)
    assert (tree.size, tree.root()) == (end, _root(grown.leaves[:end]))


async def test_rows_that_are_gone_make_no_proof(grown: Grown) -> None:
    async with grown.pool.tenant_transaction([grown.tenant_id]) as connection:
        with pytest.raises(EvidenceError):
            await proofs.subtrees(connection, grown.tenant_id, [Place(8, 5)])
        with pytest.raises(EvidenceError):
            await proofs.subtrees(connection, grown.tenant_id, [Place(0, SIZE)])


async def test_a_checkpoint_leads_the_leaf_into_its_rounds_note(grown: Grown, tmp_path: Path) -> None:
    """Among other tenants' leaves, and linked to the round before it."""
    others = [
        one for one in (make.tenant_id() for _ in range(200)) if partition_of(one) == partition_of(grown.tenant_id)
    ]
    evidence = Evidence.begin(grown.pool, tmp_path)
    for other in others[:3]:
        await evidence.decide(other, range(2))
    await evidence.cover(*others[:3])
    tenant = others[0]
    async with grown.pool.tenant_transaction([tenant]) as connection:
        covered = await proofs.covering(connection, tenant, 2)
        assert covered is not None
        proven = await proofs.checkpoint(connection, covered, leaf_name(tenant_key(SECRET, tenant), tenant))
        note = "SELECT note FROM chain_checkpoints WHERE partition = $1 AND checkpoint_seq = $2"
        before, this = [await connection.fetchval(note, covered.partition, covered.round - at) for at in (1, 0)]
    path = [bytes.fromhex(node) for node in proven.path]
    assert proven.note == this
    assert round_of(text_of(this)).root == root_from(proven.leaf.leaf_hash, proven.index, proven.tree_size, path)
    assert (covered.round, proven.tree_size) == (round_of(text_of(before)).number + 1, 4)


async def test_a_round_that_holds_another_leaf_proves_nothing(grown: Grown) -> None:
    async with grown.pool.tenant_transaction([grown.tenant_id]) as connection:
        covered = await proofs.newest(connection, grown.tenant_id)
        assert covered is not None
        name = leaf_name(tenant_key(SECRET, grown.tenant_id), grown.tenant_id)
        for wrong in (covered._replace(root="0" * 64), covered._replace(size=7), covered._replace(round=2**40)):
            with pytest.raises(EvidenceError):
                await proofs.checkpoint(connection, wrong, name)
        with pytest.raises(EvidenceError):
            await proofs.checkpoint(connection, covered, "0" * 64)


async def test_an_entry_after_the_newest_round_is_covered_by_none(worker: Pool, tenant: str, tmp_path: Path) -> None:
    evidence = Evidence.begin(worker, tmp_path)
    await evidence.decide(tenant, range(3))
    async with worker.tenant_transaction([tenant]) as connection:
        assert await proofs.covering(connection, tenant, 1) is None
    await evidence.cover(tenant)
    await evidence.decide(tenant, [3])
    async with worker.tenant_transaction([tenant]) as connection:
        covered = await proofs.covering(connection, tenant, 3)
        assert covered is not None
        assert covered.size == 3
        assert await proofs.covering(connection, tenant, 4) is None
