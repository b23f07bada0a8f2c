"""The meters agree with the chain exactly, whatever happened on the way, and a meter that was moved is found."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from chaos.stores import state_of
from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer, Refusal
from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.ledger import DecisionLedger
from sinks.meters_audit import UNCHAINED, Difference, MetersAudit
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.tenants import Tenants
from tests.integration.cli.commands import Shell
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings
from tests.integration.sinks.kept import chained_artifacts

DAY = make.INGEST_TS[:10]


class Stores(NamedTuple):
    """The database as the worker, as the operator, and as nothing hides from."""

    worker: Pool
    operator: Pool
    superuser: Any


@pytest.fixture
def stores(worker: Pool, operator: Pool, superuser: Any) -> Stores:
    return Stores(worker, operator, superuser)


_WAITS = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'fg_worker' AND query ~ $1"


async def _billed(superuser: Any, tenant: str) -> dict[str, int]:
    return dict(
        await superuser.fetch("SELECT meter, sum(value)::int FROM usage_meters WHERE tenant_id = $1 GROUP BY 1", tenant)
    )


async def _waiting(superuser: Any, query: str) -> int:
    """The backend of a worker that waits for a lock in such a statement."""
    while True:
        await superuser.execute("SELECT pg_stat_clear_snapshot()")
        pid = await superuser.fetchval(_WAITS, query)
        if pid is not None:
            return int(pid)
        await asyncio.sleep(0.02)


async def test_duplicates_and_replays_are_billed_once(stores: Stores, tenant: str) -> None:
    ledger, index = DecisionLedger(stores.worker), ArtifactIndex(stores.worker)
    records = [make.record(tenant, f"e{n}") for n in range(7)]
    for batch in (records[:3], records[:3], [records[2], records[3], records[3]], records, records):
        await ledger.record(batch)
    await asyncio.gather(*(ledger.record(records) for _ in range(4)))
    await DeadLetters(stores.worker, make.SHA_A).bury([make.letter(tenant, "e1"), make.letter(tenant, "dead")])
    artifacts = await chained_artifacts(stores.superuser, tenant)
    assert {row.artifact_class for row in artifacts} == {"decision", "dead_letter"}
    for _ in range(3):
        await index.index(artifacts)
    assert await MetersAudit(stores.operator).differences(tenant) == []
    assert await MetersAudit(stores.operator, page_rows=2).differences(tenant) == []
    assert await _billed(stores.superuser, tenant) == {
        "ingest_events_total": 7,
        "ingest_bytes_total": 2_100,
        "artifacts_bytes_stored_total": sum(row.artifact_bytes for row in artifacts),
    }


@pytest.mark.parametrize("table", ["usage_meters", "decisions"])
async def test_a_writer_killed_in_the_middle_bills_nothing_and_its_redelivery_once(
    stores: Stores, tenant: str, table: str
) -> None:
    ledger = DecisionLedger(stores.worker)
    await ledger.record([make.record(tenant, "e1")])
    async with stores.superuser.transaction():
        await stores.superuser.execute(f"LOCK TABLE {table} IN SHARE MODE")
        recording = asyncio.create_task(ledger.record([make.record(tenant, "e2"), make.record(tenant, "e3")]))
        pid = await _waiting(stores.superuser, f"INSERT INTO {table}")
        await stores.superuser.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(NoAnswer):
            await recording
    assert (await _billed(stores.superuser, tenant))["ingest_events_total"] == 1
    assert await MetersAudit(stores.operator).differences(tenant) == []
    await ledger.record([make.record(tenant, "e2"), make.record(tenant, "e3")])
    assert (await _billed(stores.superuser, tenant))["ingest_events_total"] == 3
    assert await MetersAudit(stores.operator).differences(tenant) == []


async def test_an_indexer_killed_in_the_middle_bills_nothing_and_its_redelivery_once(
    stores: Stores, tenant: str
) -> None:
    index = ArtifactIndex(stores.worker)
    await DecisionLedger(stores.worker).record([make.record(tenant, "e1")])
    [artifact] = await chained_artifacts(stores.superuser, tenant)
    recorded = await _billed(stores.superuser, tenant)
    async with stores.superuser.transaction():
        await stores.superuser.execute("LOCK TABLE usage_meters IN SHARE MODE")
        indexing = asyncio.create_task(index.index([artifact]))
        await stores.superuser.execute(
            "SELECT pg_terminate_backend($1)", await _waiting(stores.superuser, "INSERT INTO usage_meters")
        )
        with pytest.raises(NoAnswer):
            await indexing
    assert await _billed(stores.superuser, tenant) == recorded
    assert await MetersAudit(stores.operator).differences(tenant) == []
    for _ in range(2):
        await index.index([artifact])
    stored = {"artifacts_bytes_stored_total": artifact.artifact_bytes}
    assert await _billed(stores.superuser, tenant) == recorded | stored
    assert await MetersAudit(stores.operator).differences(tenant) == []


async def test_a_refused_batch_bills_nothing(stores: Stores, tenant: str) -> None:
    with pytest.raises(Refusal):
        await DecisionLedger(stores.worker).record(
            [make.record(tenant, "e1"), make.record(tenant, "e2", source="\x00")]
        )
    assert await _billed(stores.superuser, tenant) == {}
    assert await MetersAudit(stores.operator).differences(tenant) == []


@pytest.mark.parametrize(
    ("tampering", "difference"),
    [
        (
            "UPDATE usage_meters SET value = value + 1 WHERE tenant_id = $1 AND meter = 'ingest_events_total'",
            ("ingest_events_total", DAY, 2, 1),
        ),
        (
            "UPDATE usage_meters SET value = value - 1 WHERE tenant_id = $1 AND meter = 'ingest_bytes_total'",
            ("ingest_bytes_total", DAY, 299, 300),
        ),
        (
            "DELETE FROM usage_meters WHERE tenant_id = $1 AND meter = 'ingest_events_total'",
            ("ingest_events_total", DAY, 0, 1),
        ),
        (
            "INSERT INTO usage_meters VALUES ($1, 'ingest_events_total', '2026-02-01', 5)",
            ("ingest_events_total", "2026-02-01", 5, 0),
        ),
        (
            "INSERT INTO usage_meters VALUES ($1, 'artifacts_bytes_stored_total', '2026-02-01', 5)",
            ("artifacts_bytes_stored_total", "2026-02-01", 5, 0),
        ),
        (
            "INSERT INTO usage_meters VALUES ($1, 'invented_total', '2026-02-01', 5)",
            ("invented_total", "2026-02-01", 5, 0),
        ),
    ],
)
async def test_a_meter_that_was_moved_is_found(
    stores: Stores, tenant: str, tampering: str, difference: tuple[str, str, int, int]
) -> None:
    await DecisionLedger(stores.worker).record([make.record(tenant, "e1")])
    await stores.superuser.execute(tampering, tenant)
    found = await MetersAudit(stores.operator).differences(tenant)
    assert found == [Difference(tenant, *difference)]


async def test_bytes_that_the_chain_does_not_bind_are_found_though_index_and_meter_agree(
    stores: Stores, tenant: str
) -> None:
    await DecisionLedger(stores.worker).record([make.record(tenant, "e1"), make.record(tenant, "e2")])
    true, other = await chained_artifacts(stores.superuser, tenant)
    inflated = other._replace(artifact_bytes=other.artifact_bytes + 1_000)
    invented = true._replace(event_id="e3")  # no entry is of it, though it names one of another event
    await ArtifactIndex(stores.worker).index([true, inflated, invented])
    day = await stores.superuser.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')")
    bound = true.artifact_bytes + other.artifact_bytes
    found = await MetersAudit(stores.operator, page_rows=1).differences(tenant)
    assert found == [
        Difference(tenant, "artifacts_bytes_stored_total", day, bound + 1_000 + true.artifact_bytes, bound),
        Difference(tenant, UNCHAINED, day, 1, 0),
    ]


async def test_an_artifact_without_an_entry_is_found_whatever_was_billed(stores: Stores, tenant: str) -> None:
    await DecisionLedger(stores.worker).record([make.record(tenant, "e1")])
    [artifact] = await chained_artifacts(stores.superuser, tenant)
    await ArtifactIndex(stores.worker).index([artifact])
    invented = (
        "INSERT INTO decision_evidence_artifacts SELECT (jsonb_populate_record(a, jsonb_build_object('chain_seq', 9,"
        " 'event_id', 'e9'))).* FROM decision_evidence_artifacts AS a WHERE tenant_id = $1"
        " RETURNING to_char(stored_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    )
    day = await stores.superuser.fetchval(invented, tenant)
    assert await MetersAudit(stores.operator).differences(tenant) == [Difference(tenant, UNCHAINED, day, 1, 0)]


async def test_the_stores_count_the_artifacts_bytes_by_the_chain(
    servers: EmbeddedServers, stores: Stores, tenant: str
) -> None:
    """The checker of the fault injections holds the meter against these."""
    await DecisionLedger(stores.worker).record([make.record(tenant, "e1"), make.record(tenant, "e2")])
    true, other = await chained_artifacts(stores.superuser, tenant)
    await ArtifactIndex(stores.worker).index([true, other._replace(artifact_bytes=9), true._replace(event_id="e3")])
    state = await state_of(servers.postgres_dsn("admin"), tenant)
    assert state.artifact_bytes == true.artifact_bytes + other.artifact_bytes
    assert state.meters["artifacts_bytes_stored_total"] == 2 * true.artifact_bytes + 9


@pytest.fixture
async def own(servers: EmbeddedServers, superuser: Any) -> AsyncIterator[dict[str, str]]:
    """DSNs of a database nobody else uses."""
    name = make.tenant_id()
    await superuser.execute(f'CREATE DATABASE "{name}"')
    roles = ("admin", "operator", "worker")
    dsn = {role: urlsplit(servers.postgres_dsn(role))._replace(path=f"/{name}").geturl() for role in roles}
    await migrate(dsn["admin"], servers.role_passwords())
    yield dsn
    await superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_the_command_prints_each_difference_and_says_so_in_its_exit_status(
    own: dict[str, str], tmp_path: Path
) -> None:
    worker, operator = await Pool.open(settings(own["worker"])), await Pool.open(settings(own["operator"]))
    for tenant in ("acme", "beta"):
        await Tenants(operator).add(tenant)
        await DecisionLedger(worker).record([make.record(tenant, "e1")])
    await asyncio.gather(worker.close(), operator.close())
    shell = Shell(tmp_path, FG_ADMIN_POSTGRES_DSN=own["operator"])
    good = await asyncio.to_thread(shell.run, "meters", "audit")
    assert (good.status, good.stdout) == (0, "the meters of 2 tenants and their evidence agree exactly\n")
    eyes = await asyncpg.connect(own["admin"])
    await eyes.execute("UPDATE usage_meters SET value = 9 WHERE tenant_id = 'beta' AND meter = 'ingest_events_total'")
    await eyes.close()
    told = await asyncio.to_thread(shell.run, "meters", "audit")
    assert (told.status, f"ingest_events_total          {DAY}  billed 9  chain 1" in told.stdout) == (1, True)
    as_json = await asyncio.to_thread(shell.run, "meters", "audit", "--tenant", "beta", "--json")
    assert (as_json.status, as_json.document) == (
        1,
        {"tenants": 1, "differences": [Difference("beta", "ingest_events_total", DAY, 9, 1)._asdict()]},
    )
    assert (await asyncio.to_thread(shell.run, "meters", "audit", "--tenant", "acme")).status == 0
    nobody = await asyncio.to_thread(shell.run, "meters", "audit", "--tenant", "nobody")
    assert (nobody.status, "there is no tenant nobody" in nobody.stderr) == (1, True)
