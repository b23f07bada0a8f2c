"""Only those who cause the trouble slow down, and they always come back."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.settings import RateSettings
from edge.throttle import FACTOR_MIN, AdaptiveThrottle, Second, causing, p95_of, stepped
from schemas.metrics import Metric

HARD_MS = 200
NOBODY: frozenset[str] = frozenset()
RATES = RateSettings(
    rps_base=20, rps_burst=120, rps_by_tier=(), events_per_month_by_tier=(), latency_p95_ms_hard=HARD_MS
)
tenants = st.sampled_from("abcdef")
seconds = st.builds(
    Second,
    st.dictionaries(tenants, st.integers(1, 10_000)),
    st.one_of(st.none(), st.floats(0, 1_000)),
)
factors = st.dictionaries(tenants, st.floats(FACTOR_MIN, 0.99))


class Gauges:
    """A meter that keeps the last value of each series."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        self.values[(metric.name, *labels)] = value


@pytest.mark.parametrize(
    ("events", "causes"),
    [
        ({"hot": 900, "a": 50, "b": 50}, {"hot"}),
        ({"hot": 95, "a": 5}, {"hot"}),
        ({"a": 60, "b": 40}, set()),
        ({"a": 100, "b": 100, "c": 100}, set()),
        ({"lone": 100}, {"lone"}),
        ({}, set()),
    ],
)
def test_the_cause_is_who_sends_well_above_what_the_others_do(events: Mapping[str, int], causes: set[str]) -> None:
    assert causing(events) == causes


def test_p95_needs_fifty_requests_and_is_one_of_them() -> None:
    assert p95_of([1.0] * 49) is None
    assert p95_of([float(number) for number in range(1, 101)]) == 95.0


def test_a_slow_edge_halves_its_cause_step_by_step_down_to_a_sixteenth() -> None:
    second = Second({"hot": 900, "a": 50, "b": 50}, 201.0)
    found: list[dict[str, float]] = []
    now: dict[str, float] = {}
    for _ in range(6):
        now = stepped(now, second, NOBODY, HARD_MS)
        found.append(now)
    assert [one["hot"] for one in found] == [0.5, 0.25, 0.125, 0.0625, 0.0625, 0.0625]
    assert all(set(one) == {"hot"} for one in found)


def test_at_the_threshold_nobody_slows_down() -> None:
    assert stepped({}, Second({"hot": 900, "a": 1}, 200.0), NOBODY, HARD_MS) == {}
    assert stepped({}, Second({"hot": 900, "a": 1}, None), NOBODY, HARD_MS) == {}


@given(factors, seconds, st.frozensets(tenants))
def test_who_causes_nothing_is_never_slowed(before: dict[str, float], second: Second, skewed: frozenset[str]) -> None:
    after = stepped(before, second, skewed, HARD_MS)
    assert after == stepped(dict(reversed(before.items())), second, skewed, HARD_MS)
    for tenant_id in set("abcdef") - causing(second.events) - skewed:
        assert after.get(tenant_id, 1.0) >= before.get(tenant_id, 1.0)
    assert all(FACTOR_MIN <= factor < 1.0 for factor in after.values())


@given(factors)
def test_calm_seconds_bring_everybody_back_without_a_step_down(before: dict[str, float]) -> None:
    for _ in range(8):
        after = stepped(before, Second({}, None), NOBODY, HARD_MS)
        assert all(after.get(tenant_id, 1.0) > factor for tenant_id, factor in before.items())
        before = after
    assert before == {}


def test_while_the_edge_is_slow_nobody_recovers() -> None:
    assert stepped({"hot": 0.25}, Second({"a": 100, "b": 100}, 300.0), NOBODY, HARD_MS) == {"hot": 0.25}


def test_who_makes_a_partition_deep_is_slowed_alone_on_a_fast_edge() -> None:
    assert stepped({}, Second({"a": 100, "deep": 1}, 5.0), frozenset({"deep"}), HARD_MS) == {"deep": 0.5}


def test_the_edge_publishes_each_factor_and_its_return() -> None:
    gauges, deep = Gauges(), {"now": frozenset({"deep"})}
    throttle = AdaptiveThrottle(RATES, lambda: deep["now"], gauges)
    for _ in range(100):
        throttle.took("hot", 10, 500.0)
        throttle.took("calm", 1, 500.0)
    throttle.step()
    assert (throttle.factor("hot"), throttle.factor("deep"), throttle.factor("calm")) == (0.5, 0.5, 1.0)
    name = "frostgate_tenant_throttle_factor"
    assert gauges.values == {(name, "hot"): 0.5, (name, "deep"): 0.5}
    deep["now"] = NOBODY
    for _ in range(4):
        throttle.step()
    assert gauges.values == {(name, "hot"): 1.0, (name, "deep"): 1.0}
