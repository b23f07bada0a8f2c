"""The figures that are compared: ratios within one run, and what each is held to."""

from ops.bench.loads import STEADY_RATE
from ops.bench.report import (
    Backlog,
    Connections,
    Edge,
    Figure,
    FrostGate,
    Latencies,
    Pipeline,
    Reference,
    Verifier,
    Workers,
)

_ENTRIES = 1_000_000
_REACHED = 0.95
"""So much of a rate counts as the rate."""
_MILLION, _MILLION_S_MAX = "offline verifier, 1,000,000 entries, s", 20
TOO_FEW_CORES = (
    "with fewer than 4 cores the load generator and the servers take their time from the edges: "
    "this machine cannot show how they scale"
)


def figures(
    ours: FrostGate | None,
    bare: Reference,
    framework: Reference,
    connections: Connections | None,
    workers: Workers | None,
) -> list[Figure]:
    """Those of the parts that were asked for."""
    return [
        *([] if ours is None else _rates(ours, bare, framework)),
        *([] if connections is None else _borne(connections)),
        *([] if workers is None else _scaling(workers)),
    ]


def pipeline_figures(ours: FrostGate | None, pipeline: Pipeline | None, backlog: Backlog | None) -> list[Figure]:
    """What is held behind the edge."""
    found = [] if ours is None else [_figure("drain, 50 tenants, events/s", ours.drain.events_per_s, 5_000)]
    if pipeline is not None:
        found += [
            _figure("drain, one tenant, events/s", pipeline.one_tenant.events_per_s, 4_000),
            *_latencies(pipeline.latencies),
        ]
    if backlog is not None:
        calm_ms = backlog.without.p95_ms
        found += [
            _figure(
                "p95 before a backlog / without",
                backlog.with_backlog.p95_ms / calm_ms if calm_ms else None,
                at_most=1.1,
            ),
            _figure("worker with a backlog, MiB", backlog.worker_mib, at_most=200),
        ]
    return found


def _latencies(found: Latencies) -> list[Figure]:
    note = "" if found.events_per_s >= STEADY_RATE * _REACHED else f"{found.events_per_s:,.0f}/s got in"
    return [
        _figure("decision p95 at 1,000/s offered, ms", found.decision_p95_ms, at_most=5, note=note),
        _figure("database write p95 at 1,000/s offered, ms", found.database_write_p95_ms, at_most=15, note=note),
    ]


def verifier_figures(found: Verifier | None) -> list[Figure]:
    """What the evidence is held to once it has left."""
    if found is None:
        return []
    if found.not_measured:
        return [_figure(_MILLION, None, at_most=_MILLION_S_MAX)]
    note = "" if found.entries == _ENTRIES else f"measured with {found.entries:,} entries"
    return [
        _figure(_MILLION, _ENTRIES / found.entries_per_s, at_most=_MILLION_S_MAX, note=note),
        _figure("offline verifier, entries/s", found.entries_per_s),
        _figure("offline verifier, MiB", found.peak_mib, at_most=160),
    ]


def _rates(ours: FrostGate, bare: Reference, framework: Reference) -> list[Figure]:
    return [
        _figure("single events, worker stopped / FastAPI + FastStream", _ratio(ours.single_apart, framework.single), 4),
        _figure("single events, worker draining / FastAPI + FastStream", _ratio(ours.single, framework.single)),
        _figure("single events, worker stopped / bare limit", _ratio(ours.single_apart, bare.single)),
        _figure("batches, worker draining, events/s", ours.batch.events_per_s, 10_000),
        _figure("batches, worker draining / bare limit", _ratio(ours.batch, bare.batch), 0.6),
        _figure("batches, worker stopped / bare limit", _ratio(ours.batch_apart, bare.batch)),
        _figure("p95 at 1,000 events/s, ms", ours.steady.p95_ms, at_most=10),
    ]


def _borne(found: Connections) -> list[Figure]:
    calm_ms = found.without_slow.p95_ms
    return [
        _figure("edge with 2,000 idle connections, MiB", found.edge_idle_mib, at_most=120),
        _figure(
            "p95 beside 2,000 slow senders / without them",
            found.with_slow.p95_ms / calm_ms if calm_ms else None,
            at_most=1.2,
        ),
    ]


def _scaling(found: Workers) -> list[Figure]:
    return [
        _figure(
            "2 edge processes / 1",
            _ratio(found.two, found.one),
            1.7,
            note="" if found.generator_apart else TOO_FEW_CORES,
        ),
        _figure("CPU per event of 2 edge processes / 1", found.two.edge_cpu_us / found.one.edge_cpu_us),
    ]


def _figure(
    name: str, value: float | None, at_least: float | None = None, at_most: float | None = None, note: str = ""
) -> Figure:
    met = None
    if value is not None and (at_least is not None or at_most is not None):
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return Figure(name, value, at_least, at_most, met, note)


def _ratio(ours: Edge, theirs: Edge | None) -> float | None:
    return ours.events_per_s / theirs.events_per_s if theirs is not None and theirs.events_per_s else None
