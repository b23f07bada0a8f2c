"""The decision ledger: decision, chain entry, outbox row and meters, once per event."""

import asyncio
import itertools
from typing import Any

import asyncpg
import msgspec
import pytest

from schemas.answers import Refusal
from schemas.canonical import canonical_plain, sha256_hex
from schemas.evidence import ChainEntry, genesis_hash, seal
from sinks.dead_letters import DeadLetters
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.integration.sinks import make

_INSERT_LINK = """
INSERT INTO chain_entries (tenant_id, seq, kind, event_id, entry, prev_hash, chain_hash)
VALUES ($1, $2, 'decision', $3, $4, $5, $6)
"""


async def _chain(superuser: Any, tenant: str) -> list[Any]:
    rows = await superuser.fetch("SELECT * FROM chain_entries WHERE tenant_id = $1 ORDER BY seq", tenant)
    return list(rows)


async def _assert_whole(superuser: Any, tenant: str, length: int) -> None:
    """The chain has that many entries, no gap, no fork, and every hash is what its entry says."""
    rows = await _chain(superuser, tenant)
    assert [row["seq"] for row in rows] == list(range(1, length + 1))
    prev_hash = genesis_hash(tenant)
    for row in rows:
        entry = msgspec.json.decode(row["entry"], type=ChainEntry)
        assert (entry.tenant_id, entry.seq, entry.prev_hash) == (tenant, row["seq"], prev_hash)
        assert seal(entry) == (row["entry"].encode(), row["chain_hash"])
        prev_hash = row["chain_hash"]
    head = await superuser.fetchrow("SELECT seq, chain_hash FROM chain_heads WHERE tenant_id = $1", tenant)
    assert tuple(head) == (length, prev_hash)


async def test_a_decision_is_stored_as_it_was_made(worker: Pool, superuser: Any, tenant: str) -> None:
    record = make.record(tenant, "e1")
    await DecisionLedger(worker).record([record])
    row = await superuser.fetchrow("SELECT * FROM decisions WHERE tenant_id = $1", tenant)
    assert (row["verdict"], row["policy_code"], row["score"]) == ("deny", "POLICY_DENY", 12)
    assert tuple(row["policy_reasons"]) == record.policy_reasons
    assert msgspec.json.decode(row["features"]) == record.features
    assert msgspec.json.decode(row["contributions"]) == [{"feature": "has_secret", "points": 12}]
    assert (row["ingest_latency_ms"], row["decision_id"]) == (250, 1)


async def test_the_chain_entry_binds_the_record_that_waits_in_the_outbox(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    record = make.record(tenant, "e1")
    await DecisionLedger(worker).record([record])
    waiting = await superuser.fetchrow("SELECT * FROM evidence_outbox WHERE tenant_id = $1", tenant)
    entry = msgspec.json.decode(waiting["entry"], type=ChainEntry)
    assert waiting["record"].encode() == canonical_plain(record)
    assert entry.artifact_sha256 == sha256_hex(waiting["record"].encode())
    assert entry.artifact_bytes == len(waiting["record"].encode())
    assert (entry.policy_hash, entry.config_hash, entry.trace_id) == ("p" * 64, "c" * 64, make.TRACE_ID)
    decision = await superuser.fetchrow("SELECT prev_hash, chain_hash FROM decisions WHERE tenant_id = $1", tenant)
    assert tuple(decision) == (genesis_hash(tenant), waiting["chain_hash"])


async def test_an_event_recorded_twice_is_decided_once(worker: Pool, superuser: Any, tenant: str) -> None:
    ledger = DecisionLedger(worker)
    records = [make.record(tenant, "e1"), make.record(tenant, "e2"), make.record(tenant, "e1")]
    await ledger.record(records)
    await ledger.record([*records, make.record(tenant, "e3")])
    await _assert_whole(superuser, tenant, 3)
    decided = await superuser.fetch("SELECT event_id FROM decisions WHERE tenant_id = $1 ORDER BY decision_id", tenant)
    assert [row["event_id"] for row in decided] == ["e1", "e2", "e3"]
    assert await superuser.fetchval("SELECT count(*) FROM evidence_outbox WHERE tenant_id = $1", tenant) == 3


async def test_whoever_records_an_event_that_is_decided_with_another_body_is_told_so(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    ledger, other = DecisionLedger(worker), make.tenant_id()
    first, second = make.record(tenant, "e1"), make.record(tenant, "e2")
    reused = msgspec.structs.replace(first, body_sha256=make.SHA_B)
    assert await ledger.record([first, msgspec.structs.replace(second, event_id="e0")]) == [False, False]
    assert await ledger.record([reused]) == [True]
    again = [second, first, reused, msgspec.structs.replace(reused, tenant_id=other)]
    assert await ledger.record(again) == [False, False, True, False]
    fresh = make.record(tenant, "e3")
    both = [fresh, msgspec.structs.replace(fresh, body_sha256=make.SHA_B), fresh]
    assert await ledger.record(both) == [False, True, False], "within one batch the first one is decided"
    await _assert_whole(superuser, tenant, 4)
    await _assert_whole(superuser, other, 1)
    bytes_of = "SELECT sum(value)::int FROM usage_meters WHERE tenant_id = $1 AND meter = 'ingest_bytes_total'"
    assert await superuser.fetchval(bytes_of, tenant) == 4 * 300


async def test_meters_count_each_event_once_on_the_day_it_was_accepted(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    ledger = DecisionLedger(worker)
    await ledger.record([make.record(tenant, "e1")])
    await ledger.record([make.record(tenant, "e1"), make.record(tenant, "e2")])
    rows = await superuser.fetch(
        "SELECT meter, day::text, value FROM usage_meters WHERE tenant_id = $1 ORDER BY 1", tenant
    )
    assert [tuple(row) for row in rows] == [
        ("ingest_bytes_total", "2026-01-31", 600),
        ("ingest_events_total", "2026-01-31", 2),
    ]


async def test_ledgers_at_once_leave_one_gapless_chain_per_tenant(worker: Pool, superuser: Any) -> None:
    tenants = [make.tenant_id() for _ in range(4)]
    ledger, letters = DecisionLedger(worker), DeadLetters(worker, make.SHA_A)

    async def decide(offset: int) -> None:
        names = itertools.cycle(tenants[offset % 4 :] + tenants[: offset % 4])
        for start in range(0, 60, 20):
            await ledger.record([make.record(next(names), f"e{offset // 2}-{start + n}") for n in range(20)])

    async def bury(offset: int) -> None:
        for n in range(5):
            await letters.bury([make.letter(tenant, f"dead-{offset}-{n}") for tenant in reversed(tenants)])

    await asyncio.gather(*(decide(offset) for offset in range(8)), bury(0), bury(1))
    for tenant in tenants:
        length = await superuser.fetchval("SELECT count(*) FROM chain_entries WHERE tenant_id = $1", tenant)
        decided = await superuser.fetchval("SELECT count(*) FROM decisions WHERE tenant_id = $1", tenant)
        assert length == decided + 10
        await _assert_whole(superuser, tenant, length)


@pytest.mark.parametrize(
    ("decided_at", "latency_ms"),
    [
        (make.INGEST_TS, 0),
        ("2026-01-31T23:59:59.119Z", None),
        ("2026-02-25T20:31:22.767Z", 2**31 - 1),
        ("2026-02-25T20:31:22.768Z", None),
    ],
)
async def test_a_latency_that_cannot_be_is_unknown(
    worker: Pool, superuser: Any, tenant: str, decided_at: str, latency_ms: int | None
) -> None:
    await DecisionLedger(worker).record([make.record(tenant, "e1", decided_at=decided_at)])
    stored = await superuser.fetchval("SELECT ingest_latency_ms FROM decisions WHERE tenant_id = $1", tenant)
    assert stored == latency_ms


async def test_a_record_that_can_never_be_stored_takes_nothing_of_its_batch_with_it(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    ledger = DecisionLedger(worker)
    with pytest.raises(Refusal):
        await ledger.record([make.record(tenant, "e1"), make.record(tenant, "e2", source="\x00")])
    assert await superuser.fetchval("SELECT count(*) FROM chain_heads WHERE tenant_id = $1", tenant) == 0
    await ledger.record([make.record(tenant, "e1")])
    await _assert_whole(superuser, tenant, 1)


def _link(tenant: str, seq: int, prev_hash: str) -> tuple[str, str]:
    sha, text = make.SHA_A, make.TRACE_ID
    data, chain_hash = seal(
        ChainEntry(1, tenant, seq, "decision", "e9", make.INGEST_TS, text, "r", sha, sha, sha, 1, sha, 1, prev_hash)
    )
    return data.decode(), chain_hash


@pytest.mark.parametrize("wrong", ["hash", "seq", "prev", "tenant"])
async def test_the_database_refuses_an_entry_that_is_not_what_its_columns_say(
    worker: Pool, tenant: str, wrong: str
) -> None:
    prev_hash = genesis_hash(tenant)
    entry, chain_hash = _link(f"{tenant[:-1]}_" if wrong == "tenant" else tenant, 1, prev_hash)
    values = (
        tenant,
        2 if wrong == "seq" else 1,
        "e9",
        entry,
        make.SHA_B if wrong == "prev" else prev_hash,
        make.SHA_B if wrong == "hash" else chain_hash,
    )
    with pytest.raises(Refusal):
        async with worker.tenant_transaction([tenant]) as connection:
            await connection.execute(_INSERT_LINK, *values)


async def test_a_fork_cannot_be_stored(worker: Pool, superuser: Any, tenant: str) -> None:
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    entry, chain_hash = _link(tenant, 2, genesis_hash(tenant))
    with pytest.raises(asyncpg.UniqueViolationError):
        await superuser.execute(_INSERT_LINK, tenant, 2, "e9", entry, genesis_hash(tenant), chain_hash)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE chain_entries SET kind = 'x'", "DELETE FROM chain_entries", "TRUNCATE chain_entries"],
)
async def test_not_even_the_superuser_changes_an_entry_unasked(superuser: Any, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await superuser.execute(statement)
