"""`GET /v1/evidence/{event_id}`: everything that proves one event, or nothing."""

import dataclasses
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ops.settings import load
from schemas.checkpoint import Leaf, leaf_name, round_of, tenant_key
from schemas.codes import Code
from schemas.merkle import root_from
from schemas.principal import Scope
from sinks import keyring, notes
from sinks.api_keys import ApiKeys
from sinks.dead_letters import DeadLetters
from sinks.pg import Pool
from tests.contract.conftest import RunEdge, Sender
from tests.contract.wire import Answer, Client
from tests.integration.sinks import make
from tests.integration.sinks.sealed import SECRET, Evidence


@pytest.fixture
def evidence(worker_pool: Pool, tmp_path: Path) -> Evidence:
    (tmp_path / "worm").mkdir()
    made = Evidence.begin(worker_pool, tmp_path / "worm")
    (tmp_path / "keyring.json").write_bytes(made.keyring.envelope)
    (tmp_path / "secret").write_bytes(SECRET)
    return made


@pytest.fixture
async def reader(sender: Sender, run_edge: RunEdge, evidence: Evidence, tmp_path: Path) -> AsyncIterator[Sender]:
    """The sender at an edge that serves this evidence."""
    settings = dataclasses.replace(
        load({}).evidence,
        worm_dir=tmp_path / "worm",
        keyring_file=tmp_path / "keyring.json",
        checkpoint_secret_file=tmp_path / "secret",
    )
    assert evidence
    async with run_edge(more={"evidence": settings}) as edge:
        yield sender.at(edge)


async def asked(sender: Sender, event_id: str = "e-1") -> Answer:
    return await sender.client.ask("GET", f"/v1/evidence/{event_id}")


def entry_of(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    (entry,) = answer.document["entries"]
    return entry


def unhexed(path: list[str]) -> list[bytes]:
    return [bytes.fromhex(node) for node in path]


async def test_an_event_is_proven_from_its_artifact_up_to_a_signed_note(reader: Sender, evidence: Evidence) -> None:
    await evidence.keep(reader.tenant_id, range(300))
    answer = await asked(reader, "e-77")
    entry = entry_of(answer)
    document = answer.document
    assert document["pending"] is False
    chained = msgspec.json.decode(entry["entry"])
    assert (chained["event_id"], chained["seq"]) == ("e-77", 78)
    assert hashlib.sha256(entry["artifact"].encode()).hexdigest() == chained["artifact_sha256"]
    leaf = hashlib.sha256(b"\x00" + entry["entry"].encode()).digest()
    inclusion, checkpoint = entry["inclusion"], entry["checkpoint"]
    root = root_from(leaf, inclusion["index"], inclusion["size"], unhexed(inclusion["path"]))
    assert root.hex() == inclusion["root"] == checkpoint["leaf"]["root"]
    key = tenant_key(SECRET, reader.tenant_id)
    assert document["tenant_key"] == key.hex()
    assert checkpoint["leaf"]["name"] == leaf_name(key, reader.tenant_id)
    ring = keyring.read(document["keyring"].encode(), evidence.keyring.root_fingerprint)
    signed = round_of(notes.verify(checkpoint["note"], ring.public_keys()))
    leaf = msgspec.convert(checkpoint["leaf"], Leaf).leaf_hash
    assert signed.root == root_from(leaf, checkpoint["index"], checkpoint["tree_size"], unhexed(checkpoint["path"]))


async def test_what_is_not_sealed_or_covered_yet_is_said_to_be_pending(reader: Sender, evidence: Evidence) -> None:
    await evidence.decide(reader.tenant_id, [1])
    answer = await asked(reader)
    entry = entry_of(answer)
    assert answer.document["pending"] is True
    assert (entry["artifact"], entry["inclusion"], entry["checkpoint"]) == (None, None, None)
    await evidence.seal(reader.tenant_id)
    answer = await asked(reader)
    assert answer.document["pending"] is True
    assert entry_of(answer)["artifact"] is not None
    await evidence.cover(reader.tenant_id)
    assert (await asked(reader)).document["pending"] is False


async def test_a_dead_letter_is_proven_like_a_decision(reader: Sender, evidence: Evidence) -> None:
    await DeadLetters(evidence.pool, "c" * 64).bury([make.letter(reader.tenant_id, "e-1")])
    await evidence.decide(reader.tenant_id, [1])
    await evidence.seal(reader.tenant_id)
    await evidence.cover(reader.tenant_id)
    answer = await asked(reader)
    kinds = [msgspec.json.decode(entry["entry"])["kind"] for entry in answer.document["entries"]]
    assert kinds == ["dead_letter", "decision"]


async def test_altered_evidence_is_never_told(reader: Sender, evidence: Evidence, tmp_path: Path) -> None:
    await evidence.keep(reader.tenant_id, [1])
    (segment,) = (tmp_path / "worm").rglob("*.dsse")
    segment.chmod(0o600)
    segment.write_bytes(segment.read_bytes().replace(b'"verdict":"deny"', b'"verdict":"DENY"'))
    answer = await asked(reader)
    assert (answer.status, answer.code) == (500, Code.EVIDENCE_UNVERIFIED)
    assert b"DENY" not in answer.body
    segment.unlink()
    assert (await asked(reader)).code == Code.EVIDENCE_UNVERIFIED


async def test_a_note_that_no_key_of_the_ring_holds_for_is_never_told(reader: Sender, evidence: Evidence) -> None:
    await evidence.keep(reader.tenant_id, [1])
    assert (await asked(reader)).status == 200
    async with evidence.pool.tenant_transaction([reader.tenant_id]) as connection:
        await connection.execute(
            "UPDATE chain_checkpoints AS c SET cosignature = 'x' FROM chain_frontiers AS f "
            "WHERE f.tenant_id = $1 AND (c.partition, c.checkpoint_seq) = (f.partition, f.round)",
            reader.tenant_id,
        )
    answer = await asked(reader)
    assert (answer.status, answer.code) == (500, Code.EVIDENCE_UNVERIFIED)


async def test_foreign_unknown_and_impossible_ids_are_answered_alike(
    reader: Sender, other_sender: Sender, evidence: Evidence
) -> None:
    await evidence.keep(other_sender.tenant_id, [1])
    answers = [await asked(reader, event_id) for event_id in ("e-1", "never-seen", "%00", "a%2Fb")]
    assert {answer.status for answer in answers} == {404}
    assert {answer.code for answer in answers} == {Code.NOT_FOUND}


async def test_a_key_of_an_agent_sees_that_agents_events_alone(
    reader: Sender, evidence: Evidence, operator_pool: Pool
) -> None:
    await evidence.keep(reader.tenant_id, [1])
    for agent_id, status in (("agent-1", 200), ("agent-2", 404)):
        key = await ApiKeys(operator_pool).issue(reader.tenant_id, agent_id, [Scope.EVIDENCE_READ])
        client = Client(reader.client.port, key.secret)
        assert (await client.ask("GET", "/v1/evidence/e-1")).status == status


async def test_it_takes_the_scope_for_evidence(reader: Sender, operator_pool: Pool) -> None:
    key = await ApiKeys(operator_pool).issue(reader.tenant_id, None, [Scope.EVENTS_READ])
    assert (await Client(reader.client.port, key.secret).ask("GET", "/v1/evidence/e-1")).code == Code.SCOPE_DENIED


async def test_an_edge_without_a_store_of_evidence_serves_and_says_so(
    sender: Sender, run_edge: RunEdge, evidence: Evidence, tmp_path: Path
) -> None:
    await evidence.keep(sender.tenant_id, [1])
    settings = dataclasses.replace(
        load({}).evidence,
        worm_dir=tmp_path / "not-mounted",
        keyring_file=tmp_path / "keyring.json",
        checkpoint_secret_file=tmp_path / "secret",
    )
    async with run_edge(more={"evidence": settings}) as edge:
        here = sender.at(edge)
        assert (await asked(here)).code == Code.STORE_UNAVAILABLE
        assert (await here.client.ingest(here.body())).status == 202
        (tmp_path / "worm").rename(tmp_path / "not-mounted")
        assert (await asked(here)).status == 200
