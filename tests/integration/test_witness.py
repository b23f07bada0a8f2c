"""`frostgate witness` as its own process, and the worker's side of it: every round countersigned once, gaps filled."""

import asyncio
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from ops.checkpointer import WITNESS_AWAY_MS_MAX, Checkpointer
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.embedded.process import free_port
from ops.evidence_watch import EvidenceRefusedError, EvidenceWatch, GuardedLedger
from ops.history import History
from ops.witness.client import WitnessClient
from ops.witness.judge import Objection, WitnessCode
from ops.witness.service import BODY_BYTES_MAX
from schemas.answers import NoAnswer
from schemas.checkpoint import Round, note_text
from schemas.metrics import CHAIN_FAILURES
from schemas.subjects import PARTITIONS, partition_of
from schemas.units import UnixMs
from sinks.checkpoints import StoredRound, round_key
from sinks.ledger import DecisionLedger
from sinks.notes import sign, text_of, verify_cosignature
from sinks.pg import Pool
from sinks.signing import load_public_key
from tests.integration.sinks import make
from tests.integration.sinks.rounds import Counted, Kit, grow, kit, know, own_postgres, permitted, pool_of

PROGRAM = (sys.executable, "-c", "from ops.cli import main; main()", "witness")


class _Clock:
    """The system's clock, ahead by what a test says."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> UnixMs:
        return UnixMs(SystemClock().now_ms() + self.ahead_ms)


@asynccontextmanager
async def _witness(home: Path, ring: Path, port: int) -> AsyncIterator[None]:
    """The running process; on entering it answers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FG_")}
    arguments = ("--dir", str(home), "--log-keyring", str(ring), "--port", str(port))
    process = await asyncio.create_subprocess_exec(*PROGRAM, *arguments, env=environment, stderr=subprocess.PIPE)
    try:
        async with asyncio.timeout(60):
            while await asyncio.to_thread(_ask, port, "GET", "/livez") is None:  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        _output, errors = await process.communicate()
    assert process.returncode in {0, -15}, errors.decode()


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return None
    finally:
        connection.close()


class Log:
    """A log with a witness: the worker's parts in this process, the witness in another."""

    def __init__(self, servers: EmbeddedServers, pool: Pool, home: Path) -> None:
        self.servers = servers
        self.pool = pool
        self.kit: Kit = kit(pool, home, witnessed=True)
        self.port = free_port()
        self.witness_home = home / "witness"
        self.clock = _Clock()
        self.meter = Counted()

    @asynccontextmanager
    async def witness(self) -> AsyncIterator[None]:
        async with _witness(self.witness_home, self.kit.ring_file, self.port):
            yield

    def client(self) -> WitnessClient:
        key = load_public_key(self.witness_home / "witness-key.pub")
        return WitnessClient(f"http://127.0.0.1:{self.port}", key, self.kit.signer)

    def checkpointer(self, history: History | None = None) -> Checkpointer:
        history = history or self.kit.history(self.client())
        return Checkpointer(history, self.kit.newest_ring, self.clock, self.meter, retain_days=1)

    def watch(self, history: History | None = None) -> EvidenceWatch:
        """As a starting worker has it, or beside the checkpointer of the same history."""
        parts = (history or self.kit.history(self.client()), self.kit.verification)
        return EvidenceWatch(self.pool, parts, (self.kit.signer, self.kit.ring_file), self.clock, self.meter)

    async def more(self, tenant: str, count: int, first_event: int) -> None:
        async with pool_of(self.servers, "operator") as operator:
            await know(operator, tenant)
        await grow(self.pool, tenant, count, first_event)

    async def rounds(self, tenant: str) -> list[asyncpg.Record]:
        """The rounds of the tenant's partition."""
        query = "SELECT note, cosignature, growth FROM chain_checkpoints WHERE partition = $1 ORDER BY checkpoint_seq"
        async with self.pool.connection() as connection:
            return list(await connection.fetch(query, partition_of(tenant)))

    async def changed(self, statement: str, *values: object) -> None:
        """A superuser's change with the triggers off."""
        connection = await asyncpg.connect(self.servers.postgres_dsn("admin"))
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL session_replication_role = replica")
                await connection.execute(statement, *values)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    async with own_postgres(tmp_path_factory.mktemp("witness") / "data") as embedded:
        yield embedded


@pytest.fixture
async def log(database: EmbeddedServers, tmp_path: Path) -> AsyncIterator[Log]:
    async with pool_of(database, "worker") as pool:
        made = Log(database, pool, tmp_path)
        tables = "chain_entries, chain_heads, chain_frontiers, chain_nodes, chain_leaves, chain_checkpoints, tenants"
        await made.changed(f"TRUNCATE {tables}, outbox_tenants, evidence_outbox CASCADE")
        yield made


async def test_rounds_made_while_the_witness_is_away_are_countersigned_once_it_is_back(log: Log) -> None:
    tenant = make.tenant_id()
    async with log.witness():
        checkpointer = log.checkpointer()
        await log.more(tenant, 300, 0)
        await checkpointer.make_rounds(range(PARTITIONS), permitted)
    await log.more(tenant, 5, 1_000)
    await checkpointer.make_rounds(range(PARTITIONS), permitted)
    await log.more(tenant, 5, 2_000)
    await checkpointer.make_rounds(range(PARTITIONS), permitted)
    assert [bool(this["cosignature"]) for this in await log.rounds(tenant)] == [True, False, False]
    assert [one.number for one in await log.kit.checkpoints.unwitnessed(partition_of(tenant), 1)] == [2]
    log.clock.ahead_ms = WITNESS_AWAY_MS_MAX
    assert [each.partition(":")[0] for each in checkpointer.degraded] == ["WITNESS_AWAY"]
    assert checkpointer.findings == []
    async with log.witness():
        await checkpointer.make_rounds([partition_of(tenant)], permitted)
        key = load_public_key(log.witness_home / "witness-key.pub")
        for this in await log.rounds(tenant):
            verify_cosignature(text_of(this["note"]), this["cosignature"], key)
            assert this["growth"] == ""
        assert checkpointer.degraded == []
        log.clock.ahead_ms += WITNESS_AWAY_MS_MAX
        assert checkpointer.degraded == [], "no round waits: nothing is late"
        with pytest.raises(NoAnswer):
            await log.client().latest(PARTITIONS, log.kit.ring)  # a problem with a code, and no objection to anything
        seen = await log.client().latest(partition_of(tenant), log.kit.ring)
        assert seen is not None
        assert (seen.number, seen.text) == (3, text_of((await log.rounds(tenant))[-1]["note"]))
        await log.watch().admit(asyncio.Event())


async def test_a_database_and_a_store_restored_together_are_found_by_the_witness(log: Log) -> None:
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    async with log.witness():
        for first_event in (0, 1_000):
            await log.more(tenant, 5, first_event)
            await log.checkpointer().make_rounds([partition], permitted)
        await log.changed("DELETE FROM chain_checkpoints WHERE partition = $1 AND checkpoint_seq = 2", partition)
        log.kit.ring_file.with_name("worm").joinpath(f"checkpoints/p{partition:02d}/000000000002.json").unlink()
        with pytest.raises(EvidenceRefusedError, match="EVIDENCE_ROLLED_BACK: the witness saw round 2"):
            await log.watch().admit(asyncio.Event())


async def test_another_history_than_the_witness_saw_is_not_countersigned_and_stops_every_decision(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    async with log.witness():
        history = log.kit.history(log.client())
        checkpointer, watch = log.checkpointer(history), log.watch(history)
        ledger = GuardedLedger(DecisionLedger(log.pool), watch)
        await watch.admit(asyncio.Event())
        await log.more(tenant, 5, 0)
        await checkpointer.make_rounds([partition], permitted)
        await ledger.record([make.record(tenant, "evt-before")])
        await log.changed("DELETE FROM chain_entries")
        await log.changed("TRUNCATE chain_heads, chain_frontiers, evidence_outbox")
        await log.more(tenant, 9, 5_000)
        assert watch.permits
        await checkpointer.make_rounds([partition], lambda: watch.permits)
        assert [finding.partition(":")[0] for finding in watch.findings] == ["EVIDENCE_ROLLED_BACK"]
        await watch.compare()
        counted = [labels for name, _value, labels in log.meter.told if name == CHAIN_FAILURES.name]
        assert counted == [("evidence_rolled_back",)], "one objection is one, whoever hears it and how often"
        assert [bool(this["cosignature"]) for this in await log.rounds(tenant)] == [True, False]
        with pytest.raises(NoAnswer):
            await ledger.record([make.record(tenant, "evt-after")])
        await log.more(tenant, 9, 6_000)
        with pytest.raises(NoAnswer):
            await checkpointer.make_rounds([partition], lambda: watch.permits)
        assert len(await log.rounds(tenant)) == 2
        with pytest.raises(EvidenceRefusedError, match="EVIDENCE_ROLLED_BACK"):
            await log.watch().admit(asyncio.Event())
    await watch.compare()
    assert not watch.permits, "a witness that is away takes nothing back"
    shutil.rmtree(log.witness_home)
    async with log.witness():
        await log.watch(history._replace(witness=log.client())).compare()
    assert history.objections == {}, "a new memory begins with the round it is sent"
    assert "no longer objected: EVIDENCE_ROLLED_BACK" in caplog.text


async def test_what_a_comparison_found_at_the_witness_stands_while_the_witness_is_away(log: Log) -> None:
    """Database and store are put back together under a running worker, and then the way to the witness is cut."""
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    async with log.witness():
        history = log.kit.history(log.client())
        watch = log.watch(history)
        await watch.admit(asyncio.Event())
        for first_event in (0, 1_000):
            await log.more(tenant, 5, first_event)
            await log.checkpointer(history).make_rounds([partition], lambda: watch.permits)
        await log.changed("DELETE FROM chain_checkpoints WHERE partition = $1 AND checkpoint_seq = 2", partition)
        log.kit.ring_file.with_name("worm").joinpath(f"checkpoints/p{partition:02d}/000000000002.json").unlink()
        await watch.compare()
        assert not watch.permits
    await watch.compare()
    assert not watch.permits
    assert [finding.partition(":")[0] for finding in watch.findings] == ["EVIDENCE_ROLLED_BACK"]
    with pytest.raises(EvidenceRefusedError, match="EVIDENCE_ROLLED_BACK: the witness saw round 2"):
        await watch.admit(asyncio.Event())


async def test_a_witness_is_given_no_round_of_a_history_that_was_objected_to(log: Log) -> None:
    """It would countersign the fork, and take it for the one history from then on."""
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    async with log.witness():
        history = log.kit.history(log.client())
        watch, checkpointer = log.watch(history), log.checkpointer(history)
        await log.more(tenant, 5, 0)
        await checkpointer.make_rounds([partition], permitted)
        await log.more(tenant, 5, 1_000)
        await log.kit.checkpoints.round(partition, [tenant], log.kit.ring)
        other = sign(note_text(Round(partition, 2, bytes(32))), log.kit.signer)
        forked = json.dumps({"leaves": [], "note": other, "partition": partition, "round": 2}).encode()
        await log.kit.worm.put(round_key(partition, 2), forked, retain_days=1)
        await watch.compare()
        assert [finding.partition(":")[0] for finding in watch.findings] == ["EVIDENCE_FORKED"]
        log.kit.ring_file.with_name("worm").joinpath(round_key(partition, 2)).unlink()
        await checkpointer.make_rounds([partition], permitted)
        assert [bool(this["cosignature"]) for this in await log.rounds(tenant)] == [True, False]
        seen = await log.client().latest(partition, log.kit.ring)
        assert seen is not None
        assert seen.number == 1


class _Lacking(WitnessClient):
    """A witness that says it lacks a round."""

    async def countersign(self, this: StoredRound) -> str:
        raise Objection(WitnessCode.GAP, f"round {this.number - 1} is missing")


async def test_what_the_witness_lacked_is_forgotten_once_no_round_waits_for_it(log: Log) -> None:
    """Another worker, or another ring, may have brought it."""
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    async with log.witness():
        key = load_public_key(log.witness_home / "witness-key.pub")
        lacking = _Lacking(f"http://127.0.0.1:{log.port}", key, log.kit.signer)
        checkpointer, other = log.checkpointer(log.kit.history(lacking)), log.checkpointer()
        await log.more(tenant, 5, 0)
        await checkpointer.make_rounds([partition], permitted)
        assert [finding.partition(":")[0] for finding in checkpointer.findings] == ["WITNESS_GAP"]
        await other.make_rounds([partition], permitted)
        await checkpointer.make_rounds([partition], permitted)
        assert checkpointer.findings == []


async def test_a_round_of_the_same_number_that_the_witness_saw_otherwise_refuses_the_start(log: Log) -> None:
    """Database and store were restored together while it was away, and have gone on since: no number tells."""
    tenant = make.tenant_id()
    partition = partition_of(tenant)
    while partition_of(other := make.tenant_id()) != partition:
        pass
    rounds = log.kit.ring_file.with_name("worm") / f"checkpoints/p{partition:02d}"
    async with log.witness():
        for first_event in (0, 1_000):
            await log.more(tenant, 5, first_event)
            await log.checkpointer().make_rounds([partition], permitted)
    await log.changed("DELETE FROM chain_checkpoints WHERE partition = $1 AND checkpoint_seq = 2", partition)
    rounds.joinpath("000000000002.json").unlink()
    for first_event in (2_000, 3_000):
        await log.more(other, 7, first_event)
        await log.checkpointer().make_rounds([partition], permitted)
    await log.watch().admit(asyncio.Event())
    async with log.witness():
        with pytest.raises(EvidenceRefusedError, match="EVIDENCE_FORKED: the witness saw another round 2"):
            await log.watch().admit(asyncio.Event())


async def test_what_the_wire_brings_is_answered_with_a_code_and_never_ends_the_witness(log: Log) -> None:
    async with log.witness():
        signed = await _signed_by_a_stranger(log)
        for body, status, code in (
            (b"", 400, "WITNESS_MALFORMED"),
            (b"[" * 100_000, 400, "WITNESS_MALFORMED"),
            (b'{"note":"\xff","link":"","leaves":[],"growth":{}}', 400, "WITNESS_MALFORMED"),
            (b'{"note":"x","leaves":[],"growth":{}}', 400, "WITNESS_MALFORMED"),
            (b'{"note":"x","link":"","leaves":[],"growth":{}}', 403, "WITNESS_UNKNOWN_KEY"),
            (signed, 403, "WITNESS_UNKNOWN_KEY"),
            (b" " * (BODY_BYTES_MAX + 1), 413, "WITNESS_MALFORMED"),
        ):
            answer = await asyncio.to_thread(_ask, log.port, "POST", "/v1/rounds", body)
            assert answer is not None
            assert (answer[0], json.loads(answer[1])["error_code"]) == (status, code)
        for path, status in (("/v1/latest/0", 200), ("/v1/latest/16", 404), ("/v1/latest/x", 404), ("/", 404)):
            answer = await asyncio.to_thread(_ask, log.port, "GET", path)
            assert answer is not None
            assert answer[0] == status


async def _signed_by_a_stranger(log: Log) -> bytes:
    tenant = make.tenant_id()
    home = log.witness_home.with_name("stranger")
    home.mkdir()
    stranger = kit(log.pool, home, witnessed=True)
    await log.more(tenant, 3, 0)
    await stranger.checkpoints.round(partition_of(tenant), [tenant], stranger.ring)
    (this,) = await stranger.checkpoints.unwitnessed(partition_of(tenant))
    link = this.link.hex()
    return f'{{"note":{json.dumps(this.note)},"link":"{link}","leaves":{this.leaves},"growth":{this.growth}}}'.encode()


async def test_one_memory_serves_one_witness(log: Log) -> None:
    async with log.witness():
        second = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *("--dir", str(log.witness_home), "--log-keyring", str(log.kit.ring_file), "--port", "0"),
            stderr=subprocess.PIPE,
        )
        _output, errors = await second.communicate()
        assert second.returncode == 1
        assert b"Traceback" not in errors
