"""The report for a person. Anything that was not accepted is listed, whatever it was."""

from collections.abc import Iterator

from ops.bench.report import (
    Accounts,
    Checks,
    Connections,
    Edge,
    Figure,
    FrostGate,
    Pipeline,
    Reference,
    Report,
    Verifier,
)

NOT_MEASURED = "not measured"
_NAME = 37


def table(report: Report) -> str:
    loads = [(name, edge) for name, edge in _loads(report) if edge is not None]
    sections = [
        [_HEAD, *(_load_line(name, edge) for name, edge in loads)] if loads else [],
        list(_own_lines(report.frostgate, report.accounts)),
        [] if report.checks is None else list(_check_lines(report.checks, report.bare)),
        [] if report.connections is None else list(_connection_lines(report.connections)),
        [] if report.pipeline is None else list(_stage_lines(report.pipeline)),
        [] if report.verifier is None or report.verifier.not_measured else list(_verifier_lines(report.verifier)),
        list(_figure_lines(report.figures)),
        [line for name, edge in loads for line in _other_answers(name, edge)],
        [f"{NOT_MEASURED}: {one.not_measured}" for one in _optional(report) if one.not_measured],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


_HEAD = (
    f"{'':{_NAME}}{'events/s':>9}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}{'edge us':>9}{'nats us':>9}{'client us':>11}"
)


def _loads(report: Report) -> Iterator[tuple[str, Edge | None]]:
    if (ours := report.frostgate) is not None:
        yield "single events, worker stopped", ours.single_apart
        yield "single events, worker draining", ours.single
        yield "single events, 1,000/s steady", ours.steady
        yield "batches of 100, worker stopped", ours.batch_apart
        yield "batches of 100, worker draining", ours.batch
    if (workers := report.workers) is not None:
        if ours is None:
            yield "single events, worker stopped", workers.one
        yield "single events, 2 edge processes", workers.two
    if (checks := report.checks) is not None:
        yield "single events, 1 tenant, plain HTTP", checks.plain
        yield "single events, 1 tenant, mTLS", checks.mutual_tls
    if (held := report.connections) is not None:
        yield "single events, 200/s", held.without_slow
        yield f"single events, 200/s, {held.slow:,} slow", held.with_slow
    yield "bare limit, single events", report.bare.single
    yield "bare limit, batches of 100", report.bare.batch
    yield "FastAPI + FastStream, single", report.framework.single


def _load_line(name: str, edge: Edge) -> str:
    return (
        f"{name:{_NAME}}{edge.events_per_s:>9,.0f}{edge.p50_ms:>8.1f}{edge.p95_ms:>8.1f}{edge.p99_ms:>8.1f}"
        f"{edge.edge_cpu_us:>9.0f}{edge.nats_cpu_us:>9.0f}{edge.generator_us_per_request:>11.0f}"
    )


def _own_lines(ours: FrostGate | None, accounts: dict[str, Accounts]) -> Iterator[str]:
    if ours is not None:
        drain = ours.drain
        yield f"drain of {drain.events:,} events of {drain.tenants} tenants: {drain.events_per_s:,.0f} events/s"
        yield (
            f"CPU per event while draining: worker {drain.worker_cpu_us:.0f} us, nats {drain.nats_cpu_us:.0f} us, "
            f"postgres {drain.postgres_cpu_us:.0f} us"
        )
        yield f"memory after the loads: edge {ours.edge_mib:.0f} MiB, worker {ours.worker_mib:.0f} MiB"
        yield f"ready after {ours.start_s:.1f} s"
    for stack, found in accounts.items():
        yield (
            f"accounts, {stack}: {found.accepted:,} accepted, {found.unknown:,} unknown; "
            f"{found.decided:,} decided, {found.dead:,} dead: {'balanced' if found.balanced() else 'NOT BALANCED'}"
        )


def _check_lines(checks: Checks, bare: Reference) -> Iterator[str]:
    yield _cost_line("what an event costs the edge, us of its CPU", "by itself", "together")
    sum_us = None if bare.single is None else bare.single.edge_cpu_us
    if sum_us is not None:
        yield _cost_line("  bare: HTTP in, group commit out", f"{sum_us:.0f}", f"{sum_us:.0f}")
    for name, us in (
        ("  + contract", checks.contract_us),
        ("  + limits: Valkey, depth, circuits", checks.limits_us),
        ("  + signature: digest, Ed25519", checks.signature_us),
        ("  + mTLS, on a connection that stands", checks.mtls_us),
    ):
        sum_us = None if sum_us is None else sum_us + us
        yield _cost_line(name, f"{us:.0f}", "" if sum_us is None else f"{sum_us:.0f}")
    yield _cost_line("  a whole edge: plain HTTP, not signed", "", f"{checks.plain.edge_cpu_us:.0f}")
    yield _cost_line("  a whole edge: mTLS, not signed", "", f"{checks.mutual_tls.edge_cpu_us:.0f}")
    yield _cost_line("  one more mTLS connection: the handshake", f"{checks.mutual_tls.connection_cpu_us:.0f}", "")


def _cost_line(name: str, by_itself: str, together: str) -> str:
    return f"{name:46}{by_itself:>10}{together:>10}".rstrip()


def _connection_lines(found: Connections) -> Iterator[str]:
    yield (
        f"edge: {found.edge_mib:.0f} MiB after the loads, {found.edge_idle_mib:.0f} MiB with {found.idle:,} idle "
        f"connections; of {found.slow:,} slow senders it gave up {found.reopened:,}"
    )


def _stage_lines(found: Pipeline) -> Iterator[str]:
    yield f"{'one stage alone, us of CPU per event':40}{'events/s':>10}{'worker':>9}{'nats':>9}{'postgres':>10}"
    for one in found.stages:
        yield (
            f"{one.stage:40}{one.events_per_s:>10,.0f}{one.worker_cpu_us:>9.0f}{one.nats_cpu_us:>9.0f}"
            f"{one.postgres_cpu_us:>10.0f}"
        )


def _verifier_lines(found: Verifier) -> Iterator[str]:
    yield (
        f"a bundle of {found.entries:,} entries, {found.bundle_bytes / 2**20:,.0f} MiB, verified offline in "
        f"{found.seconds:.1f} s: {found.entries_per_s:,.0f} entries/s"
    )
    yield f"CPU per entry: {found.cpu_us:.0f} us in two processes; {found.peak_mib:.0f} MiB the larger of them"


def _optional(report: Report) -> list[Reference | Verifier]:
    return [report.bare, report.framework, *([] if report.verifier is None else [report.verifier])]


def _figure_lines(found: list[Figure]) -> Iterator[str]:
    yield f"{'compared within this run':56}{'found':>10}{'target':>12}"
    for one in found:
        value = NOT_MEASURED if one.value is None else _number(one.value)
        yield f"{one.name:53}{value:>13}{_target(one):>12}{_verdict(one)}".rstrip()
        if one.note:
            yield f"  ({one.note})"


def _target(figure: Figure) -> str:
    if figure.at_least is not None:
        return f">= {_number(figure.at_least)}"
    return "" if figure.at_most is None else f"<= {_number(figure.at_most)}"


def _verdict(figure: Figure) -> str:
    return "" if figure.met is None else "  met" if figure.met else "  NOT MET"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _other_answers(name: str, edge: Edge) -> list[str]:
    return [f"{name}: {count:,} events answered {code}" for code, count in edge.outcomes.items() if code != "202"]
