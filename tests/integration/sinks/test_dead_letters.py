"""Dead letters: a row and a chain entry for each, whatever the message is."""

import base64
import secrets
from typing import Any

import msgspec
import pytest

from schemas.canonical import sha256_hex
from schemas.evidence import ChainEntry
from schemas.rows import BuriedLetter
from sinks.dead_letters import DeadLetters
from sinks.pg import Pool
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
