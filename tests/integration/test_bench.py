"""A small run of the bench against a whole stack: every figure is there, and every event is accounted for."""

import os
import subprocess
import sys
from typing import NamedTuple

import msgspec
import pytest

from ops.bench.references import framework_installed
from ops.bench.report import Edge, Report

BACKLOG = 300


class Ran(NamedTuple):
    report: Report
    table: str
    left: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    scratch = tmp_path_factory.mktemp("bench")
    temporary = scratch / "tmp"
    temporary.mkdir()
    json_file = scratch / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-c", "from frostgate import main; main()", "bench"),
            *("--seconds", "0.3", "--backlog", str(BACKLOG), "--json", json_file),
        ],
        env={**os.environ, "TMPDIR": str(temporary), "FG_ENV": "prod"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = [path.name for path in temporary.iterdir()]
    return Ran(msgspec.json.decode(json_file.read_bytes(), type=Report), done.stdout, left)


def test_every_load_was_measured(ran: Ran) -> None:
    ours, bare = ran.report.frostgate, ran.report.bare
    for edge in (ours.single, ours.steady, ours.batch, bare.single, bare.batch):
        assert edge is not None
        _assert_measured(edge)
    assert ours.drain.events == BACKLOG
    assert ours.drain.events_per_s > 0
    assert min(ours.edge_mib, ours.worker_mib, ours.start_s) > 0
    assert ran.report.ratios.batch_to_bare


def _assert_measured(edge: Edge) -> None:
    assert edge.outcomes["202"] > 0
    assert 0 < edge.p50_ms <= edge.p95_ms <= edge.p99_ms <= edge.max_ms
    assert min(edge.events_per_s, edge.generator_us_per_request) > 0


def test_every_accepted_event_was_decided(ran: Ran) -> None:
    accounts = ran.report.frostgate.accounts
    assert accounts.accepted > BACKLOG
    assert accounts.balanced()
    assert accounts.dead == 0


def test_the_framework_reference_is_measured_or_its_absence_is_said(ran: Ran) -> None:
    framework = ran.report.framework
    if framework_installed():
        assert framework.single is not None
        _assert_measured(framework.single)
        assert ran.report.ratios.single_to_framework
    else:
        assert "make bench" in framework.not_measured
        assert "make bench" in ran.table
        assert ran.report.ratios.single_to_framework is None


def test_the_table_says_what_was_measured(ran: Ran) -> None:
    assert f"drain of {BACKLOG} events of 50 tenants" in ran.table
    assert "bare limit, batches of 100" in ran.table


def test_nothing_is_left_behind(ran: Ran) -> None:
    assert ran.left == []
