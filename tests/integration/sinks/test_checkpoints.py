"""Rounds on the real Postgres: each links to the last, covers what grew, and no change behind them goes unseen."""

import asyncio
import io
import tarfile
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from ops.clock import SystemClock
from schemas.answers import Refusal
from schemas.checkpoint import GrowingTree, Leaf, first_link, leaf_name, link_to, round_of, round_root, tenant_key
from schemas.merkle import Frontier
from schemas.subjects import partition_of
from schemas.units import parse_rfc3339
from sinks import keyring
from sinks.bundle_source import Range
from sinks.bundles import BundleError, Wanted
from sinks.chain_reader import ChainFault, tree_at
from sinks.checkpoints import LOCK_CLASS, StoredRound
from sinks.notes import sign, text_of, verify
from sinks.pg import Pool
from sinks.signing import SignatureError
from sinks.worm import DirectoryWorm
from tests.integration.sinks import make
from tests.integration.sinks.rounds import Kit, grow, kit, know
from tests.integration.sinks.sealed import Evidence, hour, signer

_LEAVES = msgspec.json.Decoder(tuple[Leaf, ...])


@pytest.fixture
def made(worker: Pool, tmp_path: Path) -> Kit:
    return kit(worker, tmp_path)


async def _chain(worker: Pool, operator: Pool, count: int) -> str:
    tenant = make.tenant_id()
    await know(operator, tenant)
    await grow(worker, tenant, count)
    return tenant


async def _cover(made: Kit, tenant: str) -> StoredRound:
    result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
    assert result is not None
    assert result.faults == ()
    last = await made.checkpoints.last(partition_of(tenant))
    assert last is not None
    return last


async def _root(superuser: Any, tenant: str, size: int) -> str:
    return (await _frontier(superuser, tenant, size)).root().hex()


async def _frontier(superuser: Any, tenant: str, size: int) -> Frontier:
    rows = await superuser.fetch(
        "SELECT chain_hash FROM chain_entries WHERE tenant_id = $1 AND seq <= $2 ORDER BY seq", tenant, size
    )
    whole = Frontier()
    for row in rows:
        whole.append(bytes.fromhex(row["chain_hash"]))
    return whole


async def _walk(made: Kit, tenant: str, *, whole: bool = True) -> int:
    return [seq async for seq in made.verification.check(tenant, made.ring, whole=whole)][-1]


async def test_a_round_covers_what_grew_with_the_rfc_6962_root_and_links_to_the_round_before(
    made: Kit, worker: Pool, operator: Pool, superuser: Any, tmp_path: Path
) -> None:
    tenant = await _chain(worker, operator, 300)
    partition = partition_of(tenant)
    before = await made.checkpoints.last(partition)
    this = await _cover(made, tenant)
    assert this.number == (before.number if before else 0) + 1
    (leaf,) = _LEAVES.decode(this.leaves)
    assert leaf == Leaf(
        leaf_name(tenant_key((tmp_path / "checkpoint-secret").read_bytes(), tenant), tenant),
        await _root(superuser, tenant, 300),
        300,
    )
    text = verify(this.note, made.ring.public_keys())
    link = link_to(text_of(before.note)) if before else first_link(partition)
    assert round_of(text) == (partition, this.number, round_root(link, [leaf]))
    assert tenant not in this.data.decode()
    await grow(worker, tenant, 700, 300)
    (leaf,) = _LEAVES.decode((await _cover(made, tenant)).leaves)
    assert (leaf.size, leaf.root) == (1_000, await _root(superuser, tenant, 1_000))
    assert await _walk(made, tenant) == 1_000


async def test_without_growth_there_is_no_round(made: Kit, worker: Pool, operator: Pool) -> None:
    tenant = await _chain(worker, operator, 3)
    first = await _cover(made, tenant)
    assert await made.checkpoints.grown([tenant]) == []
    assert (await _cover(made, tenant)).number == first.number


async def test_a_chain_far_longer_than_a_round_takes_is_covered_over_several(
    made: Kit, worker: Pool, operator: Pool, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.checkpoints.ENTRIES_MAX", 1_000)
    monkeypatch.setattr("sinks.checkpoints.LEAF_EVERY", 1_500)
    tenant = await _chain(worker, operator, 2_600)
    for left in ((tenant,), (tenant,), ()):
        result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
        assert result is not None
        assert (result.covered, result.left) == ((tenant,), left)
    kept = await superuser.fetch("SELECT size, root FROM chain_leaves WHERE tenant_id = $1", tenant)
    assert [tuple(row) for row in kept] == [(2_000, await _root(superuser, tenant, 2_000))]
    async with worker.tenant_transaction([tenant]) as connection:
        tree = await tree_at(connection, tenant, 2_560)
    assert tree.root().hex() == await _root(superuser, tenant, 2_560)


async def test_one_worker_at_a_time_makes_a_partitions_round(
    made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, 3)
    async with superuser.transaction():
        await superuser.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, partition_of(tenant))
        assert await made.checkpoints.round(partition_of(tenant), [tenant], made.ring) is None
    assert await made.checkpoints.grown([tenant]) != []
    both = await asyncio.gather(*(made.checkpoints.round(partition_of(tenant), [tenant], made.ring) for _ in range(4)))
    assert [result.covered for result in both if result and result.covered] == [(tenant,)]


async def test_a_round_that_was_committed_and_not_put_is_put_again_as_the_same_bytes(
    made: Kit, worker: Pool, operator: Pool
) -> None:
    this = await _cover(made, await _chain(worker, operator, 3))
    assert this in await _all_unstored(made, this.partition)
    for _ in range(2):
        await made.worm.put(this.key, this.data, retain_days=1)
    await made.checkpoints.stored(this)
    assert this not in await _all_unstored(made, this.partition)
    with pytest.raises(Refusal):
        await made.worm.put(this.key, this.data + b" ", retain_days=1)
    assert msgspec.json.decode(this.data)["note"] == this.note


async def _all_unstored(made: Kit, partition: int) -> list[StoredRound]:
    """Rounds of other tests may wait too: each of them is marked, until none is left."""
    found: list[StoredRound] = []
    while rounds := [one for one in await made.checkpoints.unstored(partition, 0) if one not in found]:
        found += rounds
        for one in rounds[:-1]:
            await made.checkpoints.stored(one)
    return found


async def test_a_request_is_seen_and_taken_away_once_served(made: Kit, worker: Pool, operator: Pool) -> None:
    for pool, partition in ((worker, 15), (operator, 15)):
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO checkpoint_requests (partition) VALUES ($1) ON CONFLICT DO NOTHING", partition
            )
    requests = await made.checkpoints.requests()
    assert 15 in requests
    await made.checkpoints.served(15, requests[15])
    assert 15 not in await made.checkpoints.requests()


async def test_no_edge_asks_for_a_round_and_nobody_for_one_of_no_partition(edge: Pool, superuser: Any) -> None:
    for partition in (-5, 16):
        with pytest.raises(asyncpg.CheckViolationError):
            await superuser.execute("INSERT INTO checkpoint_requests (partition) VALUES ($1)", partition)
    async with edge.connection() as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("INSERT INTO checkpoint_requests (partition) VALUES (3)")


async def test_a_round_by_a_key_whose_time_was_over_is_in_no_bundle_and_the_next_one_heals_the_tenant(
    worker: Pool, operator: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.checkpoints.LEAF_EVERY", 5)
    monkeypatch.setattr("sinks.bundles.LEAF_EVERY", 5)
    tenant = make.tenant_id()
    await know(operator, tenant)
    root, old, new = signer(), signer(), signer()
    now_ms = SystemClock().now_ms()
    before = keyring.first(root, old.public_key, now_ms)
    after = keyring.rotated(before, root, old, new, (now_ms, parse_rfc3339("2026-01-15T00:00:00.000Z")))
    await Evidence(worker, DirectoryWorm(tmp_path), old, before).keep(tenant, range(5))
    healthy = Evidence(worker, DirectoryWorm(tmp_path), new, after)
    with pytest.raises(BundleError, match="not signed by a key that the ring allowed"):
        await _bundle(healthy, tenant, 5)
    await healthy.keep(tenant, range(5, 8))
    (line,) = (await _bundle(healthy, tenant, 8))["checkpoints.jsonl"].splitlines()
    note = msgspec.json.decode(line)["note"]
    keyring.verify_note(after, note, parse_rfc3339(hour(7)), SystemClock().now_ms())
    with pytest.raises(SignatureError, match="outside"):
        keyring.verify_note(after, sign(text_of(note), old), parse_rfc3339(hour(7)), SystemClock().now_ms())


async def _bundle(evidence: Evidence, tenant: str, last: int) -> dict[str, bytes]:
    file = io.BytesIO()

    async def sink(data: bytes) -> None:
        file.write(data)

    await evidence.bundler.write(Wanted("bundle-1", Range(tenant, 1, last), include_trace=False), sink, lambda *_: None)
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        return {one.name: member.read() for one in archive if (member := archive.extractfile(one)) is not None}


_TAMPERING = {
    "entry_altered": """
        UPDATE chain_entries AS e SET entry = n.entry,
            chain_hash = encode(sha256('\\x00'::bytea || convert_to(n.entry, 'UTF8')), 'hex')
        FROM (SELECT replace(entry, '"body_bytes":9', '"body_bytes":8') AS entry
            FROM chain_entries WHERE tenant_id = '{t}' AND seq = 500) AS n
        WHERE e.tenant_id = '{t}' AND e.seq = 500
    """,
    "entry_missing": "DELETE FROM chain_entries WHERE tenant_id = '{t}' AND seq = 500",
    "last_entry_missing": "DELETE FROM chain_entries WHERE tenant_id = '{t}' AND seq = 600",
    "head": "UPDATE chain_heads SET chain_hash = repeat('0', 64) WHERE tenant_id = '{t}'",
    "truncated": """
        DELETE FROM chain_entries WHERE tenant_id = '{t}' AND seq > 550;
        UPDATE chain_heads AS h SET seq = e.seq, chain_hash = e.chain_hash FROM chain_entries AS e
        WHERE h.tenant_id = '{t}' AND e.tenant_id = '{t}' AND e.seq = 550
    """,
    "frontier": "UPDATE chain_frontiers SET root = repeat('0', 64) WHERE tenant_id = '{t}'",
    "leaves": """
        UPDATE chain_checkpoints SET leaves = replace(leaves, '"size":600', '"size":601') WHERE partition = {p}
        AND checkpoint_seq = (SELECT round FROM chain_frontiers WHERE tenant_id = '{t}')
    """,
}


@pytest.mark.parametrize("change", _TAMPERING)
@pytest.mark.parametrize("whole", [True, False])
async def test_what_a_superuser_changes_with_the_triggers_off_is_found(
    change: str, whole: bool, made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, 600)
    await _cover(made, tenant)
    assert await _walk(made, tenant, whole=whole) == 600
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute(_TAMPERING[change].replace("{t}", tenant).replace("{p}", str(partition_of(tenant))))
    with pytest.raises(ChainFault) as found:
        await _walk(made, tenant, whole=whole)
    assert found.value.tenant_id == tenant


async def test_an_entry_changed_with_its_hash_before_any_round_breaks_the_link_of_the_next_one(
    made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, 600)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute(_TAMPERING["entry_altered"].replace("{t}", tenant))
    with pytest.raises(ChainFault, match="link_broken at seq 501"):
        await _walk(made, tenant)
    result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
    assert result is not None
    assert [fault.reason for fault in result.faults] == ["link_broken"]


async def test_a_chain_rewritten_whole_with_every_hash_right_is_found_by_its_round(
    made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, 20)
    await _cover(made, tenant)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute("DELETE FROM chain_entries WHERE tenant_id = $1", tenant)
        await superuser.execute("DELETE FROM chain_heads WHERE tenant_id = $1", tenant)
        await superuser.execute("DELETE FROM evidence_outbox WHERE tenant_id = $1", tenant)
    await grow(worker, tenant, 20, 100)
    with pytest.raises(ChainFault, match="root_differs"):
        await _walk(made, tenant)
    forged = await _frontier(superuser, tenant, 20)
    old = await superuser.fetchval("SELECT root FROM chain_frontiers WHERE tenant_id = $1", tenant)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        update = "UPDATE chain_frontiers SET root = $2, hashes = $3 WHERE tenant_id = $1"
        await superuser.execute(update, tenant, forged.root().hex(), forged.hashes)
        leaves = "UPDATE chain_checkpoints SET leaves = replace(leaves, $1, $2) WHERE leaves LIKE '%' || $1 || '%'"
        await superuser.execute(leaves, old, forged.root().hex())
    with pytest.raises(ChainFault, match="checkpoint_altered"):
        await _walk(made, tenant)


_FALSE_FRONTIER = {
    "hashes": """
        UPDATE chain_frontiers SET hashes = set_byte(hashes, 39, 255 - get_byte(hashes, 39)) WHERE tenant_id = '{t}'
    """,
    "hashes of no frontier": "UPDATE chain_frontiers SET hashes = ''::bytea WHERE tenant_id = '{t}'",
    "root": "UPDATE chain_frontiers SET root = repeat('0', 64) WHERE tenant_id = '{t}'",
    "size": "UPDATE chain_frontiers SET size = 598 WHERE tenant_id = '{t}'",
    "a kept node": "UPDATE chain_nodes SET hash = sha256('x') WHERE tenant_id = '{t}' AND position = 0",
}


@pytest.mark.parametrize("change", _FALSE_FRONTIER)
async def test_no_round_is_signed_over_a_frontier_that_is_not_that_of_the_entries(
    change: str, made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, 600)
    before = await _cover(made, tenant)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute(_FALSE_FRONTIER[change].replace("{t}", tenant))
    await grow(worker, tenant, 3, 1_000)
    result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
    assert result is not None
    assert [(fault.tenant_id, fault.reason) for fault in result.faults] == [(tenant, "frontier_altered")]
    assert result.covered == ()
    assert await made.checkpoints.last(partition_of(tenant)) == before


@pytest.mark.parametrize("count", [3, 256, 600])
async def test_no_round_is_signed_behind_a_past_that_was_rewritten_with_every_hash_right(
    count: int, made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, count)
    await _cover(made, tenant)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute("DELETE FROM chain_entries WHERE tenant_id = $1", tenant)
        await superuser.execute("DELETE FROM chain_heads WHERE tenant_id = $1", tenant)
        await superuser.execute("DELETE FROM evidence_outbox WHERE tenant_id = $1", tenant)
    await grow(worker, tenant, count + 5, 5_000)
    result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
    assert result is not None
    assert [(fault.reason, fault.seq) for fault in result.faults] == [("frontier_altered", count)]


@pytest.mark.parametrize("count", [3, 256, 600])
async def test_no_round_is_signed_over_a_past_that_was_rewritten_together_with_its_nodes_and_frontier(
    count: int, made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, count)
    before = await _cover(made, tenant)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        for table in ("chain_entries", "chain_heads", "chain_nodes", "evidence_outbox"):
            await superuser.execute("DELETE FROM TABLE WHERE tenant_id = $1".replace("TABLE", table), tenant)
    await grow(worker, tenant, count + 5, 5_000)
    await _forged(superuser, tenant, count)
    result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
    assert result is not None
    assert [(fault.reason, fault.seq) for fault in result.faults] == [("checkpoint_altered", count)]
    assert await made.checkpoints.last(partition_of(tenant)) == before


async def _forged(superuser: Any, tenant: str, size: int) -> None:
    """Nodes and frontier are those of the entries there are now."""
    rows = await superuser.fetch(
        "SELECT chain_hash FROM chain_entries WHERE tenant_id = $1 AND seq <= $2 ORDER BY seq", tenant, size
    )
    tree = GrowingTree()
    nodes = [node for row in rows for node in tree.append(bytes.fromhex(row["chain_hash"]))]
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        insert = "INSERT INTO chain_nodes (tenant_id, level, position, hash) VALUES ($1, $2, $3, $4)"
        await superuser.executemany(insert, [(tenant, *node.place, node.hash) for node in nodes])
        update = "UPDATE chain_frontiers SET root = $2, hashes = $3 WHERE tenant_id = $1"
        await superuser.execute(update, tenant, tree.root().hex(), tree.hashes)


@pytest.mark.parametrize("column", ["kind", "event_id"])
async def test_a_kind_or_event_that_is_not_the_entrys_is_found(
    column: str, made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    tenant = await _chain(worker, operator, 20)
    await _cover(made, tenant)
    await grow(worker, tenant, 1, 50)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        change = "UPDATE chain_entries SET kind = 'replay' WHERE tenant_id = $1 AND seq = 20"
        await superuser.execute(change.replace("kind", column), tenant)
    for whole in (True, False):
        with pytest.raises(ChainFault, match="entry_altered at seq 20"):
            await _walk(made, tenant, whole=whole)
    result = await made.checkpoints.round(partition_of(tenant), [tenant], made.ring)
    assert result is not None
    assert [(fault.reason, fault.seq) for fault in result.faults] == [("entry_altered", 20)]


async def test_a_damaged_chain_gets_no_checkpoint_and_keeps_nobody_from_theirs(
    made: Kit, worker: Pool, operator: Pool, superuser: Any
) -> None:
    damaged = await _chain(worker, operator, 3)
    while partition_of(sound := make.tenant_id()) != partition_of(damaged):
        pass
    await know(operator, sound)
    await grow(worker, sound, 3)
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute("DELETE FROM chain_entries WHERE tenant_id = $1 AND seq = 2", damaged)
    result = await made.checkpoints.round(partition_of(sound), [damaged, sound], made.ring)
    assert result is not None
    assert result.covered == (sound,)
    assert [(fault.tenant_id, fault.reason, fault.seq) for fault in result.faults] == [(damaged, "entry_missing", 2)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM chain_checkpoints",
        "UPDATE chain_checkpoints SET note = ''",
        "UPDATE chain_leaves SET root = repeat('0', 64)",
        "DELETE FROM chain_nodes",
        "DELETE FROM chain_frontiers",
        "TRUNCATE chain_checkpoints",
    ],
)
async def test_no_role_and_no_careless_superuser_takes_a_round_back(statement: str, superuser: Any) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await superuser.execute(statement)
