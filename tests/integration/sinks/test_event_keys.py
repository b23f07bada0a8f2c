"""Claiming events: one message is the first of its event, whoever asks and however often."""

import asyncio
from typing import Any

import pytest

from schemas.answers import Refusal
from schemas.codes import DeadReason
from schemas.envelope import receipt
from schemas.rows import ClaimOutcome
from sinks.event_keys import EventKeys
from sinks.pg import Pool
from tests.integration.sinks import make

CLAIMED, RESUMED = ClaimOutcome.CLAIMED, ClaimOutcome.RESUMED
DUPLICATE, CONFLICT = ClaimOutcome.DUPLICATE, ClaimOutcome.CONFLICT


async def test_the_first_message_of_an_event_claims_it_and_every_other_learns_what_it_is(
    worker: Pool, tenant: str
) -> None:
    keys = EventKeys(worker)
    first = make.claim(tenant, "e1", 5)
    assert await keys.claim([first]) == [CLAIMED]
    others = [first, make.claim(tenant, "e1", 6), make.claim(tenant, "e1", 7, sha=make.SHA_B)]
    assert await keys.claim(others) == [RESUMED, DUPLICATE, CONFLICT]


async def test_within_one_batch_the_earliest_message_is_the_first(worker: Pool, tenant: str) -> None:
    batch = [
        make.claim(tenant, "e1", 6),
        make.claim(tenant, "e1", 5),
        make.claim(tenant, "e1", 5),
        make.claim(tenant, "e1", 7, sha=make.SHA_B),
        make.claim(tenant, "e2", 8),
    ]
    assert await EventKeys(worker).claim(batch) == [DUPLICATE, CLAIMED, RESUMED, CONFLICT, CLAIMED]


async def test_the_same_event_id_in_another_tenant_is_another_event(worker: Pool, tenant: str) -> None:
    another = make.tenant_id()
    batch = [make.claim(tenant, "e1", 1), make.claim(another, "e1", 2, sha=make.SHA_B)]
    assert await EventKeys(worker).claim(batch) == [CLAIMED, CLAIMED]


async def test_claimers_at_once_agree_on_one_first_message(worker: Pool, superuser: Any) -> None:
    tenants = [make.tenant_id() for _ in range(3)]
    events = [(tenant, f"e{number}") for tenant in tenants for number in range(20)]
    keys = EventKeys(worker)

    def batch(seq: int) -> list[Any]:
        ordered = events if seq % 2 else events[::-1]
        return [make.claim(tenant, event, seq) for tenant, event in ordered]

    answers = await asyncio.gather(*(keys.claim(batch(seq)) for seq in range(1, 9)))
    outcomes = [outcome for answer in answers for outcome in answer]
    assert outcomes.count(CLAIMED) == len(events)
    assert outcomes.count(DUPLICATE) == 7 * len(events)
    counted = "SELECT count(*) FROM ingest_events WHERE tenant_id = ANY ($1::text[])"
    assert await superuser.fetchval(counted, tenants) == len(events)


async def test_the_body_of_the_first_message_is_kept_as_it_was_sent(worker: Pool, superuser: Any, tenant: str) -> None:
    body = '{ "name" : "\\u00e9 é", "n": 1.0 }'.encode()
    await EventKeys(worker).claim([make.claim(tenant, "e1", 1, body=body), make.claim(tenant, "e1", 2, body=b"{}")])
    rows = await superuser.fetch("SELECT body, body_bytes FROM ingest_events WHERE tenant_id = $1", tenant)
    assert [tuple(row) for row in rows] == [(body, len(body))]


@pytest.mark.parametrize(
    "ingest_ts", ["2020-02-29T23:59:59.999Z", "2020-03-01T00:00:00.000Z", "2024-12-31T12:00:00.001Z"]
)
async def test_a_backlog_of_any_day_finds_its_partition(
    worker: Pool, superuser: Any, tenant: str, ingest_ts: str
) -> None:
    claims = [make.claim(tenant, f"e{number}", number, ingest_ts=ingest_ts) for number in range(4)]
    answers = await asyncio.gather(*(EventKeys(worker).claim([claim]) for claim in claims))
    assert answers == [[CLAIMED]] * 4
    partitions = "SELECT DISTINCT tableoid::regclass::text FROM ingest_events WHERE tenant_id = $1"
    assert await superuser.fetchval(partitions, tenant) == f"ingest_events_{ingest_ts[:10].replace('-', '')}"


async def test_the_stored_key_makes_the_first_receipt_byte_for_byte(worker: Pool, edge: Pool, tenant: str) -> None:
    claim = make.claim(tenant, "e1", 2**40)
    await EventKeys(worker).claim([claim])
    stored = await EventKeys(edge).stored([(tenant, "e1"), (tenant, "e2")])
    assert stored == {(tenant, "e1"): claim.key}
    assert receipt(stored[tenant, "e1"]) == receipt(claim.key)


async def test_a_key_of_another_tenant_is_not_stored_for_this_one(worker: Pool, edge: Pool, tenant: str) -> None:
    await EventKeys(worker).claim([make.claim(tenant, "e1", 1)])
    assert await EventKeys(edge).stored([(make.tenant_id(), "e1")]) == {}


async def test_one_look_up_serves_several_tenants_and_gives_each_its_own(worker: Pool, edge: Pool, tenant: str) -> None:
    other = make.tenant_id()
    mine, theirs = make.claim(tenant, "e1", 1), make.claim(other, "e1", 2)
    await EventKeys(worker).claim([mine])
    await EventKeys(worker).claim([theirs])
    stored = await EventKeys(edge).stored([(tenant, "e1"), (other, "e1"), (other, "e2")])
    assert stored == {(tenant, "e1"): mine.key, (other, "e1"): theirs.key}


async def test_a_claim_that_can_never_be_stored_is_refused_with_its_whole_batch(
    worker: Pool, edge: Pool, tenant: str
) -> None:
    batch = [make.claim(tenant, "e1", 1), make.claim(tenant, "e\x00", 2)]
    with pytest.raises(Refusal) as refused:
        await EventKeys(worker).claim(batch)
    assert refused.value.reason is DeadReason.STORE_REFUSED
    assert refused.value.__cause__ is None
    assert await EventKeys(edge).stored([(tenant, "e1")]) == {}
