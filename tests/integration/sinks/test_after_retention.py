"""What is let go takes nothing from what is counted: meters agree with the chain, and every event has its outcome."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.life import Lives, OutcomeCounts
from sinks.meters_audit import MetersAudit
from sinks.retention import Overdue, Retention
from tests.integration.sinks import make
from tests.integration.sinks.kept import RULES, Place, chained_artifacts, days_ago, retention


async def _decided(place: Place, tenant_id: str, *events: str) -> None:
    """Record those events' decisions, twice: as after a lost answer."""
    for _ in range(2):
        await DecisionLedger(place.worker).record([make.record(tenant_id, event) for event in events])


async def _dead(place: Place, tenant_id: str, event: str, age_days: int) -> None:
    """Bury a letter of the event that was last seen so long ago."""
    await DeadLetters(place.worker, make.SHA_A).bury([make.letter(tenant_id, event)])
    await place.eyes.execute(
        "UPDATE ingest_dlq SET last_seen_at = $3::timestamptz WHERE tenant_id = $1 AND event_id = $2",
        tenant_id,
        event,
        datetime.now(UTC) - timedelta(days=age_days),
    )


async def _metered(place: Place) -> list[str]:
    rows = await place.eyes.fetch("SELECT to_jsonb(m)::text FROM usage_meters AS m ORDER BY 1")
    return [row[0] for row in rows]


async def test_the_meters_agree_exactly_after_rows_and_whole_days_have_gone(place: Place) -> None:
    free, pro = await place.tenant("free"), await place.tenant("pro")
    for tenant_id in (free, pro):
        await place.events(tenant_id, 1, 8, 91)
        twice = [make.claim(tenant_id, "e8-0", 2, ingest_ts=days_ago(8)), make.claim(tenant_id, "dead", 3)]
        await EventKeys(place.worker).claim(twice)
        await _decided(place, tenant_id, "e1-0", "e8-0", "e91-0")
        await _dead(place, tenant_id, "dead", 91)
        await ArtifactIndex(place.worker).index(await chained_artifacts(place.eyes, tenant_id))
    billed, audit = await _metered(place), MetersAudit(place.operator)
    assert len(billed) == 2 * 3
    for day in await retention(place).days_over():
        await retention(place).drop(day, [free, pro])
    for tenant_id in (free, pro):
        assert any(await retention(place).take(tenant_id))
        assert await audit.differences(tenant_id) == []
    assert (await place.left(free), await place.left(pro)) == ([1], [1, 8])
    assert await _metered(place) == billed


async def test_every_accepted_event_is_decided_dead_or_in_flight_after_its_key_has_gone(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, 1, 8, copies=2)
    await _decided(place, free, "e1-0", "e8-0")
    await _dead(place, free, "e8-1", 8)
    lives = Lives(place.operator)
    before = await lives.count_by_outcome(free)
    assert (before, before.in_flight) == (OutcomeCounts(accepted=4, decided=2, dead=1), 1)
    assert await retention(place).take(free) == Overdue(2, 2, 1)
    after = await lives.count_by_outcome(free)
    assert (after, after.in_flight) == (OutcomeCounts(accepted=3, decided=2, dead=0), 1)


async def test_an_event_whose_letter_has_gone_before_its_key_stays_dead(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, 8)
    await _dead(place, free, "e8-0", 8)
    keys_for_a_month = replace(RULES, key_age_seconds_min=30 * 86_400)
    assert await Retention(place.operator, keys_for_a_month, "ann").take(free) == Overdue(1, 0, 1)
    counts = await Lives(place.operator).count_by_outcome(free)
    assert (counts, counts.in_flight) == (OutcomeCounts(accepted=1, decided=0, dead=1), 0)
