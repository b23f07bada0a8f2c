"""A message no stage can read ends as one dead letter: a row, a chain entry, an artifact. Its neighbours pass."""

import asyncio

import nats

from schemas.subjects import lane
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until


async def _publish(url: str, subject: str, data: bytes) -> None:
    client = await nats.connect(url)
    try:
        await client.jetstream().publish(subject, data, headers={"Nats-Msg-Id": f"{subject}/poison"})
    finally:
        await client.close()


def test_a_message_that_cannot_be_read_is_buried_once_with_evidence(tenant: Tenant) -> None:
    asyncio.run(_publish(tenant.stack.nats_url, lane(tenant.tenant_id).ingest, b"\x00 not an event"))
    letters = "SELECT reason_code, event_id, payload_json::text, retry_count FROM ingest_dlq WHERE tenant_id = $1"
    until("the letter is buried", lambda: len(tenant.rows(letters)) == 1)
    ((reason, event_id, payload, _count),) = tenant.rows(letters)
    assert reason == "poison"
    assert event_id.startswith("FG_INGEST_0:")
    assert "message_base64" in payload
    assert [row[0] for row in tenant.rows("SELECT kind FROM chain_entries WHERE tenant_id = $1")] == ["dead_letter"]
    artifacts = "SELECT artifact_class FROM decision_evidence_artifacts WHERE tenant_id = $1"
    until("its evidence is sealed", lambda: [row[0] for row in tenant.rows(artifacts)] == ["dead_letter"])
    why = tenant.shell.run("why", event_id, "--json")
    assert why.status == 0
    assert why.document["outcome"] == "dead"


def test_a_message_of_another_tenant_in_this_ones_subject_is_poison(tenant: Tenant) -> None:
    foreign = (
        b'{"tenant_id":"somebody-else","event_id":"e1","trace_id":"t","request_id":"r","agent_id":"a",'
        b'"ingest_ts":"2026-01-01T00:00:00.000Z","span_id":"s","body_sha256":"b","event":{"source":"x"}}'
    )
    asyncio.run(_publish(tenant.stack.nats_url, lane(tenant.tenant_id).ingest, foreign))
    letters = "SELECT reason_code FROM ingest_dlq WHERE tenant_id = $1"
    until("the letter is buried", lambda: [row[0] for row in tenant.rows(letters)] == ["poison"])
