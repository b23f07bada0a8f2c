"""Dead letters: a row and a chain entry for each, whatever the message is."""

import asyncio
import base64
import secrets
from typing import Any

import msgspec
import pytest

from schemas.canonical import sha256_hex
from schemas.evidence import ChainEntry
from schemas.rows import BuriedLetter
from sinks.dead_letters import DeadLetters
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from sinks.waiting_letters import WaitingLetters
from tests.integration.sinks import make

_ROW = "SELECT * FROM ingest_dlq WHERE tenant_id = $1"


@pytest.fixture
def letters(worker: Pool) -> DeadLetters:
    return DeadLetters(worker, make.SHA_B)


async def test_a_letter_becomes_a_row_an_operator_can_read(letters: DeadLetters, superuser: Any, tenant: str) -> None:
    assert len(await letters.bury([make.letter(tenant, "e1", message=b'{"name": "value"}')])) == 1
    row = await superuser.fetchrow(_ROW, tenant)
    assert msgspec.json.decode(row["payload_json"]) == {"name": "value"}
    assert (row["event_id"], row["reason_code"], row["stage"], row["retry_count"]) == ("e1", "poison", "decision", 0)
    assert row["first_seen_at"] == row["last_seen_at"]


async def test_the_chain_entry_binds_the_message(letters: DeadLetters, superuser: Any, tenant: str) -> None:
    await letters.bury([make.letter(tenant, "e1", message=b"not json")])
    row = await superuser.fetchrow("SELECT * FROM evidence_outbox WHERE tenant_id = $1", tenant)
    entry = msgspec.json.decode(row["entry"], type=ChainEntry)
    record = msgspec.json.decode(row["record"])
    assert (entry.kind, entry.event_id, entry.config_hash) == ("dead_letter", "e1", make.SHA_B)
    assert (record["message_sha256"], record["message_bytes"]) == (sha256_hex(b"not json"), 8)
    assert (record["reason_code"], record["first_seen_at"]) == ("poison", make.SEEN_AT)
    assert entry.artifact_sha256 == sha256_hex(row["record"].encode())


async def test_a_letter_delivered_again_changes_nothing(letters: DeadLetters, superuser: Any, tenant: str) -> None:
    batch = [make.letter(tenant, "e1", 9), make.letter(tenant, "e2", 10)]
    assert len(await letters.bury(batch)) == 2
    before = await superuser.fetch(_ROW, tenant)
    assert len(await letters.bury(batch)) == 0
    assert await superuser.fetch(_ROW, tenant) == before
    assert await superuser.fetchval("SELECT seq FROM chain_heads WHERE tenant_id = $1", tenant) == 2


async def test_later_messages_of_an_event_count_and_its_chain_entry_stays_one(
    letters: DeadLetters, superuser: Any, tenant: str
) -> None:
    assert len(await letters.bury([make.letter(tenant, "e1", 11), make.letter(tenant, "e1", 9)])) == 1
    assert len(await letters.bury([make.letter(tenant, "e1", 12)])) == 0
    assert len(await letters.bury([make.letter(tenant, "e1", 12, reason="store_refused")])) == 1
    rows = await superuser.fetch(_ROW + " ORDER BY id", tenant)
    assert [(row["reason_code"], row["retry_count"]) for row in rows] == [("poison", 2), ("store_refused", 0)]
    assert await superuser.fetchval("SELECT seq FROM chain_heads WHERE tenant_id = $1", tenant) == 1


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"\x00",
        b'{"half": ',
        b'{"nul": "\\u0000"}',
        b'{"surrogate": "\\ud800"}',
        b'{"huge": 1e999999}',
        b"[" * 100_000,
    ],
)
async def test_a_message_that_is_no_storable_json_is_kept_as_its_bytes(
    letters: DeadLetters, superuser: Any, tenant: str, message: bytes
) -> None:
    await letters.bury([make.letter(tenant, "e1", message=message)])
    payload = msgspec.json.decode((await superuser.fetchrow(_ROW, tenant))["payload_json"])
    assert payload == {"message_base64": base64.b64encode(message).decode()}


async def test_ids_read_out_of_a_broken_message_never_stop_a_burial(
    letters: DeadLetters, superuser: Any, tenant: str
) -> None:
    names = ["e\x00vil", secrets.token_hex(5000), 'quote " and \\ and \n', "100%_", ""]
    broken = [make.letter(tenant, name, number) for number, name in enumerate(names)]
    broken = [
        buried._replace(letter=msgspec.structs.replace(buried.letter, trace_id="t" * 5000, request_id="\x00" * 65))
        for buried in broken
    ]
    assert len(await letters.bury(broken)) == len(names)
    assert await superuser.fetchval("SELECT count(*) FROM ingest_dlq WHERE tenant_id = $1", tenant) == len(names)


async def test_the_row_says_how_many_attempts_were_made_however_often_its_letter_comes(
    letters: DeadLetters, superuser: Any, tenant: str
) -> None:
    def exhausted(seq: int) -> BuriedLetter:
        buried = make.letter(tenant, "e1", seq, reason="retry_budget_exhausted")
        return buried._replace(letter=msgspec.structs.replace(buried.letter, attempts=5))

    assert await letters.bury([exhausted(9)]) == [exhausted(9)]
    assert await letters.bury([exhausted(9), exhausted(9)]) == []
    assert (await superuser.fetchrow(_ROW, tenant))["retry_count"] == 5
    assert await letters.bury([exhausted(10)]) == []  # sent again by an operator, and failed as often
    assert (await superuser.fetchrow(_ROW, tenant))["retry_count"] == 10


def _of_the_event(tenant: str, event: str, *, reason: str = "retry_budget_exhausted", **changed: Any) -> BuriedLetter:
    """A letter of the very acceptance that `make.record` decides."""
    record = make.record(tenant, event)
    accepted = {
        "accepted_stream": record.stream,
        "accepted_seq": record.seq,
        "body_sha256": record.body_sha256,
        "attempts": 5,
    }
    buried = make.letter(tenant, event, reason=reason)
    return buried._replace(letter=msgspec.structs.replace(buried.letter, **{**accepted, **changed}))


async def _ends(superuser: Any, tenant: str) -> list[tuple[str, ...]]:
    """What the tables know of the tenant's events: decisions, dead letters, kinds of chain entries, counted events."""
    queries = (
        "SELECT event_id FROM decisions WHERE tenant_id = $1",
        "SELECT reason_code FROM ingest_dlq WHERE tenant_id = $1 ORDER BY id",
        "SELECT kind FROM chain_entries WHERE tenant_id = $1 ORDER BY seq",
        "SELECT value::text FROM usage_meters WHERE tenant_id = $1 AND meter = 'ingest_events_total'",
    )
    return [tuple(row[0] for row in await superuser.fetch(query, tenant)) for query in queries]


DECIDED: list[tuple[str, ...]] = [("e1",), (), ("decision",), ("1",)]
DEAD: list[tuple[str, ...]] = [(), ("retry_budget_exhausted",), ("dead_letter",), ()]


@pytest.mark.parametrize("stage", ["dedupe", "decision"])
async def test_a_letter_of_a_decided_event_changes_nothing(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str, stage: str
) -> None:
    assert await DecisionLedger(worker).record([make.record(tenant, "e1")]) == [False]
    assert await letters.bury([_of_the_event(tenant, "e1", stage=stage)]) == []
    assert await letters.bury([_of_the_event(tenant, "e1", reason="store_refused")]) == []
    assert await _ends(superuser, tenant) == DECIDED


async def test_an_event_that_ended_dead_is_not_decided_and_its_neighbours_are(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str
) -> None:
    assert len(await letters.bury([_of_the_event(tenant, "e1")])) == 1
    assert await DecisionLedger(worker).record([make.record(tenant, "e1")]) == [False]
    assert await _ends(superuser, tenant) == DEAD
    records = [make.record(tenant, event) for event in ("e0", "e1", "e2")]
    assert await DecisionLedger(worker).record(records) == [False] * 3
    decided, _, kinds, counted = await _ends(superuser, tenant)
    assert (sorted(decided), kinds, counted) == (["e0", "e2"], ("dead_letter", "decision", "decision"), ("2",))


@pytest.mark.parametrize("round_number", range(8))
async def test_of_a_decision_and_a_letter_at_once_one_takes_effect(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str, round_number: int
) -> None:
    del round_number
    await asyncio.gather(
        letters.bury([_of_the_event(tenant, "e1")]), DecisionLedger(worker).record([make.record(tenant, "e1")])
    )
    assert await _ends(superuser, tenant) in (DECIDED, DEAD)


async def test_an_event_of_which_only_the_duplicate_died_is_not_decided(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str
) -> None:
    duplicate = make.record(tenant, "e1").seq + 4
    assert len(await letters.bury([_of_the_event(tenant, "e1", accepted_seq=duplicate)])) == 1
    assert await DecisionLedger(worker).record([make.record(tenant, "e1")]) == [False]
    assert await _ends(superuser, tenant) == DEAD


@pytest.mark.parametrize("first", [0, 1])
async def test_an_event_that_died_with_its_duplicate_is_not_decided_whichever_letter_came_first(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str, first: int
) -> None:
    accepted = make.record(tenant, "e1").seq
    both = [
        _of_the_event(tenant, "e1", stream="FG_INGEST_0", seq=seq, stage="dedupe", accepted_seq=seq)
        for seq in (accepted, accepted + 4)
    ]
    for letter_seq, buried in enumerate((both[first], both[1 - first]), start=1):
        await letters.bury([buried._replace(seq=letter_seq)])
    anew = msgspec.structs.replace(make.record(tenant, "e1"), seq=accepted + 5)
    assert await DecisionLedger(worker).record([make.record(tenant, "e1")]) == [False]
    assert await _ends(superuser, tenant) == DEAD
    await DecisionLedger(worker).record([msgspec.structs.replace(anew, seq=accepted + 4)])
    assert await _ends(superuser, tenant) == DEAD
    await DecisionLedger(worker).record([anew])
    assert (await _ends(superuser, tenant))[0] == ("e1",)


async def test_after_the_streams_were_lost_an_event_is_decided_and_dies_by_their_new_sequences(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str
) -> None:
    """As docs/stages.md has it."""
    late = _of_the_event(tenant, "e1", seq=1_000, accepted_seq=1_000)._replace(seq=1_000)
    await letters.bury([late, late._replace(letter=msgspec.structs.replace(late.letter, event_id="e2"))])
    await superuser.execute(
        "UPDATE ingest_dlq SET letter_seq = NULL, accepted_stream = NULL, accepted_seq = NULL WHERE tenant_id = $1",
        tenant,
    )
    assert await DecisionLedger(worker).record([make.record(tenant, "e1")]) == [False]
    await letters.bury([_of_the_event(tenant, "e2")])
    await DecisionLedger(worker).record([make.record(tenant, "e2")])
    assert (await _ends(superuser, tenant))[0] == ("e1",)


async def test_an_event_accepted_anew_after_its_death_is_decided(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str
) -> None:
    before = make.record(tenant, "e1").seq - 1
    assert len(await letters.bury([_of_the_event(tenant, "e1", accepted_seq=before)])) == 1
    assert await DecisionLedger(worker).record([make.record(tenant, "e1")]) == [False]
    assert (await _ends(superuser, tenant))[0] == ("e1",)


async def test_what_took_the_id_of_a_decided_event_with_another_body_ends_dead_all_the_same(
    letters: DeadLetters, worker: Pool, superuser: Any, tenant: str
) -> None:
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    other = _of_the_event(tenant, "e1", body_sha256=make.SHA_B, accepted_seq=8)
    assert len(await letters.bury([other])) == 1
    assert (await _ends(superuser, tenant))[:2] == [("e1",), ("retry_budget_exhausted",)]


async def test_an_event_has_evidence_of_its_death_whoever_took_its_id_before(
    letters: DeadLetters, superuser: Any, tenant: str
) -> None:
    conflicts = [make.letter(tenant, "e1", seq, reason="event_id_conflict") for seq in (7, 8)]
    await letters.bury(conflicts)
    await letters.bury([*conflicts, make.letter(tenant, "e1", 9)])
    chained = await superuser.fetch("SELECT event_id FROM chain_entries WHERE tenant_id = $1 ORDER BY seq", tenant)
    assert [row[0] for row in chained] == ["FG_DECIDE:7", "FG_DECIDE:8", "e1"]
    outbox = await superuser.fetch("SELECT record FROM evidence_outbox WHERE tenant_id = $1 ORDER BY seq", tenant)
    records = [msgspec.json.decode(row[0]) for row in outbox]
    assert [(record["event_id"], record["reason_code"]) for record in records] == [
        ("e1", "event_id_conflict"),
        ("e1", "event_id_conflict"),
        ("e1", "poison"),
    ]


async def test_a_later_death_waits_to_be_seen_whatever_stream_it_was_in(
    letters: DeadLetters, operator: Pool, superuser: Any, tenant: str
) -> None:
    first = make.letter(tenant, "e1", 900)
    first = first._replace(letter=msgspec.structs.replace(first.letter, stream="FG_INGEST_0", stage="dedupe"), seq=20)
    await letters.bury([first])
    assert await WaitingLetters(operator).take(tenant, "e1", "ann", "sent again") == ["poison"]
    later = make.letter(tenant, "e1", 3)._replace(seq=21)
    for again in (later, first, later, later._replace(seq=22)):  # the last is a second letter of the same message
        await letters.bury([again])
        row = await superuser.fetchrow(_ROW, tenant)
        assert (row["stage"], row["stream"], row["retry_count"], row["taken_at"]) == ("decision", "FG_DECIDE", 1, None)
