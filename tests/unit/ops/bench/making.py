"""Reports made up for the tests."""

import msgspec

from ops.bench.figures import figures, pipeline_figures, verifier_figures
from ops.bench.job import Result
from ops.bench.report import (
    Accounts,
    Backlog,
    Checks,
    Connections,
    Drain,
    Edge,
    FrostGate,
    Latencies,
    Pipeline,
    Reference,
    Report,
    StageCost,
    Verifier,
    Workers,
    edge_figures,
)

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
    edge_cpu_us=8_000.0,
    connection_cpu_us=100.0,
)
ACCOUNTS = Accounts(accepted=80, unknown=0, decided=80, dead=0)


def edge(events_per_s: float = 40.0, p95_ms: float = 2.0, edge_cpu_us: float = 8_000.0) -> Edge:
    result = msgspec.structs.replace(
        RESULT, per_second=events_per_s, p95_ms=p95_ms, edge_cpu_us=edge_cpu_us, outcomes={"202": 80}
    )
    return edge_figures(result, nats_cpu_us=4_000.0)


def frostgate(single: Edge | None = None, single_apart: Edge | None = None, batch: Edge | None = None) -> FrostGate:
    drain = drained()
    return FrostGate(
        start_s=1.0,
        single=single or edge(),
        single_apart=single_apart or edge(),
        steady=edge(),
        batch=batch or edge(),
        batch_apart=edge(),
        drain=drain,
        edge_mib=50.0,
        worker_mib=60.0,
    )


def connections(idle_mib: float = 90.0, p95_ms: float = 2.0) -> Connections:
    return Connections(
        idle=2_000,
        edge_mib=50.0,
        edge_idle_mib=idle_mib,
        slow=2_000,
        reopened=7,
        without_slow=edge(),
        with_slow=edge(p95_ms=p95_ms),
    )


def checks() -> Checks:
    return Checks(
        contract_us=31.0,
        limits_us=42.0,
        signature_us=153.0,
        mtls_us=24.0,
        plain=edge(edge_cpu_us=80 * 365.0),
        mutual_tls=edge(edge_cpu_us=80 * 389.0),
    )


def pipeline(
    events_per_s: float = 5_000.0,
    decision_p95_ms: float | None = 1.0,
    write_p95_ms: float | None = 10.0,
    got_in: float = 1_000.0,
) -> Pipeline:
    return Pipeline(
        one_tenant=drained(events_per_s),
        stages=[
            StageCost(
                stage="dedupe",
                events=100,
                events_per_s=7_000.0,
                worker_cpu_us=70.0,
                nats_cpu_us=60.0,
                postgres_cpu_us=30.0,
            )
        ],
        latencies=Latencies(got_in, decision_p95_ms, write_p95_ms),
    )


def drained(events_per_s: float = 100.0) -> Drain:
    return Drain(
        events=100,
        tenants=50,
        seconds=1.0,
        events_per_s=events_per_s,
        worker_cpu_us=1.0,
        nats_cpu_us=1.0,
        postgres_cpu_us=1.0,
    )


def backlog(p95_ms: float = 2.0, worker_mib: float = 120.0) -> Backlog:
    return Backlog(events=100, without=edge(), with_backlog=edge(p95_ms=p95_ms), worker_mib=worker_mib)


def report(
    ours: FrostGate | None = None,
    *,
    bare: Reference | None = None,
    framework: Reference | None = None,
    checked: Checks | None = None,
    held: Connections | None = None,
    workers: Workers | None = None,
    pipeline: Pipeline | None = None,
    backlog: Backlog | None = None,
    verifier: Verifier | None = None,
    accounts: Accounts = ACCOUNTS,
) -> Report:
    bare, framework = bare or Reference(), framework or Reference()
    return Report(
        version="0",
        python="3",
        cores=2,
        load_average=0.0,
        seconds_per_load=1.0,
        frostgate=ours,
        checks=checked,
        connections=held,
        workers=workers,
        pipeline=pipeline,
        backlog=backlog,
        verifier=verifier,
        bare=bare,
        framework=framework,
        accounts={"one edge": accounts},
        figures=[
            *figures(ours, bare, framework, held, workers),
            *pipeline_figures(ours, pipeline, backlog),
            *verifier_figures(verifier),
        ],
    )
