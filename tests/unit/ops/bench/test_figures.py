"""The figures that are compared: each of the same run, beside what it is held to, met or not."""

import pytest

from ops.bench.figures import TOO_FEW_CORES, figures
from ops.bench.report import Connections, Figure, FrostGate, Reference, Workers
from tests.unit.ops.bench.making import connections, edge, frostgate

NONE = Reference()


def found(
    ours: FrostGate | None = None,
    bare: Reference = NONE,
    framework: Reference = NONE,
    held: Connections | None = None,
    workers: Workers | None = None,
) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(ours, bare, framework, held, workers)}


@pytest.mark.parametrize(("theirs", "met"), [(10.0, True), (10.1, False)])
def test_single_events_with_the_worker_stopped_are_held_to_the_framework(theirs: float, met: bool) -> None:
    framework = Reference(single=edge(theirs))
    figure = found(frostgate(single_apart=edge(40.0)), framework=framework)[
        "single events, worker stopped / FastAPI + FastStream"
    ]
    assert figure.value == pytest.approx(40 / theirs)
    assert (figure.at_least, figure.met) == (4.0, met)


def test_the_same_load_beside_the_worker_is_said_and_held_to_nothing() -> None:
    figure = found(frostgate(single=edge(20.0)), framework=Reference(single=edge(10.0)))[
        "single events, worker draining / FastAPI + FastStream"
    ]
    assert (figure.value, figure.met) == (2.0, None)


def test_batches_are_held_to_a_rate_and_to_the_bare_limit_while_the_worker_drains() -> None:
    named = found(frostgate(batch=edge(9_000.0)), bare=Reference(single=edge(), batch=edge(10_000.0)))
    assert named["batches, worker draining, events/s"].met is False
    assert named["batches, worker draining / bare limit"].value == pytest.approx(0.9)
    assert named["batches, worker draining / bare limit"].met is True


def test_a_figure_without_its_reference_is_neither_met_nor_missed() -> None:
    figure = found(frostgate())["single events, worker stopped / FastAPI + FastStream"]
    assert (figure.value, figure.met) == (None, None)


@pytest.mark.parametrize(("idle_mib", "p95_ms", "met"), [(120.0, 2.4, True), (120.5, 2.5, False)])
def test_memory_and_the_latency_beside_slow_senders_have_upper_bounds(
    idle_mib: float, p95_ms: float, met: bool
) -> None:
    named = found(held=connections(idle_mib, p95_ms))
    assert {figure.met for figure in named.values()} == {met}
    assert named["p95 beside 2,000 slow senders / without them"].value == pytest.approx(p95_ms / 2)


@pytest.mark.parametrize(("apart", "note"), [(True, ""), (False, TOO_FEW_CORES)])
def test_scaling_says_when_the_machine_cannot_show_it(apart: bool, note: str) -> None:
    workers = Workers(one=edge(100.0), two=edge(160.0, edge_cpu_us=7_200.0), generator_apart=apart)
    scaling, cpu = found(workers=workers).values()
    assert scaling.value == pytest.approx(1.6)
    assert (scaling.met, scaling.note) == (False, note)
    assert cpu.value == pytest.approx(0.9)


def test_parts_that_were_not_asked_for_have_no_figures() -> None:
    assert found(bare=Reference(single=edge())) == {}
