"""The figures that are compared: ratios within one run, and what each is held to."""

from ops.bench.report import Connections, Edge, Figure, FrostGate, Reference, Workers

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
    return [
        *_rates(ours, bare, framework),
        _figure("p95 at 1,000 events/s, ms", None if ours is None else ours.steady.p95_ms, at_most=10),
        *_borne(connections),
        *_scaling(workers),
    ]


def _rates(ours: FrostGate | None, bare: Reference, framework: Reference) -> list[Figure]:
    single, single_apart, batch, batch_apart = (
        (None, None, None, None) if ours is None else (ours.single, ours.single_apart, ours.batch, ours.batch_apart)
    )
    return [
        _figure("single events, worker stopped / FastAPI + FastStream", _ratio(single_apart, framework.single), 4.0),
        _figure("single events, worker draining / FastAPI + FastStream", _ratio(single, framework.single)),
        _figure("single events, worker stopped / bare limit", _ratio(single_apart, bare.single)),
        _figure("batches, worker draining, events/s", None if batch is None else batch.events_per_s, 10_000),
        _figure("batches, worker draining / bare limit", _ratio(batch, bare.batch), 0.6),
        _figure("batches, worker stopped / bare limit", _ratio(batch_apart, bare.batch)),
    ]


def _borne(found: Connections | None) -> list[Figure]:
    slower = None
    if found is not None and found.without_slow.p95_ms:
        slower = found.with_slow.p95_ms / found.without_slow.p95_ms
    return [
        _figure("edge with 2,000 idle connections, MiB", None if found is None else found.edge_idle_mib, at_most=120),
        _figure("p95 beside 2,000 slow senders / without them", slower, at_most=1.2),
    ]


def _scaling(found: Workers | None) -> list[Figure]:
    if found is None:
        return [_figure("2 edge processes / 1", None, 1.7)]
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


def _ratio(ours: Edge | None, theirs: Edge | None) -> float | None:
    if ours is None or theirs is None or not theirs.events_per_s:
        return None
    return ours.events_per_s / theirs.events_per_s
