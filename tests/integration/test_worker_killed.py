"""The worker is killed with -9 at each point of its work, on the real servers, and started again.

Every accepted event is then decided once, chained once without a gap, and sealed once.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

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
from sinks.migrate import migrate
from streams.committer import GroupCommitter, unbarred
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from tests.integration.sinks import make

RECOVERY_S_MAX = 15.0


class _Silent:
    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Nothing is measured here."""


class Place(NamedTuple):
    """A database and the evidence that belongs to it: a worker refuses to run on one without the other."""

    admin_dsn: str
    worker_dsn: str
    home: Path


@pytest.fixture(scope="module")
async def place(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    name = make.tenant_id()
    dsns = {
        role: urlsplit(servers.postgres_dsn(role))._replace(path=f"/{name}").geturl() for role in ("admin", "worker")
    }
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    await connection.execute(f'CREATE DATABASE "{name}"')
    await migrate(dsns["admin"], servers.role_passwords())
    yield Place(dsns["admin"], dsns["worker"], tmp_path_factory.mktemp("killed"))
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
            await process.wait()


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


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_point_every_event_is_decided_chained_and_sealed_once(
    servers: EmbeddedServers, place: Place, point: str
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
