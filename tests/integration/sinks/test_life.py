"""An event's life as the tables tell it, for its own tenant alone."""

from typing import Any

import msgspec
import pytest

from ops.embedded import EmbeddedServers
from sinks.artifacts import ArtifactIndex, ArtifactKey
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.life import Lives, OutcomeCounts
from sinks.pg import Pool
from sinks.waiting_letters import WaitingLetters
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings


async def _life(pool: Pool, tenant: str, event: str) -> Any:
    document = await Lives(pool).life_of(tenant, event, None)
    return None if document is None else msgspec.json.decode(document)


async def test_a_decided_event_is_told_with_every_row_of_it(worker: Pool, edge: Pool, tenant: str) -> None:
    claim = make.claim(tenant, "e1", 7, body=b'{"payload": {"n": 1}}')
    await EventKeys(worker).claim([claim])
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    await ArtifactIndex(worker).index([make.artifact(tenant, "e1")])
    life = await _life(edge, tenant, "e1")
    assert (life["tenant_id"], life["event_id"], life["outcome"]) == (tenant, "e1", "decided")
    assert life["event_keys"] == claim.key._asdict()
    assert life["ingest_events"]["body"] == {"payload": {"n": 1}}
    assert life["decisions"]["policy_code"] == "POLICY_DENY"
    assert life["decisions"]["decided_at"] == make.DECIDED_AT
    assert life["decisions"]["features"] == {"has_secret": True, "name": "é\n"}
    (link,) = life["chain_entries"]
    assert link["entry"]["artifact_sha256"] == life["evidence_outbox"][0]["entry"]["artifact_sha256"]
    assert life["evidence_outbox"][0]["record"]["verdict"] == "deny"
    assert life["decision_evidence_artifacts"][0]["segment_offset"] == 64
    assert life["ingest_dlq"] == []


async def test_an_agent_is_told_of_its_own_events_alone(worker: Pool, edge: Pool, tenant: str) -> None:
    await EventKeys(worker).claim(
        [make.claim(tenant, "e1", 7, body=b'{"agent_id": "host-1"}'), make.claim(tenant, "e2", 8, body=b"{}")]
    )
    assert await Lives(edge).life_of(tenant, "e1", "host-1") == await Lives(edge).life_of(tenant, "e1", None)
    assert await Lives(edge).life_of(tenant, "e1", "host-2") is None
    assert await Lives(edge).life_of(tenant, "e2", "host-1") is None


async def test_the_keys_of_the_document_are_the_names_of_the_columns(
    worker: Pool, edge: Pool, superuser: Any, tenant: str
) -> None:
    await EventKeys(worker).claim([make.claim(tenant, "e1", 7)])
    await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e1")])
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    life = await _life(edge, tenant, "e1")
    untold = {"ingest_dlq": {"id", "taken_by", "letter_seq", "accepted_stream", "accepted_seq"}}
    for table in ("event_keys", "ingest_events", "decisions", "chain_entries", "ingest_dlq", "evidence_outbox"):
        row = life[table] if isinstance(life[table], dict) else life[table][0]
        names = "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped"
        assert set(row) | untold.get(table, set()) == {found[0] for found in await superuser.fetch(names, table)}
        assert set(row) & untold.get(table, set()) == set()


async def test_no_number_of_a_letter_counts_the_letters_of_others_and_no_operator_is_named(
    worker: Pool, edge: Pool, operator: Pool, tenant: str
) -> None:
    """With the letter's own id a tenant could tell how many dead letters all others had between two of its own."""
    await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e1")])
    assert await WaitingLetters(operator).take(tenant, "e1", "operator-ann", "seen") == ["poison"]
    document = await Lives(edge).life_of(tenant, "e1", None) or b""
    [letter] = msgspec.json.decode(document)["ingest_dlq"]
    assert letter["taken_at"] is not None
    assert b"operator-ann" not in document
    assert letter.keys().isdisjoint({"id", "letter_seq"})


async def test_an_event_is_found_while_the_rows_of_another_day_are_out_of_reach(
    worker: Pool, servers: EmbeddedServers, superuser: Any, tenant: str
) -> None:
    """The look-up touches the partition of the event's day, however many days are kept."""
    await EventKeys(worker).claim([make.claim(tenant, "e1", 7)])
    await superuser.execute("SELECT app.ensure_ingest_partition('2020-02-03')")
    impatient = await Pool.open(settings(servers.postgres_dsn("edge"), lock_timeout_ms=500))
    async with superuser.transaction():
        await superuser.execute("LOCK TABLE ingest_events_20200203 IN ACCESS EXCLUSIVE MODE")
        life = await _life(impatient, tenant, "e1")
        await superuser.execute("DROP TABLE ingest_events_20200203")
    await impatient.close()
    assert life["ingest_events"]["body"] == {"k": 1}


async def test_an_event_ends_as_what_it_is(worker: Pool, edge: Pool, tenant: str) -> None:
    await EventKeys(worker).claim([make.claim(tenant, f"e{number}", number) for number in range(4)])
    await DecisionLedger(worker).record([make.record(tenant, "e1"), make.record(tenant, "e2")])
    await DeadLetters(worker, make.SHA_A).bury(
        [
            make.letter(tenant, "e2"),
            make.letter(tenant, "e3"),
            make.letter(tenant, "e0", reason="event_id_conflict"),
            make.letter(tenant, "FG_INGEST_0:99"),
        ]
    )
    events = ("e0", "e1", "e2", "e3", "FG_INGEST_0:99")
    outcomes = [(await _life(edge, tenant, event))["outcome"] for event in events]
    assert outcomes == ["in_flight", "decided", "decided", "dead", "dead"]
    counts = await Lives(edge).count_by_outcome(tenant)
    assert counts == OutcomeCounts(accepted=5, decided=2, dead=2)
    assert counts.in_flight == 1


async def test_an_event_of_another_tenant_is_as_unknown_as_none(worker: Pool, edge: Pool, tenant: str) -> None:
    await EventKeys(worker).claim([make.claim(tenant, "e1", 7)])
    assert await _life(edge, make.tenant_id(), "e1") is None
    assert await _life(edge, tenant, "e2") is None
    assert await Lives(edge).count_by_outcome(make.tenant_id()) == OutcomeCounts(0, 0, 0)


async def test_an_operator_reads_the_same_life(worker: Pool, edge: Pool, operator: Pool, tenant: str) -> None:
    await EventKeys(worker).claim([make.claim(tenant, "e1", 7)])
    assert await Lives(operator).life_of(tenant, "e1", None) == await Lives(edge).life_of(tenant, "e1", None)


async def test_an_artifact_indexed_twice_stays_where_it_was_and_is_metered_once(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    index = ArtifactIndex(worker)
    keys = [ArtifactKey(tenant, "e1", "decision"), ArtifactKey(tenant, "e2", "decision")]
    assert await index.missing(keys) == keys
    await index.index([make.artifact(tenant, "e1")])
    await index.index([make.artifact(tenant, "e1", segment="segment-2")])
    assert await index.missing(keys) == keys[1:]
    stored = "SELECT segment_id FROM decision_evidence_artifacts WHERE tenant_id = $1"
    assert await superuser.fetchval(stored, tenant) == "segment-1"
    metered = "SELECT value FROM usage_meters WHERE tenant_id = $1 AND meter = 'artifacts_bytes_stored_total'"
    assert await superuser.fetchval(metered, tenant) == 700


@pytest.mark.parametrize("event", ["e1", "e'; --", "\N{SNOWMAN}"])
async def test_any_text_may_be_asked_for(edge: Pool, tenant: str, event: str) -> None:
    assert await _life(edge, tenant, event) is None
