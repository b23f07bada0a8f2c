"""Behind the edge: the figures of the pipeline, and the percentiles read from its own histograms."""

import pytest

from ops.bench.exposition import buckets, p95
from ops.bench.figures import pipeline_figures
from ops.bench.table import table
from tests.unit.ops.bench.making import backlog, frostgate, pipeline, report

TEXT = """
# HELP frostgate_db_write_latency_ms x
frostgate_db_write_latency_ms_bucket{table="decisions",operation="insert",le="5.0"} 90
frostgate_db_write_latency_ms_bucket{table="decisions",operation="insert",le="10.0"} 96 # {trace_id="x"} 1
frostgate_db_write_latency_ms_bucket{table="decisions",operation="insert",le="+Inf"} 100
frostgate_db_write_latency_ms_bucket{table="event_keys",operation="insert",le="5.0"} 100
frostgate_db_write_latency_ms_bucket{table="event_keys",operation="insert",le="10.0"} 100
frostgate_db_write_latency_ms_bucket{table="event_keys",operation="insert",le="+Inf"} 100
frostgate_db_write_latency_ms_count{table="event_keys",operation="insert"} 100
"""


def test_a_percentile_is_of_what_came_between_the_two_looks() -> None:
    name = "frostgate_db_write_latency_ms"
    everything = buckets(TEXT, name, {})
    assert p95({}, everything) == 5.0
    assert p95({}, buckets(TEXT, name, {"table": "decisions"})) == 10.0
    assert p95(buckets(TEXT, name, {"table": "event_keys"}), everything) == 10.0
    assert p95(everything, everything) is None
    assert buckets(TEXT, "another", {}) == {}


@pytest.mark.parametrize(("per_s", "decision_ms", "write_ms", "met"), [(4_000, 5, 15, True), (3_999, 6, 16, False)])
def test_the_pipeline_is_held_to_its_bounds(per_s: float, decision_ms: float, write_ms: float, met: bool) -> None:
    found = pipeline_figures(None, pipeline(per_s, decision_ms, write_ms), None)
    assert [figure.met for figure in found] == [met] * 3


@pytest.mark.parametrize(("p95_ms", "worker_mib", "met"), [(2.2, 200, True), (2.3, 201, False)])
def test_a_backlog_may_change_neither_latency_nor_memory(p95_ms: float, worker_mib: float, met: bool) -> None:
    assert [figure.met for figure in pipeline_figures(None, None, backlog(p95_ms, worker_mib))] == [met] * 2


def test_the_table_tells_what_each_stage_costs() -> None:
    lines = table(report(frostgate(), pipeline=pipeline())).splitlines()
    assert any(line.split() == ["dedupe", "7,000", "70", "60", "30"] for line in lines)
    assert any("drain, 50 tenants" in line and "NOT MET" in line for line in lines)


@pytest.mark.parametrize(("got_in", "note"), [(1_000.0, ""), (950.0, ""), (450.0, "450/s got in")])
def test_a_rate_that_was_not_reached_is_said_beside_what_was_measured_at_it(got_in: float, note: str) -> None:
    found = pipeline_figures(None, pipeline(got_in=got_in), None)
    assert [figure.note for figure in found if "1,000/s" in figure.name] == [note, note]
