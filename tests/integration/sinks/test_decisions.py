"""What became of events, read by the edge's role."""

from typing import Any

import msgspec
import pytest

from schemas.answers import NoAnswer
from sinks import attest
from sinks.dead_letters import DeadLetters
from sinks.decisions import Decisions
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.integration.sinks import make


async def test_a_decided_event_has_its_decision_and_its_place_in_the_chain(
    worker: Pool, edge: Pool, superuser: Any, tenant: str
) -> None:
    await DecisionLedger(worker).record([make.record(tenant, "e0"), make.record(tenant, "e1")])
    found = await Decisions(edge).decided([(tenant, "e1")])
    chain_hash = await superuser.fetchval(
        "SELECT chain_hash FROM chain_entries WHERE tenant_id = $1 AND seq = 2", tenant
    )
    assert {identity: msgspec.json.decode(document) for identity, document in found.items()} == {
        (tenant, "e1"): {
            "status": "decided",
            "tenant_id": tenant,
            "event_id": "e1",
            "trace_id": make.TRACE_ID,
            "verdict": "deny",
            "policy_code": "POLICY_DENY",
            "policy_reasons": ['say "no"', "back\\slash, comma", "é"],
            "score": 12,
            "decided_at": make.DECIDED_AT,
            "chain_seq": 2,
            "chain_hash": chain_hash,
        }
    }


async def test_a_dead_event_has_the_reason_it_ended_for(worker: Pool, edge: Pool, tenant: str) -> None:
    letters = DeadLetters(worker, make.SHA_A)
    await letters.bury([make.letter(tenant, "e1", 9, reason="poison")])
    await letters.bury([make.letter(tenant, "e1", 10, reason="retry_budget_exhausted")])
    found = await Decisions(edge).decided([(tenant, "e1")])
    assert [msgspec.json.decode(document) for document in found.values()] == [
        {
            "status": "dead",
            "tenant_id": tenant,
            "event_id": "e1",
            "trace_id": make.TRACE_ID,
            "reason_code": "poison",
        }
    ]


async def test_a_letter_about_another_message_does_not_make_the_event_dead(
    worker: Pool, edge: Pool, tenant: str
) -> None:
    await EventKeys(worker).claim([make.claim(tenant, "e1", 5)])
    await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e1", reason="event_id_conflict")])
    assert await Decisions(edge).decided([(tenant, "e1")]) == {}


async def test_a_decided_event_is_decided_whatever_letters_there_are(worker: Pool, edge: Pool, tenant: str) -> None:
    await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e1", reason="poison")])
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    (document,) = (await Decisions(edge).decided([(tenant, "e1")])).values()
    assert msgspec.json.decode(document)["status"] == "decided"


async def test_events_of_several_tenants_are_found_together_and_each_under_its_own(
    worker: Pool, edge: Pool, tenant: str
) -> None:
    other = make.tenant_id()
    await DecisionLedger(worker).record([make.record(tenant, "e1"), make.record(other, "e2")])
    decisions = Decisions(edge)
    asked = [(tenant, "e1"), (tenant, "e2"), (other, "e1"), (other, "e2"), (make.tenant_id(), "e1")]
    assert set(await decisions.decided(asked)) == {(tenant, "e1"), (other, "e2")}
    assert set(await decisions.decided(asked)) == {(tenant, "e1"), (other, "e2")}


async def test_the_look_up_leaves_no_way_around_row_level_security(edge: Pool) -> None:
    assert await attest.findings(edge) == []


async def test_an_override_is_bound_into_the_entry_of_its_event_alone(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    bound = msgspec.structs.replace(make.record(tenant, "e2"), break_glass="override-1")
    await DecisionLedger(worker).record([make.record(tenant, "e1"), bound])
    buried = make.letter(tenant, "e3")
    letter = msgspec.structs.replace(buried.letter, break_glass="override-1")
    await DeadLetters(worker, make.SHA_A).bury([buried._replace(letter=letter)])
    rows = await superuser.fetch(
        "SELECT entry::jsonb ->> 'break_glass' AS id FROM chain_entries WHERE tenant_id = $1 ORDER BY seq", tenant
    )
    assert [row["id"] for row in rows] == [None, "override-1", "override-1"]


async def test_a_database_that_is_away_is_no_answer(edge: Pool, tenant: str) -> None:
    await edge.close()
    with pytest.raises(NoAnswer):
        await Decisions(edge).decided([(tenant, "e1")])
