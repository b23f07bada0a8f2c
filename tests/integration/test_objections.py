"""What speaks against a worker's rounds, and how long: forks, what is in the way, what cannot be asked any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ops.checkpointer import Checkpointer
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.evidence_watch import EvidenceRefusedError
from schemas.answers import NoAnswer
from schemas.checkpoint import Round, note_text
from schemas.codes import Code
from schemas.metrics import CHAIN_FAILURES
from schemas.subjects import PARTITIONS, partition_of
from sinks.checkpoints import round_key
from sinks.notes import sign
from sinks.round_store import RoundStore
from sinks.worm import DirectoryWorm
from tests.integration.sinks import make
from tests.integration.sinks.rounds import grow, know, own_postgres, permitted, pool_of
from tests.integration.watched import Evidence


@pytest.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    async with own_postgres(tmp_path_factory.mktemp("objections") / "data") as embedded:
        yield embedded


@pytest.fixture
async def evidence(database: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Evidence]:
    """Each test begins with no evidence at all."""
    async with pool_of(database, "worker") as pool:
        made = Evidence(database, pool, tmp_path)
        tables = "chain_entries, chain_heads, chain_frontiers, chain_nodes, chain_leaves, chain_checkpoints, tenants"
        await made.changed(f"TRUNCATE {tables}, outbox_tenants, evidence_outbox CASCADE")
        yield made


def _signed_otherwise(evidence: Evidence, partition: int, number: int) -> str:
    """The note of another round of that number."""
    return sign(note_text(Round(partition, number, bytes(32))), evidence.kit.signer)


async def test_another_round_in_the_store_than_in_the_database_is_a_fork(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    note = _signed_otherwise(evidence, partition_of(tenant), 1)
    await evidence.changed("UPDATE chain_checkpoints SET note = $1", note)
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_FORKED"):
        await evidence.watch().admit(asyncio.Event())


async def test_a_round_in_another_wrapping_is_in_the_way_and_no_fork(evidence: Evidence) -> None:
    """Every bundle holds genuine notes: whoever may write to the store can lay one there before its round is put."""
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    await evidence.more(tenant)
    watch = evidence.watch(evidence.history)
    await watch.admit(asyncio.Event())
    await grow(evidence.pool, tenant, 5, 1_000)
    assert await evidence.kit.checkpoints.round(partition, [tenant], evidence.kit.ring) is not None
    (this,) = await evidence.kit.checkpoints.unstored(partition, 0)
    await evidence.kit.worm.put(this.key, msgspec.json.encode({"note": this.note}), retain_days=1)
    await watch.compare()
    await evidence.checkpointer.make_rounds([partition], lambda: watch.permits)
    assert [finding.partition(":")[0] for finding in evidence.checkpointer.findings] == ["EVIDENCE_OBSTRUCTED"]
    assert (watch.findings, watch.permits) == ([], True)


async def test_a_fork_is_found_behind_a_round_that_was_kept_out_of_the_store(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    await evidence.more(tenant)
    key = round_key(partition, 2)
    await evidence.kit.worm.put(key, b"junk", retain_days=1)
    for first_event in (1_000, 2_000):
        await grow(evidence.pool, tenant, 5, first_event)
        await evidence.checkpointer.make_rounds([partition], permitted)
    (evidence.home / "worm" / key).unlink()
    await evidence.watch().admit(asyncio.Event())
    fork = "UPDATE chain_checkpoints SET note = $3, stored = false WHERE partition = $1 AND checkpoint_seq = $2"
    await evidence.changed(fork, partition, 3, _signed_otherwise(evidence, partition, 3))
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_FORKED: the WORM store holds another round 3"):
        await evidence.watch().admit(asyncio.Event())


class _Halting(DirectoryWorm):
    """A store that stops answering about its last partition."""

    halted = False

    async def get_range(self, key: str, offset: int, length: int) -> bytes | None:
        if self.halted and key.startswith(f"checkpoints/p{PARTITIONS - 1:02d}/"):
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return await super().get_range(key, offset, length)


@pytest.mark.parametrize("code", ["EVIDENCE_ROLLED_BACK", "EVIDENCE_LOST"])
async def test_what_was_found_before_the_store_went_away_stands(evidence: Evidence, code: str) -> None:
    while partition_of(tenant := make.tenant_id()) == PARTITIONS - 1:
        pass
    partition = partition_of(tenant)
    await evidence.more(tenant)
    worm = _Halting(evidence.home / "worm")
    watch = evidence.watch(evidence.history._replace(rounds=RoundStore(evidence.kit.checkpoints, worm)))
    await watch.admit(asyncio.Event())
    if code == "EVIDENCE_LOST":
        (evidence.home / "worm" / round_key(partition, 1)).unlink()
    else:
        later = msgspec.json.encode({"note": _signed_otherwise(evidence, partition, 2)})
        await worm.put(round_key(partition, 2), later, retain_days=1)
    worm.halted = True
    for _ in range(2):
        with pytest.raises(NoAnswer):
            await watch.compare()
        assert [finding.partition(":")[0] for finding in watch.findings] == [code]
        assert not watch.permits
    assert evidence.meter.labels(CHAIN_FAILURES) == {(code.lower(),)}


async def _unreadable_round(evidence: Evidence) -> tuple[str, str]:
    """A partition whose last round the database no longer knows: its note, and a chain there that waits for a round."""
    tenant = make.tenant_id()
    while partition_of(waiting := make.tenant_id()) != partition_of(tenant):
        pass
    await evidence.more(tenant)
    last = await evidence.kit.checkpoints.last(partition_of(tenant))
    assert last is not None
    await evidence.changed("UPDATE chain_checkpoints SET note = 'x' WHERE partition = $1", last.partition)
    async with pool_of(evidence.servers, "operator") as operator:
        await know(operator, waiting)
    await grow(evidence.pool, waiting, 5)
    await evidence.checkpointer.make_rounds([last.partition], permitted)
    assert [finding.partition(":")[0] for finding in evidence.checkpointer.findings] == ["EVIDENCE_TAMPERED"]
    return last.note, waiting


async def test_a_round_that_another_worker_made_after_all_is_held_against_nobody(evidence: Evidence) -> None:
    note, waiting = await _unreadable_round(evidence)
    partition = partition_of(waiting)
    await evidence.changed("UPDATE chain_checkpoints SET note = $2 WHERE partition = $1", partition, note)
    other = Checkpointer(evidence.kit.history(), evidence.kit.newest_ring, SystemClock(), evidence.meter, retain_days=1)
    await other.make_rounds([partition], permitted)
    await evidence.checkpointer.make_rounds([partition], permitted)
    assert evidence.checkpointer.findings == []


async def test_an_attempt_that_covers_nothing_takes_nothing_back(evidence: Evidence) -> None:
    _note, waiting = await _unreadable_round(evidence)
    before = evidence.checkpointer.findings
    await evidence.changed("DELETE FROM chain_entries WHERE tenant_id = $1 AND seq = 2", waiting)
    await evidence.checkpointer.make_rounds([partition_of(waiting)], permitted)
    assert set(before) <= set(evidence.checkpointer.findings)


async def test_a_chain_that_a_round_and_a_standing_check_found_changed_is_counted_once(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    watch = evidence.watch(evidence.history)
    await watch.compare()
    await grow(evidence.pool, tenant, 5, 1_000)
    await evidence.changed("DELETE FROM chain_entries WHERE tenant_id = $1 AND seq = 302", tenant)
    await evidence.checkpointer.make_rounds([partition_of(tenant)], permitted)
    assert len(evidence.checkpointer.findings) == 1
    await watch.check_tails()
    assert (len(watch.findings), evidence.checkpointer.findings) == (1, [])
