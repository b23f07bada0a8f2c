"""The report hides nothing: refusals, unknown ends and missing references are all said."""

import msgspec
import pytest

from ops.bench.load import Result, percentile
from ops.bench.report import Accounts, Drain, Edge, FrostGate, Reference, Report, edge_figures, ratios, table

RESULT = Result(
    seconds=2.0,
    requests=100,
    accepted=80,
    per_second=40.0,
    p50_ms=1.0,
    p95_ms=2.0,
    p99_ms=3.0,
    max_ms=4.0,
    outcomes={"202": 80, "503 INGEST_BACKPRESSURE_HARDSTOP": 20},
    generator_us_per_request=10.0,
)
ACCOUNTS = Accounts(accepted=80, unknown=0, decided=80, dead=0)


def _frostgate(accounts: Accounts = ACCOUNTS) -> FrostGate:
    edge = edge_figures(RESULT, edge_cpu_us=8_000, nats_cpu_us=4_000)
    drain = Drain(
        events=100, tenants=50, seconds=1.0, events_per_s=100.0, worker_cpu_us=1.0, nats_cpu_us=1.0, postgres_cpu_us=1.0
    )
    return FrostGate(
        start_s=1.0,
        single=edge,
        steady=edge,
        batch=edge,
        drain=drain,
        edge_mib=50.0,
        worker_mib=60.0,
        accounts=accounts,
    )


def _report(frostgate: FrostGate, framework: Reference) -> Report:
    bare = Reference(single=_edge(100.0), batch=_edge(160.0))
    return Report(
        version="0",
        python="3",
        cores=2,
        load_average=0.0,
        seconds_per_load=1.0,
        frostgate=frostgate,
        bare=bare,
        framework=framework,
        ratios=ratios(frostgate, bare, framework),
    )


def _edge(events_per_s: float) -> Edge:
    return edge_figures(msgspec.structs.replace(RESULT, per_second=events_per_s, outcomes={"202": 80}), 0, 0)


def test_ratios_are_of_the_rates_of_the_same_load() -> None:
    report = _report(_frostgate(), Reference(single=_edge(10.0)))
    assert report.ratios.single_to_framework == pytest.approx(4.0)
    assert report.ratios.single_to_bare == pytest.approx(0.4)
    assert report.ratios.batch_to_bare == pytest.approx(0.25)


def test_cpu_is_counted_per_accepted_event() -> None:
    assert edge_figures(RESULT, edge_cpu_us=8_000, nats_cpu_us=4_000).edge_cpu_us == pytest.approx(100.0)
    assert edge_figures(RESULT, edge_cpu_us=8_000, nats_cpu_us=4_000).nats_cpu_us == pytest.approx(50.0)


def test_every_answer_that_is_not_an_acceptance_is_said() -> None:
    assert "FrostGate, single events: 20 events answered 503 INGEST_BACKPRESSURE_HARDSTOP" in table(
        _report(_frostgate(), Reference(single=_edge(10.0)))
    )


def test_a_reference_that_is_not_installed_is_said_with_its_remedy() -> None:
    said = table(_report(_frostgate(), Reference(not_measured="run make bench")))
    assert "not measured: run make bench" in said
    assert "single events over FastAPI + FastStream: not measured" in said


@pytest.mark.parametrize(
    ("accounts", "balanced"),
    [
        (ACCOUNTS, True),
        (Accounts(accepted=80, unknown=5, decided=84, dead=1), True),
        (Accounts(accepted=80, unknown=0, decided=79, dead=0), False),
        (Accounts(accepted=80, unknown=5, decided=86, dead=0), False),
    ],
)
def test_accounts_balance_only_when_each_accepted_event_has_one_end(accounts: Accounts, balanced: bool) -> None:
    assert accounts.balanced() is balanced
    assert ("NOT BALANCED" in table(_report(_frostgate(accounts), Reference()))) is not balanced


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([7.0], 50) == 7.0
    assert percentile([], 99) == 0.0
