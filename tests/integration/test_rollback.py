"""A worker does not run on a database that is older than the evidence somebody else holds, nor on a changed one."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.evidence_files import CheckpointSecretError, EvidenceFiles
from ops.evidence_watch import EvidenceRefusedError, EvidenceWatch, GuardedLedger
from ops.history import History
from schemas.answers import NoAnswer
from schemas.checkpoint import Round, note_text
from schemas.metrics import CHAIN_FAILURES, CHECKPOINT_AGE_S
from schemas.subjects import PARTITIONS, partition_of
from sinks.checkpoints import Checkpoints, round_key
from sinks.ledger import DecisionLedger
from sinks.notes import sign
from sinks.round_store import RoundStore
from tests.integration.sinks import make
from tests.integration.sinks.rounds import grow, kit, know, own_postgres, permitted, pool_of
from tests.integration.watched import Evidence, rotated

WORKER = (sys.executable, "-c", "from ops.cli import main; main()", "worker", "--stages", "dlq")


@pytest.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    async with own_postgres(tmp_path_factory.mktemp("rollback") / "data") as embedded:
        yield embedded


@pytest.fixture
async def evidence(database: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Evidence]:
    """Each test begins with no evidence at all."""
    async with pool_of(database, "worker") as pool:
        made = Evidence(database, pool, tmp_path)
        tables = "chain_entries, chain_heads, chain_frontiers, chain_nodes, chain_leaves, chain_checkpoints, tenants"
        await made.changed(f"TRUNCATE {tables}, outbox_tenants, evidence_outbox CASCADE")
        yield made


async def _until(holds: Callable[[], bool]) -> None:
    """Look every 10 ms; raises TimeoutError when it never holds."""
    async with asyncio.timeout(30):
        await asyncio.sleep(0.01)
        while not holds():  # noqa: ASYNC110  (what is awaited is in a database)
            await asyncio.sleep(0.01)


async def _started(servers: EmbeddedServers, evidence: Evidence) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FG_")} | {
        "FG_DATA_DIR": str(evidence.home),
        "FG_NATS_URL": servers.nats_url("worker"),
        "FG_NATS_SYSTEM_URL": servers.nats_url("system"),
        "FG_POSTGRES_DSN": evidence.servers.postgres_dsn("worker"),
        "FG_REDIS_URL": servers.redis_url,
        "FG_ADMIN_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *WORKER, env=environment, cwd=evidence.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, (output + errors).decode()


async def test_a_worker_on_yesterdays_base_backup_is_refused_with_a_named_code(
    servers: EmbeddedServers, evidence: Evidence
) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    await evidence.watch().admit(asyncio.Event())

    async def today() -> None:
        await evidence.more(tenant, first_event=1_000)
        await evidence.watch().admit(asyncio.Event())

    await evidence.restored(today)
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_ROLLED_BACK"):
        await evidence.watch().admit(asyncio.Event())
    status, told = await _started(servers, evidence)
    assert status == 1
    assert "EVIDENCE_ROLLED_BACK" in told
    assert "Traceback" not in told


async def test_a_key_ring_that_does_not_know_the_signing_key_refuses_the_start(
    servers: EmbeddedServers, evidence: Evidence
) -> None:
    stranger = evidence.home / "stranger"
    stranger.mkdir()
    kit(evidence.pool, stranger)
    evidence.kit.ring_file.write_bytes((stranger / "keyring.json").read_bytes())
    status, told = await _started(servers, evidence)
    assert (status, "SIGNING_KEY_UNKNOWN" in told, "Traceback" in told) == (1, True, False)


async def test_a_key_signs_no_round_once_its_time_is_over_by_the_ring_as_it_is_now(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    watch = evidence.watch()
    await watch.compare()
    assert watch.permits
    rotated(evidence, overlap_ms=0)
    assert not watch.permits
    assert [finding.partition(":")[0] for finding in watch.findings] == ["SIGNING_KEY_EXPIRED"]
    await grow(evidence.pool, tenant, 3, 5_000)
    with pytest.raises(NoAnswer):
        await evidence.checkpointer.make_rounds(range(PARTITIONS), lambda: watch.permits)
    assert await evidence.kit.checkpoints.grown([tenant]) != []


async def test_a_round_of_the_new_key_is_not_blamed_by_a_worker_that_read_the_ring_before(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    watch = evidence.watch()
    await watch.compare()
    before = evidence.kit.ring_file.read_bytes()
    new = rotated(evidence, overlap_ms=3_600_000)
    after = evidence.kit.ring_file.read_bytes()
    secret = (evidence.home / "checkpoint-secret").read_bytes()
    await grow(evidence.pool, tenant, 3, 5_000)
    elsewhere = Checkpoints(evidence.pool, new, secret, witnessed=False)
    assert await elsewhere.round(partition_of(tenant), [tenant], evidence.kit.newest_ring()) is not None
    await watch.check_tails()
    assert watch.findings == []
    evidence.kit.ring_file.write_bytes(before)
    await watch.check_tails()
    assert watch.findings == ["EVIDENCE_TAMPERED: 1 chains are not what they were (see the log)"]
    evidence.kit.ring_file.write_bytes(after)
    await watch.check_tails()
    assert watch.findings == []


async def test_another_checkpoint_secret_refuses_the_start_until_the_old_one_is_back(evidence: Evidence) -> None:
    await evidence.more(make.tenant_id())
    secret = evidence.home / "checkpoint-secret"
    kept = secret.read_bytes()
    secret.unlink()
    with pytest.raises(CheckpointSecretError, match="put its copy back"):
        EvidenceFiles.of(evidence.home).ensure()
    assert not secret.exists()
    for data, refused in ((bytes(32), True), (kept, False)):
        secret.write_bytes(data)
        checkpoints = Checkpoints(evidence.pool, evidence.kit.signer, data, witnessed=False)
        history = History(checkpoints, RoundStore(checkpoints, evidence.kit.worm), None, {}, {})
        parts = (history, evidence.kit.verification)
        signing = (evidence.kit.signer, evidence.kit.ring_file)
        watch = EvidenceWatch(evidence.pool, parts, signing, SystemClock(), evidence.meter)
        await watch.compare()
        assert [finding.partition(":")[0] for finding in watch.findings] == ["CHECKPOINT_SECRET_CHANGED"] * refused


async def test_an_empty_store_in_the_place_of_the_one_with_the_rounds_refuses_the_start(evidence: Evidence) -> None:
    await evidence.more(make.tenant_id())
    worm = evidence.home / "worm"
    worm.rename(evidence.home / "elsewhere")
    worm.mkdir()
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_LOST"):
        await evidence.watch().admit(asyncio.Event())
    worm.rmdir()
    (evidence.home / "elsewhere").rename(worm)
    await evidence.watch().admit(asyncio.Event())


async def test_a_head_that_falls_behind_its_checkpoint_stops_every_decision(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    watch = evidence.watch()
    ledger = GuardedLedger(DecisionLedger(evidence.pool), watch)
    await watch.compare()
    await ledger.record([make.record(tenant, "evt-before")])
    await evidence.changed("UPDATE chain_heads SET seq = 200 WHERE tenant_id = $1", tenant)
    await watch.compare()
    assert [finding.partition(":")[0] for finding in watch.findings] == ["EVIDENCE_ROLLED_BACK"]
    assert ("evidence_rolled_back",) in evidence.meter.labels(CHAIN_FAILURES)
    with pytest.raises(NoAnswer):
        await ledger.record([make.record(tenant, "evt-after")])


async def test_a_standby_that_was_behind_is_found_however_far_it_has_gone_on(evidence: Evidence) -> None:
    """Postgres fails over under running workers. Their rounds outgrow those in the store, where none of them fits."""
    tenant = make.tenant_id()
    await evidence.more(tenant)
    watch = evidence.watch(evidence.history)
    await watch.admit(asyncio.Event())

    async def lost() -> None:
        await evidence.more(tenant, first_event=1_000)

    await evidence.restored(lost)
    await grow(evidence.pool, tenant, 5, 2_000)
    await evidence.checkpointer.make_rounds(range(PARTITIONS), lambda: watch.permits)
    assert [finding.partition(":")[0] for finding in watch.findings] == ["EVIDENCE_FORKED"]
    assert not watch.permits, "the first round that the store does not take stops the worker"
    for first_event in (3_000, 4_000):
        await grow(evidence.pool, tenant, 5, first_event)
        await evidence.checkpointer.make_rounds(range(PARTITIONS), permitted)
    last = await evidence.kit.checkpoints.last(partition_of(tenant))
    assert last is not None
    assert (last.number, await evidence.kit.worm.get(last.key)) == (4, None)
    await watch.compare()
    assert not watch.permits
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_FORKED: the WORM store holds another round 2"):
        await evidence.watch().admit(asyncio.Event())


async def _laid_by_a_stranger(evidence: Evidence, partition: int) -> list[Path]:
    """Under the keys of rounds 2 and 3: a note by a key of nobody's, and nonsense."""
    home = evidence.home / "stranger"
    home.mkdir()
    note = sign(note_text(Round(partition, 2, bytes(32))), kit(evidence.pool, home).signer)
    forged = msgspec.json.encode({"leaves": [], "note": note, "partition": partition, "round": 2})
    for number, data in ((2, forged), (3, b"[" * 100_000)):
        await evidence.kit.worm.put(round_key(partition, number), data, retain_days=1)
    return [evidence.home / "worm" / round_key(partition, number) for number in (2, 3)]


async def test_what_a_stranger_lays_under_the_keys_of_rounds_to_come_stops_nobody_and_hides_nothing(
    evidence: Evidence,
) -> None:
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    await evidence.more(tenant)
    await _laid_by_a_stranger(evidence, partition)
    watch = evidence.watch(evidence.history)
    await watch.admit(asyncio.Event())
    for first_event in (1_000, 2_000, 3_000):
        await grow(evidence.pool, tenant, 5, first_event)
        await evidence.checkpointer.make_rounds([partition], lambda: watch.permits)
    assert [finding.partition(":")[0] for finding in evidence.checkpointer.findings] == ["EVIDENCE_OBSTRUCTED"]
    assert [one.number for one in await evidence.kit.checkpoints.unstored(partition, 0)] == [2, 3]
    await evidence.watch().admit(asyncio.Event())
    forget = "DELETE FROM chain_checkpoints WHERE partition = $1 AND checkpoint_seq > $2"
    await evidence.changed(forget, partition, 3)
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_ROLLED_BACK: the WORM store holds round 4"):
        await evidence.watch().admit(asyncio.Event())
    await evidence.changed(forget, partition, 1)
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_ROLLED_BACK: the WORM store holds round 4"):
        await evidence.watch().admit(asyncio.Event())


async def test_rounds_that_were_kept_out_of_the_store_are_put_once_their_keys_are_free(evidence: Evidence) -> None:
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    await evidence.more(tenant)
    strange = await _laid_by_a_stranger(evidence, partition)
    for first_event in (1_000, 2_000):
        await grow(evidence.pool, tenant, 5, first_event)
        await evidence.checkpointer.make_rounds([partition], permitted)
    assert evidence.checkpointer.findings != []
    for file in strange:
        file.unlink()
    await evidence.checkpointer.make_rounds([partition], permitted)
    assert evidence.checkpointer.findings == []
    assert await evidence.kit.checkpoints.unstored(partition, 0) == []


async def test_a_store_in_which_nothing_can_be_told_refuses_the_start(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.round_store.OBSTRUCTED_MAX", 2)
    tenant = make.tenant_id()
    await evidence.more(tenant)
    await _laid_by_a_stranger(evidence, partition_of(tenant))
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_OBSTRUCTED"):
        await evidence.watch().admit(asyncio.Event())


async def test_a_running_worker_writes_each_rotation_of_its_ring_into_every_chain(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.evidence_watch.INTERVAL_S", 0.02)
    tenants = {make.tenant_id(), make.tenant_id()}
    await evidence.more(*tenants)
    watch, stopping = evidence.watch(), asyncio.Event()
    await watch.admit(stopping)

    async def noted() -> set[str]:
        query = "SELECT tenant_id FROM chain_entries WHERE kind = 'key_rotation' AND event_id = 'key-rotation:2'"
        async with evidence.pool.tenant_transaction(sorted(tenants)) as connection:
            return {row["tenant_id"] for row in await connection.fetch(query)}

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch.run(stopping))
        assert await noted() == set()
        rotated(evidence, overlap_ms=3_600_000)
        while await noted() != tenants:  # noqa: ASYNC110  (what is awaited is in a database)
            await asyncio.sleep(0.02)
        stopping.set()


async def test_nothing_is_written_about_a_rotation_into_chains_of_a_history_that_was_objected_to(
    evidence: Evidence,
) -> None:
    tenant = make.tenant_id()
    await evidence.more(tenant)
    watch = evidence.watch(evidence.history)
    await watch.admit(asyncio.Event())
    rotated(evidence, overlap_ms=3_600_000)
    evidence.history.objections[0] = "EVIDENCE_FORKED: the WORM store holds another round 1 of partition 0"
    await watch.note_rotations()
    assert [one.seq for one in await evidence.kit.checkpoints.grown([tenant])] == []
    del evidence.history.objections[0]
    await watch.note_rotations()
    assert [one.seq for one in await evidence.kit.checkpoints.grown([tenant])] == [301]


async def test_a_change_by_a_superuser_is_found_within_a_minutes_pass_or_the_full_one(evidence: Evidence) -> None:
    early, late, whole = (make.tenant_id() for _ in range(3))
    await evidence.more(early, late, whole)
    await evidence.more(early, late, whole, first_event=1_000)
    await evidence.more(early, first_event=2_000)
    await evidence.more(early, first_event=3_000)
    await evidence.more(early, first_event=4_000)
    watch = evidence.watch()
    await watch.compare()
    await watch.check_tails()
    assert watch.findings == []
    for tenant, seq in ((early, 2), (late, 599)):
        await evidence.changed("DELETE FROM chain_entries WHERE tenant_id = $1 AND seq = $2", tenant, seq)
    await watch.check_tails()
    assert watch.findings == ["EVIDENCE_TAMPERED: 1 chains are not what they were (see the log)"]
    await watch.check_all(asyncio.Event(), pause_s=0)
    assert watch.findings == ["EVIDENCE_TAMPERED: 2 chains are not what they were (see the log)"]
    assert evidence.meter.labels(CHAIN_FAILURES) == {("entry_missing",)}
    assert watch.permits, "a chain that was changed stops nobody else's decisions"


async def test_a_chain_that_was_found_changed_gets_no_further_checkpoint(evidence: Evidence) -> None:
    """What a round reads again is the end of a chain; the standing checks have read the rest."""
    changed, whole = make.tenant_id(), make.tenant_id()
    await evidence.more(changed, whole)
    watch = evidence.watch(evidence.history)
    await watch.compare()
    await evidence.changed("DELETE FROM chain_entries WHERE tenant_id = $1 AND seq = 2", changed)
    await watch.check_tails()
    for tenant in (changed, whole):
        await grow(evidence.pool, tenant, 5, 1_000)
    await evidence.checkpointer.make_rounds(range(PARTITIONS), lambda: watch.permits)
    assert [one.tenant_id for one in await evidence.kit.checkpoints.grown([changed, whole])] == [changed]


async def test_rounds_come_by_themselves_and_a_request_brings_one_at_once(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.checkpointer.REQUESTS_S", 0.02)
    tenant = make.tenant_id()
    watch, stopping = evidence.watch(), asyncio.Event()
    await watch.compare()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(evidence.checkpointer.run(stopping, watch))
        async with pool_of(evidence.servers, "operator") as operator:
            await know(operator, tenant)
            # The first rounds of this worker come before there is anything to cover.
            await _until(lambda: (str(PARTITIONS - 1),) in evidence.meter.labels(CHECKPOINT_AGE_S))
            await grow(evidence.pool, tenant, 3)
            async with operator.connection() as connection:
                for partition in range(PARTITIONS):
                    await connection.execute("INSERT INTO checkpoint_requests (partition) VALUES ($1)", partition)
            while await evidence.kit.checkpoints.requests():
                await _until(lambda: True)
        assert await evidence.kit.checkpoints.grown([tenant]) == []
        stopping.set()
