"""The worker is killed with -9 at each point of its work, on the real servers, and started again.

Every accepted event is then decided once, chained once without a gap, sealed once and covered by a round that lies
in the store as it was committed; the meters agree with the chain, and a stranger verifies what is exported.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from chaos.stores import unsealed
from chaos.worker import POINTS
from ops.clock import SystemClock, new_span_id, new_uuid7
from ops.embedded import EmbeddedServers
from ops.evidence_files import EvidenceFiles
from schemas.answers import Stored
from schemas.canonical import canonical_plain, sha256_hex
from schemas.envelope import AcceptedEvent
from schemas.metrics import Metric
from schemas.subjects import ingest_stream, lane, message_id
from schemas.units import format_rfc3339
from sinks.checkpoints import StoredRound
from sinks.keyring import load
from sinks.migrate import migrate
from sinks.segments import verify_segment
from sinks.worm import DirectoryWorm
from streams.committer import GroupCommitter, unbarred
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from tests.integration.sinks import make

RECOVERY_S_MAX = 60.0
"""Far above what is needed: on a machine with a core to spare it is 3 to 6 s."""
VERIFIER = Path(__file__).resolve().parents[2] / "scripts" / "verify_data_plane_hashchain.py"
_UNCOVERED = """
SELECT EXISTS (SELECT FROM chain_checkpoints WHERE NOT stored) OR EXISTS (
    SELECT FROM chain_heads AS h LEFT JOIN chain_frontiers AS f USING (tenant_id)
    WHERE h.tenant_id = ANY ($1) AND f.size IS DISTINCT FROM h.seq
)
"""


class _Silent:
    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Nothing is measured here."""


class Place(NamedTuple):
    """A database and the evidence that belongs to it: a worker refuses to run on one without the other."""

    admin_dsn: str
    worker_dsn: str
    operator_dsn: str
    home: Path


@pytest.fixture(scope="module")
async def place(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    name = make.tenant_id()
    roles = ("admin", "worker", "operator")
    dsns = {role: urlsplit(servers.postgres_dsn(role))._replace(path=f"/{name}").geturl() for role in roles}
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    await connection.execute(f'CREATE DATABASE "{name}"')
    await migrate(dsns["admin"], servers.role_passwords())
    yield Place(dsns["admin"], dsns["worker"], dsns["operator"], tmp_path_factory.mktemp("killed"))
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


def _environment(servers: EmbeddedServers, place: Place) -> dict[str, str]:
    home = place.home
    (home / "worm").mkdir(exist_ok=True)
    EvidenceFiles.of(home).ensure()
    return os.environ | {
        "FG_DATA_DIR": str(home),
        "FG_NATS_URL": servers.nats_url("worker"),
        "FG_NATS_SYSTEM_URL": servers.nats_url("system"),
        "FG_POSTGRES_DSN": place.worker_dsn,
        "FG_ADMIN_POSTGRES_DSN": place.operator_dsn,
        "FG_POSTGRES_STATEMENT_CACHE_SIZE": "100",
        "FG_REDIS_URL": servers.redis_url,
        "FG_ADMIN_PORT": "0",
    }


@asynccontextmanager
async def _worker(environment: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            # 1 would be a stop that hung (ops/stop_deadline.py); the signal itself ends one that has hardly begun
            assert await process.wait() in {0, -signal.SIGTERM}


async def _publish(servers: EmbeddedServers, tenants: list[str], events: int) -> dict[str, set[str]]:
    """Publish as the edge does; returns the accepted event ids of each tenant."""
    settings = StreamSettings(
        url=servers.nats_url("edge"), system_url="", replicas=1, shards=1, tenant_messages_max=12_000
    )
    jetstream = await JetStream.connect(settings.url, "edge")
    committer = GroupCommitter(jetstream, settings, ingest_stream(0), _Silent(), unbarred)
    accepted: dict[str, set[str]] = {tenant: set() for tenant in tenants}
    pending = []
    for number in range(events):
        tenant, event_id = tenants[number % len(tenants)], f"evt-{number}"
        data = msgspec.json.encode(_event(tenant, event_id))
        pending.append(committer.submit(lane(tenant).ingest, message_id(tenant, event_id), data, ""))
        accepted[tenant].add(event_id)
    assert all(isinstance(outcome, Stored) for outcome in await asyncio.gather(*pending))
    await jetstream.close()
    return accepted


def _event(tenant: str, event_id: str) -> AcceptedEvent:
    now = format_rfc3339(SystemClock().now_ms())
    trace_id = new_uuid7()
    body = canonical_plain(
        {
            "tenant_id": tenant,
            "event_id": event_id,
            "trace_id": trace_id,
            "agent_id": "agent-1",
            "schema_version": "1.0",
            "created_at": now,
            "source": "test",
            "payload": {"kind": "log.line", "path": "/var/log/x", "offset": 0, "line": "hello"},
        }
    )
    return AcceptedEvent(
        tenant, event_id, trace_id, new_uuid7(), "agent-1", now, new_span_id(), sha256_hex(body), msgspec.Raw(body)
    )


async def _known(dsn: str, tenants: list[str]) -> None:
    """Checkpoints cover the tenants an operator made."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.executemany("INSERT INTO tenants (tenant_id) VALUES ($1)", [(tenant,) for tenant in tenants])
    finally:
        await connection.close()


async def _progress(dsn: str, tenants: list[str]) -> tuple[int, int]:
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            """SELECT (SELECT count(*) FROM decisions WHERE tenant_id = ANY($1)),
                      (SELECT count(*) FROM decision_evidence_artifacts WHERE tenant_id = ANY($1))""",
            tenants,
        )
    finally:
        await connection.close()
    return int(row[0]), int(row[1])


async def _until_done(dsn: str, tenants: list[str], events: int) -> None:
    try:
        async with asyncio.timeout(RECOVERY_S_MAX):
            while await _progress(dsn, tenants) != (events, events):  # noqa: ASYNC110  (another process does the work)
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"decided and sealed after {RECOVERY_S_MAX} s: {await _progress(dsn, tenants)} of {events}")


async def _assert_once(dsn: str, accepted: dict[str, set[str]]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for tenant, event_ids in accepted.items():
            entries = await connection.fetch(
                "SELECT seq, event_id, prev_hash, chain_hash FROM chain_entries WHERE tenant_id = $1 ORDER BY seq",
                tenant,
            )
            assert [row["seq"] for row in entries] == list(range(1, len(event_ids) + 1))
            assert [row["prev_hash"] for row in entries[1:]] == [row["chain_hash"] for row in entries[:-1]]
            assert {row["event_id"] for row in entries} == event_ids
            decided = await connection.fetch("SELECT event_id FROM decisions WHERE tenant_id = $1", tenant)
            assert sorted(row["event_id"] for row in decided) == sorted(event_ids)
            billed = await connection.fetchval(
                "SELECT sum(value) FROM usage_meters WHERE tenant_id = $1 AND meter = 'ingest_events_total'", tenant
            )
            assert billed == len(event_ids)
            assert await connection.fetchval("SELECT count(*) FROM ingest_dlq WHERE tenant_id = $1", tenant) == 0
            assert await connection.fetchval("SELECT count(*) FROM evidence_outbox WHERE tenant_id = $1", tenant) == 0
    finally:
        await connection.close()


async def _until_covered(dsn: str, tenants: list[str]) -> None:
    """Rounds are asked for; on return they cover every chain, and the database knows them to be in the store."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "INSERT INTO checkpoint_requests (partition) SELECT * FROM generate_series(0, 15) ON CONFLICT DO NOTHING"
        )
        async with asyncio.timeout(60):
            while await connection.fetchval(_UNCOVERED, tenants):  # noqa: ASYNC110  (another process does the work)
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def _assert_rounds_lie_in_the_store(place: Place) -> None:
    """Each once, as it was committed, and none that the database does not know."""
    connection = await asyncpg.connect(place.admin_dsn)
    try:
        rows = await connection.fetch("SELECT partition, checkpoint_seq, note, leaves FROM chain_checkpoints")
    finally:
        await connection.close()
    # The other fields are no part of what the store holds.
    rounds = [
        StoredRound(
            row["partition"], row["checkpoint_seq"], row["note"], row["leaves"], growth="", stored=True, note_before=""
        )
        for row in rows
    ]
    worm = place.home / "worm"
    assert {path: path.read_bytes() for path in (worm / "checkpoints").rglob("*.json")} == {
        worm / one.key: one.data for one in rounds
    }
    for partition in {one.partition for one in rounds}:
        numbers = sorted(one.number for one in rounds if one.partition == partition)
        assert numbers == list(range(1, len(numbers) + 1))


async def _assert_sealed_once(place: Place, tenants: list[str], point: str) -> None:
    """Every artifact is indexed in one segment. One that nobody refers to was put by a worker that died before
    its index; it holds what others hold too, and nothing else.
    """
    connection = await asyncpg.connect(place.admin_dsn)
    try:
        rows = await connection.fetch(
            "SELECT tenant_id, event_id, artifact_class, artifact_sha256, segment_id FROM decision_evidence_artifacts"
            " WHERE tenant_id = ANY ($1)",
            tenants,
        )
    finally:
        await connection.close()
    keys = load(EvidenceFiles.of(place.home).keyring).public_keys()
    indexed = {tuple(row)[:4]: row["segment_id"] for row in rows}
    orphaned = set()
    for file in (place.home / "worm" / "segments").rglob("*.dsse"):
        manifest = verify_segment(file.read_bytes(), keys)
        for held in manifest.artifacts:
            identity = (held.tenant_id, held.event_id, held.artifact_class, held.artifact_sha256)
            if held.tenant_id in tenants and indexed[identity] != manifest.segment_id:
                orphaned.add(manifest.segment_id)
    assert not orphaned & set(indexed.values())
    assert orphaned or point != "put"


async def _assert_a_stranger_agrees(environment: dict[str, str], tenant: str, file: Path) -> None:
    """The meters are what the chain says, and an export of a tenant verifies."""
    product = (sys.executable, "-c", "from frostgate import main; main()")
    for command in (
        (*product, "meters", "audit"),
        (*product, "export", "--tenant", tenant, "-o", str(file)),
        (sys.executable, "-S", str(VERIFIER), str(file)),
    ):
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_point_every_event_is_decided_chained_sealed_and_covered_once(
    servers: EmbeddedServers, place: Place, point: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("FG_TEST_SEED", random.randrange(2**32)))
    chance = random.Random(seed)
    tenants = [f"kill-{point}-{number}" for number in range(chance.randint(1, 20))]
    events = chance.randint(50, 400)
    print(f"point={point} seed={seed} tenants={len(tenants)} events={events}")
    environment = _environment(servers, place)
    await _known(place.admin_dsn, tenants)
    accepted = await _publish(servers, tenants, events)
    async with _worker(environment, "-m", "chaos.worker", point) as doomed:
        async with asyncio.timeout(60):
            assert await doomed.wait() == -signal.SIGKILL
    async with _worker(environment, "-c", "from frostgate import main; main()", "worker"):
        await _until_done(place.admin_dsn, tenants, events)
        await _assert_once(place.admin_dsn, accepted)
        await _until_covered(place.admin_dsn, tenants)
        await _assert_a_stranger_agrees(environment, chance.choice(tenants), tmp_path / "evidence.tar")
    await _assert_rounds_lie_in_the_store(place)
    await _assert_sealed_once(place, tenants, point)
    worm = DirectoryWorm(place.home / "worm")
    assert [await unsealed(place.admin_dsn, tenant, worm) for tenant in tenants] == [[]] * len(tenants)
