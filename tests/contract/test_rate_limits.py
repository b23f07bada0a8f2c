"""Each tenant has its own rate and quota; who used them up is told when to come back, and nobody else notices."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from edge.settings import RateSettings
from ops.clock import SystemClock
from schemas.limits import NO_QUOTA
from schemas.units import format_rfc3339
from sinks import meters
from sinks.limits import RuntimeLimits
from sinks.pg import Pool
from tests.contract.conftest import RunEdge, Sender

RATES = RateSettings(
    rps_base=20,
    rps_burst=30,
    rps_by_tier=(("pro", 25),),
    events_per_month_by_tier=(),
    latency_p95_ms_hard=60_000,
)
Told = Callable[[Any], bool]


async def set_limits(pool: Pool, sender: Sender, rps: int, burst: int, quota: int | None = None) -> None:
    await RuntimeLimits(pool).set(
        sender.tenant_id, rps=rps, burst=burst, events_per_month_max=quota, updated_by="a test"
    )


async def limits_of(sender: Sender) -> Any:
    answer = await sender.client.ask("GET", "/v1/limits")
    assert answer.status == 200
    return answer.document


async def until_told(sender: Sender, told: Told) -> Any:
    """The limits once the edge tells them so."""
    async with asyncio.timeout(20):
        while not told(limits := await limits_of(sender)):  # noqa: ASYNC110  (edges have their own pace)
            await asyncio.sleep(0.05)
    return limits


def bodies(sender: Sender, count: int) -> list[bytes]:
    return [sender.body(event_id=f"evt-{number}") for number in range(count)]


async def test_a_change_of_limits_is_live_on_every_edge_without_a_restart(
    sender: Sender, run_edge: RunEdge, operator_pool: Pool
) -> None:
    async with run_edge() as one, run_edge() as other:
        edges = [sender.at(one), sender.at(other)]
        for here in edges:
            assert (await limits_of(here))["rule"] == "base"
        await set_limits(operator_pool, sender, 7, 11, 500)
        for here in edges:
            limits = await until_told(here, lambda limits: limits["rps"] == 7)
            assert (limits["burst"], limits["rule"], limits["quota"]["events_max"]) == (11, "tenant", 500)
        await RuntimeLimits(operator_pool).clear(sender.tenant_id, "a test")
        for here in edges:
            await until_told(here, lambda limits: limits["rule"] == "base")


async def test_without_a_row_the_tier_rules_and_without_a_tier_the_base(sender: Sender, run_edge: RunEdge) -> None:
    async with run_edge(rates=RATES) as edge:
        limits = await limits_of(sender.at(edge))
        assert (limits["rps"], limits["burst"], limits["rule"]) == (25, 30, "tier")
        assert (limits["remaining"], limits["retry_after_ms"], limits["throttle_factor"]) == (30, 0, 1.0)
    async with run_edge(rates=dataclasses.replace(RATES, rps_by_tier=(("free", 10),))) as edge:
        limits = await limits_of(sender.at(edge))
        assert (limits["rps"], limits["rule"]) == (20, "base")


async def test_asking_for_the_limits_uses_none_of_them(sender: Sender, run_edge: RunEdge, operator_pool: Pool) -> None:
    await set_limits(operator_pool, sender, 1, 3)
    async with run_edge() as edge:
        for _ in range(5):
            assert (await limits_of(sender.at(edge)))["remaining"] == 3


async def test_a_batch_is_admitted_line_by_line_up_to_the_burst(
    sender: Sender, other_sender: Sender, run_edge: RunEdge, operator_pool: Pool
) -> None:
    await set_limits(operator_pool, sender, 1, 3)
    async with run_edge() as edge:
        here = sender.at(edge)
        lines = (await here.client.batch(*bodies(sender, 8))).lines
        statuses = [line["status"] for line in lines]
        assert statuses[:3] == [202] * 3
        assert statuses[3:].count(429) >= 4, "the clock may have brought one more"
        refused = next(line for line in lines if line["status"] == 429)
        assert refused["error_code"] == "RATE_LIMITED"
        assert 1 <= refused["retry_after_ms"] <= 1_000
        assert (await other_sender.at(edge).client.ingest(other_sender.body())).status == 202


async def test_who_used_up_its_rate_is_told_when_to_come_back(
    sender: Sender, run_edge: RunEdge, operator_pool: Pool
) -> None:
    await set_limits(operator_pool, sender, 1, 1)
    async with run_edge() as edge:
        here = sender.at(edge)
        answers = [await here.client.ingest(body) for body in bodies(sender, 3)]
        assert answers[0].status == 202
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.code == "RATE_LIMITED"
        assert refused.headers["retry-after"] == "1"
        limits = await limits_of(here)
        assert limits["next_refusal"] == "rate"


async def test_two_edges_share_one_budget(sender: Sender, run_edge: RunEdge, operator_pool: Pool) -> None:
    await set_limits(operator_pool, sender, 1, 5)
    async with run_edge() as one, run_edge() as other:
        edges = [sender.at(one), sender.at(other)]
        begun = asyncio.get_running_loop().time()
        answers = await asyncio.gather(
            *(edges[number % 2].client.ingest(body) for number, body in enumerate(bodies(sender, 20)))
        )
        took_s = asyncio.get_running_loop().time() - begun
        accepted = [answer.status for answer in answers].count(202)
        assert 5 <= accepted <= 5 + 1 * took_s + 1


async def use(pool: Pool, sender: Sender, events: int) -> None:
    """Have so many events decided today, as the ledger counts them."""
    today = format_rfc3339(SystemClock().now_ms())[:10]
    async with pool.tenant_transaction([sender.tenant_id]) as connection:
        amounts = Counter({meters.TenantDay(sender.tenant_id, today): events})
        await meters.add(connection, meters.MeterName.INGEST_EVENTS, amounts)


@pytest.mark.parametrize("used", [500, 501])
async def test_a_used_up_quota_refuses_until_the_next_month(
    sender: Sender, run_edge: RunEdge, operator_pool: Pool, worker_pool: Pool, used: int
) -> None:
    await set_limits(operator_pool, sender, 1_000, 1_000, 500)
    await use(worker_pool, sender, used)
    async with run_edge() as edge:
        here = sender.at(edge)
        answer = await here.client.ingest(sender.body())
        assert (answer.status, answer.code) == (429, "QUOTA_EXCEEDED")
        assert 0 < answer.document["retry_after_ms"] <= 31 * 86_400_000
        limits = await limits_of(here)
        assert limits["quota"] == {"events_max": 500, "events_used": used}
        assert limits["next_refusal"] == "quota"
        await set_limits(operator_pool, sender, 1_000, 1_000, NO_QUOTA)
        await until_told(here, lambda limits: limits["quota"]["events_max"] is None)
        assert (await here.client.ingest(sender.body())).status == 202


async def test_the_tiers_quota_binds_a_tenant_without_a_row(
    sender: Sender, run_edge: RunEdge, worker_pool: Pool
) -> None:
    await use(worker_pool, sender, 9)
    async with run_edge(rates=dataclasses.replace(RATES, events_per_month_by_tier=(("pro", 9),))) as edge:
        answer = await sender.at(edge).client.ingest(sender.body())
        assert (answer.status, answer.code) == (429, "QUOTA_EXCEEDED")
