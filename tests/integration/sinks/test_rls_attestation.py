"""Isolation is attested where everything is in order, told in a signed report, and a condition of readiness."""

import asyncio
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ops import reports, watch
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.evidence_files import EvidenceFiles
from ops.reports import ENVELOPE, LOCK, RENEWED_MS, REPORT, AttestationReport, checked_report
from ops.settings import load
from ops.watch import IsolationWatch
from ops.worker_service import build
from schemas.units import UnixMs
from sinks import attest
from sinks.attest import RULES, Attestation, Finding
from sinks.event_keys import EventKeys
from sinks.faults import DeniedError
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.signing import SignatureError, Signer, create_key
from tests.contract.running import Edge, Wiring, running
from tests.contract.wire import Client
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

HOUR_OLD = UnixMs(1_767_225_600_000)
SOUND = Attestation("18.6", "fg_worker", "frostgate", (), ("decisions", "event_keys"))
BROKEN = SOUND._replace(findings=(Finding("T2", "public.decisions", "row-level security is not forced"),))
UNKNOWN = Attestation("unknown", "unknown", "unknown", (Finding("A1", "database", "cannot be attested"),), ())


class Hands:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at_ms = HOUR_OLD

    def now_ms(self) -> UnixMs:
        return self.at_ms


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    create_key(tmp_path / "key.pem")
    return Signer.load(tmp_path / "key.pem")


def _keys(signer: Signer) -> dict[str, Ed25519PublicKey]:
    return {signer.key_id: signer.public_key}


@pytest.mark.parametrize("role", ["edge", "worker", "operator"])
async def test_a_migrated_database_is_attested_for_every_role(
    servers: EmbeddedServers, worker: Pool, tenant: str, role: str
) -> None:
    await EventKeys(worker).claim([make.claim(tenant, "e1", 1)])  # so that there is a partition
    pool = await Pool.open(settings(servers.postgres_dsn(role)))
    attestation = await attest.attestation(pool)
    await pool.close()
    assert attestation.findings == ()
    assert {"decisions", "event_keys", "chain_entries", "ingest_dlq"} <= set(attestation.probed)


async def test_a_login_that_is_not_bound_is_told_so_table_by_table(servers: EmbeddedServers) -> None:
    pool = await Pool.open(settings(servers.postgres_dsn("admin")))
    attestation = await attest.attestation(pool)
    await pool.close()
    unbound = {finding.object for finding in attestation.findings if finding.rule == "B1"}
    assert unbound == set(attestation.probed)
    assert "R1" in {finding.rule for finding in attestation.findings}


async def test_a_report_names_every_rule_and_every_probed_table_and_is_signed(tmp_path: Path, signer: Signer) -> None:
    directory = tmp_path / "reports" / "data_plane"
    report = AttestationReport(directory, signer, Hands())
    assert await report.publish(SOUND) == []
    text = checked_report(directory, _keys(signer))
    assert "verdict   attested\n" in text
    assert "time      2026-01-01T00:00:00.000Z\n" in text
    assert all(f"  {rule}  ok" in text for rule in RULES)
    assert "  decisions\n  event_keys\n" in text
    assert {path.name for path in directory.iterdir()} == {REPORT, ENVELOPE, LOCK}
    assert stat.S_IMODE((directory / REPORT).stat().st_mode) == 0o644


async def test_a_report_says_which_rule_is_broken_and_where(tmp_path: Path, signer: Signer) -> None:
    report = AttestationReport(tmp_path, signer, Hands())
    await report.publish(BROKEN)
    text = checked_report(tmp_path, _keys(signer))
    assert "verdict   NOT ATTESTED\n" in text
    assert "  T2  1 broken" in text
    assert "        public.decisions: row-level security is not forced\n" in text


async def test_a_report_of_a_database_that_cannot_be_asked_calls_no_rule_sound(tmp_path: Path, signer: Signer) -> None:
    await AttestationReport(tmp_path, signer, Hands()).publish(UNKNOWN)
    text = checked_report(tmp_path, _keys(signer))
    assert "verdict   NOT ATTESTED\n" in text
    assert "  A1 database: cannot be attested\n" in text
    assert "ok" not in text


async def test_a_report_is_written_anew_with_another_verdict_and_every_hour(tmp_path: Path, signer: Signer) -> None:
    clock = Hands()
    report = AttestationReport(tmp_path, signer, clock)

    async def written(attestation: Attestation, after_ms: int) -> bool:
        clock.at_ms = UnixMs(clock.at_ms + after_ms)
        before = (tmp_path / REPORT).read_bytes() if (tmp_path / REPORT).exists() else b""
        assert await report.publish(attestation) == []
        return (tmp_path / REPORT).read_bytes() != before

    assert await written(SOUND, 1)
    assert not await written(SOUND, RENEWED_MS - 1)
    assert await written(SOUND, 1)
    assert await written(BROKEN, 1)
    assert not await written(BROKEN, 1)
    assert await written(SOUND, 1)


@pytest.mark.parametrize("file", [REPORT, ENVELOPE])
async def test_a_changed_report_proves_nothing(tmp_path: Path, signer: Signer, file: str) -> None:
    await AttestationReport(tmp_path, signer, Hands()).publish(BROKEN)
    path = tmp_path / file
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(SignatureError):
        checked_report(tmp_path, _keys(signer))


async def test_a_report_of_another_signer_proves_nothing(tmp_path: Path, signer: Signer) -> None:
    await AttestationReport(tmp_path, signer, Hands()).publish(SOUND)
    create_key(tmp_path / "other.pem")
    with pytest.raises(SignatureError):
        checked_report(tmp_path, _keys(Signer.load(tmp_path / "other.pem")))


async def test_two_workers_with_one_directory_leave_the_report_that_its_envelope_signs(
    tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One publishes between the two files of the other."""
    first, second = (AttestationReport(tmp_path, signer, Hands()) for _ in range(2))
    loop, replace = asyncio.get_running_loop(), reports._replace
    told: list[str] = []

    def interrupted(path: Path, data: bytes) -> None:
        """Runs in the thread that writes."""
        replace(path, data)
        if not told:
            told.append("second")
            told.extend(asyncio.run_coroutine_threadsafe(second.publish(BROKEN), loop).result())

    monkeypatch.setattr(reports, "TURN_WAIT_S", 0.0)
    monkeypatch.setattr(reports, "_replace", interrupted)
    assert await first.publish(SOUND) == []
    assert "verdict   attested\n" in checked_report(tmp_path, _keys(signer))
    assert told == [
        "second",
        f"{tmp_path / REPORT} cannot be written (another worker is writing it): see FG_REPORTS_DIR",
    ]
    assert await second.publish(BROKEN) == []
    assert "verdict   NOT ATTESTED\n" in checked_report(tmp_path, _keys(signer))


async def test_a_report_waits_for_another_process_to_have_written(
    tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, is_free, waits = asyncio.get_running_loop(), reports._is_free, asyncio.Event()

    def told(descriptor: int) -> bool:
        """Runs in the thread that waits."""
        free = is_free(descriptor)
        if not free:
            loop.call_soon_threadsafe(waits.set)
        return free

    monkeypatch.setattr(reports, "_is_free", told)
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", code, str(tmp_path / LOCK)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    await holder.stdout.readline()
    publishing = asyncio.create_task(AttestationReport(tmp_path, signer, Hands()).publish(SOUND))
    await waits.wait()
    assert not (tmp_path / REPORT).exists()
    await holder.communicate(b"\n")
    assert await publishing == []
    assert "verdict   attested\n" in checked_report(tmp_path, _keys(signer))


async def test_reports_that_cannot_be_written_are_a_finding_until_they_can(
    tmp_path: Path, signer: Signer, worker: Pool
) -> None:
    directory = tmp_path / "reports"
    directory.write_text("in the way")
    standing = IsolationWatch(worker, AttestationReport(directory, signer, SystemClock()).publish)
    await standing.check()
    (finding,) = standing.findings
    assert finding.startswith(f"{directory / REPORT} cannot be written (")
    directory.unlink()
    await standing.check()
    assert standing.findings == []
    assert "attested" in checked_report(directory, _keys(signer))


async def test_a_worker_keeps_the_report_and_counts_what_it_is_denied(servers: EmbeddedServers, tmp_path: Path) -> None:
    files = EvidenceFiles.of(tmp_path)
    files.ensure()
    (tmp_path / "worm").mkdir()
    environment = {
        "FG_DATA_DIR": str(tmp_path),
        "FG_REPORTS_DIR": str(tmp_path / "reports"),
        "FG_NATS_URL": servers.nats_url("worker"),
        "FG_NATS_SYSTEM_URL": servers.nats_url("system"),
        "FG_POSTGRES_DSN": servers.postgres_dsn("worker"),
        "FG_REDIS_URL": servers.redis_url,
    }
    worker, meter, jetstream, pool = await build(load(environment))
    await worker.isolation.check()
    with pytest.raises(DeniedError):
        async with pool.tenant_transaction([]):
            pass
    await jetstream.close()
    await pool.close()
    report = checked_report(tmp_path / "reports", _keys(Signer.load(files.signing_key)))
    assert "verdict   attested" in report
    assert "login     fg_worker" in report
    assert b'frostgate_rls_denied_queries_total{service="worker"} 1.0' in meter.exposition()[0]


async def test_a_denied_statement_is_counted_and_a_probe_is_not(servers: EmbeddedServers, tenant: str) -> None:
    denied: list[None] = []
    pool = await Pool.open(settings(servers.postgres_dsn("edge")), lambda: denied.append(None))
    await attest.attestation(pool)
    assert denied == []
    for statement in ("DELETE FROM decisions", "SELECT FROM outbox_tenants", "SELECT app.set_tenants('{b}')"):
        with pytest.raises(DeniedError):
            async with pool.tenant_transaction([tenant]) as connection:
                await connection.execute(statement)
    await pool.close()
    assert len(denied) == 3


@pytest.fixture
async def own_database(servers: EmbeddedServers) -> AsyncIterator[str]:
    """The name of a migrated database nobody else uses."""
    name = make.tenant_id()
    admin = await asyncpg.connect(servers.postgres_dsn("admin"))
    await admin.execute(f'CREATE DATABASE "{name}"')
    await migrate(_in_database(servers.postgres_dsn("admin"), name), {})
    yield name
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


def _in_database(dsn: str, name: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


@pytest.fixture
async def edge_apart(
    servers: EmbeddedServers, own_database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Edge]:
    """A running edge on that database, whose standing check comes soon."""
    monkeypatch.setattr(watch, "INTERVAL_S", 0.05)
    wiring = Wiring(
        nats_url=servers.nats_url("edge"),
        postgres_dsn=_in_database(servers.postgres_dsn("edge"), own_database),
        redis_url=servers.redis_url,
    )
    streams = load({"FG_NATS_SYSTEM_URL": servers.nats_url("system"), "FG_NATS_REPLICAS": "1"}).streams
    async with running(wiring, streams) as edge:
        yield edge


async def test_a_running_edge_is_ready_only_while_isolation_holds(
    edge_apart: Edge, servers: EmbeddedServers, own_database: str
) -> None:
    async def reasons() -> Any:
        answer = await Client(edge_apart.port, "").ask("GET", "/readyz")
        return [reason for reason in answer.document["reasons"] if "row-level" in reason]

    async def until(said: list[str]) -> None:
        while await reasons() != said:
            continue

    admin = await asyncpg.connect(_in_database(servers.postgres_dsn("admin"), own_database))
    await until([])
    await admin.execute("ALTER TABLE decisions NO FORCE ROW LEVEL SECURITY")
    await until(["T2 public.decisions: row-level security is not forced"])
    assert (await Client(edge_apart.port, "").ask("GET", "/readyz")).status == 503
    await admin.execute("ALTER TABLE decisions FORCE ROW LEVEL SECURITY")
    await until([])
    await admin.close()


def test_the_standing_check_comes_round_within_a_minute() -> None:
    assert max(watch.INTERVAL_S, watch.RETRY_S) < 60
