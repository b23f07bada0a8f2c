"""What one run of the bench found."""

import msgspec

from ops.bench.job import Result


class Edge(msgspec.Struct, frozen=True):
    """One load on one edge. CPU is per accepted event; that of NATS includes what the worker asks of it meanwhile.

    `connection_cpu_us` is what the edge spent on one connection before the load; no event's figure has it.
    """

    events_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    edge_cpu_us: float
    nats_cpu_us: float
    connection_cpu_us: float
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


class StageCost(msgspec.Struct, frozen=True):
    """One stage alone in a worker, over a backlog. CPU is per event."""

    stage: str
    events: int
    events_per_s: float
    worker_cpu_us: float
    nats_cpu_us: float
    postgres_cpu_us: float


class Latencies(msgspec.Struct, frozen=True):
    """What the worker's own clocks said while 1,000 events/s were offered and `events_per_s` of them got in.

    The percentiles are bounds of histogram buckets.
    """

    events_per_s: float
    decision_p95_ms: float | None
    database_write_p95_ms: float | None


class Pipeline(msgspec.Struct, frozen=True):
    """What happens behind the edge."""

    one_tenant: Drain
    stages: list[StageCost]
    latencies: Latencies


class Backlog(msgspec.Struct, frozen=True):
    """The same modest load on empty queues and in front of a long backlog, and the worker's memory with it."""

    events: int
    without: Edge
    with_backlog: Edge
    worker_mib: float


class Verifier(msgspec.Struct, frozen=True):
    """The offline verifier over one bundle. CPU is of all its processes, memory that of the largest of them.

    `not_measured` says why, and then there are no figures.
    """

    entries: int = 0
    bundle_bytes: int = 0
    seconds: float = 0.0
    entries_per_s: float = 0.0
    cpu_us: float = 0.0
    peak_mib: float = 0.0
    not_measured: str = ""


class Accounts(msgspec.Struct, frozen=True):
    """The ledger of one stack. `unknown` events got no clear answer and may have been stored or not."""

    accepted: int
    unknown: int
    decided: int
    dead: int

    def balanced(self) -> bool:
        return 0 <= self.decided + self.dead - self.accepted <= self.unknown


class FrostGate(msgspec.Struct, frozen=True):
    """The loads on one edge. The `apart` ones were measured with the worker stopped, the others while it drained."""

    start_s: float
    single: Edge
    single_apart: Edge
    steady: Edge
    batch: Edge
    batch_apart: Edge
    drain: Drain
    edge_mib: float
    worker_mib: float


class Checks(msgspec.Struct, frozen=True):
    """What single checks cost the edge, microseconds of its CPU per event.

    Contract, limits and signature by themselves; mTLS as what it adds to a request that is answered at once,
    on a connection that stands. `plain` and `mutual_tls` are whole edges under one load of one tenant: their
    difference is the same, and lost in what else happens to be going on.
    """

    contract_us: float
    limits_us: float
    signature_us: float
    mtls_us: float
    plain: Edge
    mutual_tls: Edge


class Connections(msgspec.Struct, frozen=True):
    """What open connections cost the edge. `reopened`: slow ones that the edge gave up and that came again."""

    idle: int
    edge_mib: float
    edge_idle_mib: float
    slow: int
    reopened: int
    without_slow: Edge
    with_slow: Edge


class Workers(msgspec.Struct, frozen=True):
    """Single events with the worker stopped, on one edge process and on two."""

    one: Edge
    two: Edge
    generator_apart: bool
    """Whether the load generator had a core to itself."""


class Reference(msgspec.Struct, frozen=True):
    """`not_measured` says why, and then there are no figures."""

    single: Edge | None = None
    batch: Edge | None = None
    not_measured: str = ""


class Figure(msgspec.Struct, frozen=True):
    """One figure of the run, None where it was not measured, and the bound it is held to, if it is held to any."""

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None
    met: bool | None = None
    """None where nothing was measured or nothing is promised."""
    note: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Parts that were not asked for are None."""

    version: str
    python: str
    cores: int
    load_average: float
    seconds_per_load: float
    frostgate: FrostGate | None
    checks: Checks | None
    connections: Connections | None
    workers: Workers | None
    pipeline: Pipeline | None
    backlog: Backlog | None
    verifier: Verifier | None
    bare: Reference
    framework: Reference
    accounts: dict[str, Accounts]
    """By stack; there is one for each way an edge was set up."""
    figures: list[Figure]

    def balanced(self) -> bool:
        return all(accounts.balanced() for accounts in self.accounts.values())


def edge_figures(result: Result, nats_cpu_us: float) -> Edge:
    return Edge(
        events_per_s=result.per_second,
        p50_ms=result.p50_ms,
        p95_ms=result.p95_ms,
        p99_ms=result.p99_ms,
        max_ms=result.max_ms,
        edge_cpu_us=result.edge_cpu_us / max(result.accepted, 1),
        nats_cpu_us=nats_cpu_us / max(result.accepted, 1),
        connection_cpu_us=result.connection_cpu_us,
        generator_us_per_request=result.generator_us_per_request,
        outcomes=result.outcomes,
    )
