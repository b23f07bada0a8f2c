"""An event that kills its worker, on the real servers: it is stopped by its budget, and its neighbours lose nothing."""

import asyncio
import os
import signal

import asyncpg
import msgspec

from chaos.poison import DEADLY
from ops.embedded import EmbeddedServers
from schemas.answers import Stored
from schemas.subjects import ingest_stream, lane, message_id, partition_of
from streams.committer import GroupCommitter, unbarred
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from tests.integration import test_worker_killed as workers

ATTEMPTS_MAX = int(os.environ.get("FG_TEST_ATTEMPTS", "5"))
"""The default budget: suspects run in groups of 64, of 8 and alone. Each attempt is one life of a worker."""
NEIGHBOURS = 120
ELSEWHERE = ("suspects-a", "suspects-b", "suspects-h")
"""Tenants of other partitions, and so of other lanes."""
LIFE_S_MAX = 40.0
place = workers.place
"""A database and evidence of its own: the fixture of the other drill that kills workers."""


async def _publish(servers: EmbeddedServers, tenant: str, event_ids: list[str]) -> None:
    url = servers.nats_url("edge")
    settings = StreamSettings(url=url, system_url="", replicas=1, shards=1, tenant_messages_max=12_000)
    jetstream = await JetStream.connect(url, "edge")
    committer = GroupCommitter(jetstream, settings, ingest_stream(0), workers._Silent(), unbarred)
    outcomes = await asyncio.gather(
        *(
            committer.submit(
                lane(tenant).ingest,
                message_id(tenant, event_id),
                msgspec.json.encode(workers._event(tenant, event_id)),
                "",
            )
            for event_id in event_ids
        )
    )
    assert all(isinstance(outcome, Stored) for outcome in outcomes)
    await jetstream.close()


async def _until_settled(dsn: str, tenants: list[str], events: int, process: asyncio.subprocess.Process) -> bool:
    """True once nothing of the tenants is in flight; False when the worker died first."""
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(LIFE_S_MAX):
            while process.returncode is None:
                settled = await connection.fetchval(
                    "SELECT (SELECT count(*) FROM decisions WHERE tenant_id = ANY ($1))"
                    " + (SELECT count(*) FROM ingest_dlq WHERE tenant_id = ANY ($1))",
                    tenants,
                )
                if settled == events:
                    return True
                await asyncio.sleep(0.1)
    finally:
        await connection.close()
    return False


async def test_an_event_that_kills_its_worker_is_buried_and_its_neighbours_are_all_decided(
    servers: EmbeddedServers, place: workers.Place
) -> None:
    tenant, dsn = "suspects", place.admin_dsn
    innocent = [f"evt-{number}" for number in range(NEIGHBOURS)]
    environment = workers._environment(servers, place) | {"FG_DP_RETRY_BUDGET_PER_EVENT": str(ATTEMPTS_MAX)}
    assert len({partition_of(one) for one in (tenant, *ELSEWHERE)}) == len(ELSEWHERE) + 1
    for other in ELSEWHERE:
        await _publish(servers, other, innocent)
    await _publish(servers, tenant, [*innocent[: NEIGHBOURS // 2], f"{DEADLY}1", *innocent[NEIGHBOURS // 2 :]])
    events = NEIGHBOURS * (len(ELSEWHERE) + 1) + 1
    deaths = 0
    while True:
        async with workers._worker(environment, "-m", "chaos.poison") as process:
            if await _until_settled(dsn, [tenant, *ELSEWHERE], events, process):
                break
            assert await process.wait() == -signal.SIGKILL
            deaths += 1
            assert deaths <= ATTEMPTS_MAX + 1
    assert deaths == ATTEMPTS_MAX + 1  # the first delivery is nobody's attempt
    connection = await asyncpg.connect(dsn)
    try:
        decided = await connection.fetch("SELECT event_id FROM decisions WHERE tenant_id = $1", tenant)
        assert sorted(row["event_id"] for row in decided) == sorted(innocent)
        dead = await connection.fetch("SELECT * FROM ingest_dlq WHERE tenant_id = ANY ($1)", [tenant, *ELSEWHERE])
        assert [(row["event_id"], row["reason_code"], row["retry_count"]) for row in dead] == [
            (f"{DEADLY}1", "retry_budget_exhausted", ATTEMPTS_MAX)
        ]
        chained = await connection.fetch("SELECT event_id, kind FROM chain_entries WHERE tenant_id = $1", tenant)
        assert len(chained) == NEIGHBOURS + 1
        assert [row["event_id"] for row in chained if row["kind"] == "dead_letter"] == [f"{DEADLY}1"]
        assert await connection.fetchval("SELECT count(*) FROM attempts WHERE tenant_id = $1", tenant) == 0
    finally:
        await connection.close()
