"""What one run of the bench found, as JSON and as a table."""

import msgspec

from ops.bench.load import Result

NOT_MEASURED = "not measured"


class Edge(msgspec.Struct, frozen=True):
    """One load on one edge. CPU is per accepted event; that of NATS includes what the worker asks of it meanwhile."""

    events_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    edge_cpu_us: float
    nats_cpu_us: float
    generator_us_per_request: float
    outcomes: dict[str, int]


class Drain(msgspec.Struct, frozen=True):
    """A backlog of accepted events, from the first to the last one decided. CPU is per event."""

    events: int
    tenants: int
    seconds: float
    events_per_s: float
    worker_cpu_us: float
    nats_cpu_us: float
    postgres_cpu_us: float


class Accounts(msgspec.Struct, frozen=True):
    """The ledger of the whole run. `unknown` events got no clear answer and may have been stored or not."""

    accepted: int
    unknown: int
    decided: int
    dead: int

    def balanced(self) -> bool:
        return 0 <= self.decided + self.dead - self.accepted <= self.unknown


class FrostGate(msgspec.Struct, frozen=True):
    start_s: float
    single: Edge
    steady: Edge
    batch: Edge
    drain: Drain
    edge_mib: float
    worker_mib: float
    accounts: Accounts


class Reference(msgspec.Struct, frozen=True):
    """`not_measured` says why, and then there are no figures."""

    single: Edge | None = None
    batch: Edge | None = None
    not_measured: str = ""


class Ratios(msgspec.Struct, frozen=True):
    """FrostGate's rates over the references' of the same run; None where a reference was not measured."""

    single_to_framework: float | None
    single_to_bare: float | None
    batch_to_bare: float | None


class Report(msgspec.Struct, frozen=True):
    version: str
    python: str
    cores: int
    load_average: float
    seconds_per_load: float
    frostgate: FrostGate
    bare: Reference
    framework: Reference
    ratios: Ratios


def edge_figures(result: Result, edge_cpu_us: int, nats_cpu_us: int) -> Edge:
    return Edge(
        events_per_s=result.per_second,
        p50_ms=result.p50_ms,
        p95_ms=result.p95_ms,
        p99_ms=result.p99_ms,
        max_ms=result.max_ms,
        edge_cpu_us=edge_cpu_us / max(result.accepted, 1),
        nats_cpu_us=nats_cpu_us / max(result.accepted, 1),
        generator_us_per_request=result.generator_us_per_request,
        outcomes=result.outcomes,
    )


def ratios(frostgate: FrostGate, bare: Reference, framework: Reference) -> Ratios:
    return Ratios(
        single_to_framework=_ratio(frostgate.single, framework.single),
        single_to_bare=_ratio(frostgate.single, bare.single),
        batch_to_bare=_ratio(frostgate.batch, bare.batch),
    )


def table(report: Report) -> str:
    """The report for a person. Anything that was not accepted is listed, whatever it was."""
    ours = report.frostgate
    rows = [
        ("FrostGate, single events", ours.single),
        ("FrostGate, 1,000/s steady", ours.steady),
        ("FrostGate, batches of 100", ours.batch),
        ("bare limit, single events", report.bare.single),
        ("bare limit, batches of 100", report.bare.batch),
        ("FastAPI + FastStream, single", report.framework.single),
    ]
    lines = [
        f"{'':30}{'events/s':>10}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'edge us':>9}{'nats us':>9}{'client us':>11}"
    ]
    lines += [_edge_line(name, edge) for name, edge in rows]
    lines += ["", *_own_lines(ours), "", *_ratio_lines(report.ratios)]
    lines += [line for name, edge in rows if edge is not None for line in _other_answers(name, edge)]
    lines += [f"{NOT_MEASURED}: {ref.not_measured}" for ref in (report.bare, report.framework) if ref.not_measured]
    return "\n".join(lines)


def _edge_line(name: str, edge: Edge | None) -> str:
    if edge is None:
        return f"{name:30}{NOT_MEASURED:>14}"
    return (
        f"{name:30}{edge.events_per_s:>10,.0f}{edge.p50_ms:>9.1f}{edge.p95_ms:>9.1f}{edge.p99_ms:>9.1f}"
        f"{edge.edge_cpu_us:>9.0f}{edge.nats_cpu_us:>9.0f}{edge.generator_us_per_request:>11.0f}"
    )


def _own_lines(ours: FrostGate) -> list[str]:
    drain, accounts = ours.drain, ours.accounts
    return [
        f"drain of {drain.events:,} events of {drain.tenants} tenants: {drain.events_per_s:,.0f} events/s",
        (
            f"CPU per event while draining: worker {drain.worker_cpu_us:.0f} us, nats {drain.nats_cpu_us:.0f} us, "
            f"postgres {drain.postgres_cpu_us:.0f} us"
        ),
        f"memory at the end: edge {ours.edge_mib:.0f} MiB, worker {ours.worker_mib:.0f} MiB",
        f"ready after {ours.start_s:.1f} s",
        (
            f"accounts: {accounts.accepted:,} accepted, {accounts.unknown:,} unknown; "
            f"{accounts.decided:,} decided, {accounts.dead:,} dead: "
            f"{'balanced' if accounts.balanced() else 'NOT BALANCED'}"
        ),
    ]


def _ratio_lines(found: Ratios) -> list[str]:
    return [
        f"single events over FastAPI + FastStream: {_times(found.single_to_framework)}",
        f"single events over the bare limit:       {_times(found.single_to_bare)}",
        f"batches over the bare limit:             {_times(found.batch_to_bare)}",
    ]


def _other_answers(name: str, edge: Edge) -> list[str]:
    return [f"{name}: {count:,} events answered {code}" for code, count in edge.outcomes.items() if code != "202"]


def _ratio(ours: Edge, theirs: Edge | None) -> float | None:
    return ours.events_per_s / theirs.events_per_s if theirs is not None and theirs.events_per_s else None


def _times(ratio: float | None) -> str:
    return NOT_MEASURED if ratio is None else f"{ratio:.2f}"
