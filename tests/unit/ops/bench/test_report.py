"""The report hides nothing: refusals, unknown ends, missed targets and missing references are all said."""

import pytest

from ops.bench.load import percentile
from ops.bench.report import Accounts, Reference, Workers, edge_figures
from ops.bench.table import table
from tests.unit.ops.bench.making import ACCOUNTS, RESULT, checks, connections, edge, frostgate, report


def test_cpu_is_counted_per_accepted_event() -> None:
    figures = edge_figures(RESULT, nats_cpu_us=4_000)
    assert figures.edge_cpu_us == pytest.approx(100.0)
    assert figures.nats_cpu_us == pytest.approx(50.0)


def _line_of(said: str, beginning: str) -> str:
    return next(line for line in said.splitlines() if line.startswith(beginning))


def test_every_answer_that_is_not_an_acceptance_is_said() -> None:
    ours = frostgate(single=edge_figures(RESULT, 0))
    answer = "503 INGEST_BACKPRESSURE_HARDSTOP"
    assert f"single events, worker draining: 20 events answered {answer}" in table(report(ours)).splitlines()


def test_a_reference_that_is_not_installed_is_said_with_its_remedy() -> None:
    said = table(report(frostgate(), framework=Reference(not_measured="run make bench")))
    assert "not measured: run make bench" in said


def test_a_missed_target_is_said_as_clearly_as_one_that_is_met() -> None:
    lines = table(report(held=connections(idle_mib=121.0))).splitlines()
    assert any(line.endswith("<= 120  NOT MET") for line in lines)
    assert any(line.endswith("<= 1.20  met") for line in lines)


def test_what_each_check_costs_is_a_table() -> None:
    said = table(report(bare=Reference(single=edge(edge_cpu_us=80 * 95.0)), checked=checks()))
    costs = [line.split() for line in said.splitlines() if line.startswith("  + ")]
    assert [(words[1], *words[-2:]) for words in costs] == [
        ("contract", "31", "126"),
        ("limits:", "42", "168"),
        ("signature:", "153", "321"),
        ("mTLS,", "24", "345"),
    ]
    assert _line_of(said, "  a whole edge: plain HTTP").endswith(" 365")


def test_scaling_that_the_machine_cannot_show_is_said() -> None:
    said = table(report(workers=Workers(one=edge(), two=edge(), generator_apart=False)))
    assert "this machine cannot show how they scale" in said


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
    found = report(accounts=accounts)
    assert found.balanced() is balanced
    assert ("NOT BALANCED" in table(found)) is not balanced


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([7.0], 50) == 7.0
    assert percentile([], 99) == 0.0
