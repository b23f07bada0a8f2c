"""Limits come from the tenant, its tier or the base, in this order, and never from nowhere."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from edge.admission import Standing
from edge.limits import TENANTS_MAX, TENANTS_PER_READ_MAX, LimitsView, limits_in_force
from edge.limits_document import Rule, document, next_refusal
from edge.ports import Admission, Budget, Depth, TenantLimits
from edge.settings import EdgeSettings, QueueSettings, RateSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.limits import NO_QUOTA, OwnLimits, TenantUse
from schemas.principal import Principal
from schemas.units import UnixMs

RATES = RateSettings(
    rps_base=20,
    rps_burst=120,
    rps_by_tier=(("enterprise", 120), ("free", 10)),
    events_per_month_by_tier=(("free", 3_000_000),),
    latency_p95_ms_hard=200,
)
KEPT_MS = 900_000
QUEUES = QueueSettings(depth_warn=50, depth_shed=80, depth_hardstop=120, key_template="")


class Clock:
    def __init__(self) -> None:
        self.at_ms = UnixMs(1_767_225_600_000)

    def now_ms(self) -> UnixMs:
        return self.at_ms

    def advance(self, by_ms: int) -> None:
        self.at_ms = UnixMs(self.at_ms + by_ms)


class Table:
    """Limits in memory; remembers who was asked about."""

    def __init__(self) -> None:
        self.own: dict[str, OwnLimits] = {}
        self.used = 0
        self.answers = True
        self.hangs = False
        self.asked: list[list[str]] = []

    async def read(self, tenant_ids: Sequence[str]) -> Mapping[str, TenantUse]:
        self.asked.append(list(tenant_ids))
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if not self.answers:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return {one: TenantUse(self.own.get(one), self.used) for one in tenant_ids}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def view(table: Table, clock: Clock) -> LimitsView:
    return LimitsView(table, RATES, KEPT_MS, clock)


@pytest.mark.parametrize(
    ("use", "plan_tier", "limits"),
    [
        (TenantUse(OwnLimits(5, 7, 9), 3), "free", TenantLimits(5, 7, "tenant", 9, 3)),
        (TenantUse(OwnLimits(5, 7, None), 3), "free", TenantLimits(5, 7, "tenant", 3_000_000, 3)),
        (TenantUse(OwnLimits(5, 7, NO_QUOTA), 3), "free", TenantLimits(5, 7, "tenant", None, 3)),
        (TenantUse(None, 3), "free", TenantLimits(10, 120, "tier", 3_000_000, 3)),
        (TenantUse(None, 3), "enterprise", TenantLimits(120, 120, "tier", None, 3)),
        (TenantUse(None, 3), "unheard-of", TenantLimits(20, 120, "base", None, 3)),
    ],
)
def test_the_order_is_tenant_tier_base(use: TenantUse, plan_tier: str, limits: TenantLimits) -> None:
    assert limits_in_force(use, plan_tier, RATES) == limits


async def test_all_who_ask_about_a_new_tenant_at_once_share_one_read(view: LimitsView, table: Table) -> None:
    found = await asyncio.gather(*(view.of("acme", "free") for _ in range(20)))
    assert {one.rule for one in found} == {"tier"}
    assert table.asked == [["acme"]]


async def test_tenants_in_use_are_read_again_together_and_others_when_they_come_back(
    view: LimitsView, table: Table, clock: Clock
) -> None:
    for tenant_id in ("a", "b", "idle"):
        await view.of(tenant_id, "free")
    clock.advance(1_600)
    await asyncio.gather(view.of("a", "free"), view.of("b", "free"))
    table.asked.clear()
    table.own["a"] = OwnLimits(7, 7, None)
    await view.refresh()
    assert table.asked == [["a", "b"]]
    assert (await view.of("a", "free")).rps == 7
    table.own["idle"] = OwnLimits(8, 8, None)
    assert (await view.of("idle", "free")).rps == 8


async def test_with_postgres_away_the_last_known_limits_and_use_hold_however_long_the_tenant_was_silent(
    view: LimitsView, table: Table, clock: Clock
) -> None:
    table.own["known"], table.used = OwnLimits(1, 1, 5), 5
    clamped = await view.of("known", "free")
    table.answers = False
    for _ in range(KEPT_MS // 60_000):
        clock.advance(60_000)
        await view.refresh()
    assert await view.of("known", "free") == clamped == TenantLimits(1, 1, "tenant", 5, 5)
    asked = len(table.asked)
    await view.of("known", "free")
    assert len(table.asked) == asked, "a database that is away is not asked by every request"


@pytest.mark.parametrize("fault", ["answers", "hangs"])
async def test_of_a_tenant_never_read_nothing_is_known_until_postgres_answers(
    view: LimitsView, table: Table, clock: Clock, fault: str
) -> None:
    table.own["new"] = OwnLimits(1, 1, 5)
    await view.of("known", "free")
    clock.advance(2_000)
    setattr(table, fault, fault == "hangs")
    known, new = await asyncio.gather(view.of("known", "free"), view.of("new", "free"), return_exceptions=True)
    assert isinstance(known, TenantLimits)
    assert isinstance(new, NoAnswer)
    assert new.code is Code.STORE_UNAVAILABLE
    setattr(table, fault, fault != "hangs")
    assert (await view.of("new", "free")).rps == 1


async def test_a_tenant_unseen_for_long_is_forgotten_and_their_number_is_bounded(
    view: LimitsView, table: Table, clock: Clock
) -> None:
    await view.of("seen-once", "free")
    clock.advance(KEPT_MS + 1)
    await view.refresh()
    assert not view._entries
    await asyncio.gather(*(view.of(f"t{number}", "free") for number in range(TENANTS_MAX)))
    clock.advance(1_600)
    await view.of("t0", "free")
    await asyncio.gather(*(view.of(f"more-{number}", "free") for number in range(10)))
    assert len(view._entries) == TENANTS_MAX
    assert "t0" in view._entries, "in use"
    assert max(map(len, table.asked)) == TENANTS_PER_READ_MAX
    table.answers = False
    with pytest.raises(NoAnswer):
        await asyncio.gather(*(view.of(f"unknown-{number}", "free") for number in range(10)))
    assert "unknown-0" not in view._entries
    assert "t0" in view._entries


def standing(remaining: int, quota: int | None = None, used: int = 0) -> Standing:
    limits = TenantLimits(40, 120, "tier", quota, used)
    return Standing(limits, Budget(10.0, 120), Admission([], [], [], remaining, 0))


@pytest.mark.parametrize(
    ("standing", "depth", "rule"),
    [
        (standing(30), Depth(0, 0.0), "rate"),
        (standing(81), Depth(0, 0.0), "depth"),
        (standing(30), Depth(79, 0.0), "depth"),
        (standing(30), None, "depth"),
        (standing(0), None, "rate"),
        (standing(30, quota=100, used=99), Depth(0, 0.0), "quota"),
        (standing(30, quota=100, used=200), Depth(79, 0.0), "quota"),
    ],
)
def test_the_next_refusal_is_the_rule_with_the_fewest_events_left(
    standing: Standing, depth: Depth | None, rule: Rule
) -> None:
    assert next_refusal(standing, depth, QUEUES) == rule


def test_the_document_says_what_may_be_used_now() -> None:
    sender = Principal("k", "acme", None, frozenset(), "pro")
    settings = EdgeSettings(integrity_required=False, event_age_ms_max=1)
    limits = document(sender, standing(30, quota=100, used=7), Depth(60, 1.5), settings, QUEUES)
    assert (limits.rps, limits.burst, limits.rule, limits.throttle_factor) == (40, 120, "tier", 0.25)
    assert (limits.effective_rps, limits.remaining, limits.retry_after_ms) == (10.0, 30, 0)
    assert (limits.quota.events_max, limits.quota.events_used) == (100, 7)
    assert (limits.depth.messages, limits.depth.shed, limits.next_refusal) == (60, 80, "depth")
