"""A small run of the bench against whole stacks: every figure is there, and every event is accounted for."""

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

import msgspec
import pytest

from ops.bench.job import Job
from ops.bench.load import Generator
from ops.bench.references import framework_installed
from ops.bench.report import Edge, Report
from ops.bench.requests import Sender

BACKLOG = 300
ENTRIES = 60_000
"""Of the bundle that is verified: large enough to be read by two processes."""


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
            *("--seconds", "0.3", "--backlog", str(BACKLOG), "--entries", str(ENTRIES), "--json", json_file),
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
    assert ours is not None
    loads = (ours.single, ours.single_apart, ours.steady, ours.batch, ours.batch_apart, bare.single, bare.batch)
    for edge in loads:
        assert edge is not None
        _assert_measured(edge)
    assert ours.drain.events == BACKLOG
    assert ours.drain.events_per_s > 0
    assert min(ours.edge_mib, ours.worker_mib, ours.start_s) > 0


def _assert_measured(edge: Edge) -> None:
    assert edge.outcomes["202"] > 0
    assert 0 < edge.p50_ms <= edge.p95_ms <= edge.p99_ms <= edge.max_ms
    assert min(edge.events_per_s, edge.generator_us_per_request) > 0


def test_each_check_has_its_cost(ran: Ran) -> None:
    checks = ran.report.checks
    assert checks is not None
    assert min(checks.contract_us, checks.limits_us, checks.signature_us) > 0
    assert checks.mtls_us
    for edge in (checks.plain, checks.mutual_tls):
        _assert_measured(edge)
    assert checks.mutual_tls.connection_cpu_us > 0
    assert "+ signature: digest, Ed25519" in ran.table


def test_idle_and_slow_connections_were_held(ran: Ran) -> None:
    held = ran.report.connections
    assert held is not None
    assert (held.idle, held.slow) == (2_000, 2_000)
    assert held.edge_idle_mib > 0
    for edge in (held.without_slow, held.with_slow):
        _assert_measured(edge)


def test_two_edge_processes_were_measured_beside_one(ran: Ran) -> None:
    workers = ran.report.workers
    assert workers is not None
    for edge in (workers.one, workers.two):
        _assert_measured(edge)
        assert edge.edge_cpu_us > 0


def test_each_stage_has_its_cost_and_the_worker_its_latencies(ran: Ran) -> None:
    pipeline = ran.report.pipeline
    assert pipeline is not None
    assert [cost.stage for cost in pipeline.stages] == ["dedupe", "decision", "evidence"]
    assert all(cost.events_per_s > 0 and cost.worker_cpu_us >= 0 for cost in pipeline.stages)
    assert pipeline.one_tenant.tenants == 1
    assert pipeline.latencies.events_per_s > 0
    assert pipeline.latencies.decision_p95_ms is not None
    assert pipeline.latencies.database_write_p95_ms is not None


def test_a_bundle_was_verified_offline(ran: Ran) -> None:
    found = ran.report.verifier
    assert found is not None
    assert (found.entries, found.not_measured) == (ENTRIES, "")
    assert found.bundle_bytes > 1_500 * ENTRIES
    assert min(found.seconds, found.entries_per_s, found.cpu_us, found.peak_mib) > 0
    assert f"a bundle of {ENTRIES:,} entries" in ran.table
    assert f"(measured with {ENTRIES:,} entries)" in ran.table


def test_every_accepted_event_was_decided(ran: Ran) -> None:
    assert list(ran.report.accounts) == ["one edge", "mTLS", "two edges"]
    for accounts in ran.report.accounts.values():
        assert accounts.balanced()
        assert accounts.dead == 0
    assert ran.report.accounts["one edge"].accepted > BACKLOG


def test_every_target_is_printed_with_what_was_found(ran: Ran) -> None:
    held_to = [figure for figure in ran.report.figures if figure.at_least or figure.at_most]
    assert len(held_to) == 13
    for figure in held_to:
        assert (figure.met is None) is (figure.value is None)
        assert figure.name in ran.table


def test_the_framework_reference_is_measured_or_its_absence_is_said(ran: Ran) -> None:
    framework = ran.report.framework
    if framework_installed():
        assert framework.single is not None
        _assert_measured(framework.single)
    else:
        assert "make bench" in framework.not_measured
        assert "make bench" in ran.table


def test_the_table_says_what_was_measured(ran: Ran) -> None:
    assert f"drain of {BACKLOG} events of 50 tenants" in ran.table
    assert "bare limit, batches of 100" in ran.table


def test_nothing_is_left_behind(ran: Ran) -> None:
    assert ran.left == []


async def test_a_load_at_a_rate_waits_for_its_last_answers() -> None:
    """Each answer comes long after the request, and between requests all are answered at times."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = 0
        while not reader.at_eof():
            with suppress(asyncio.IncompleteReadError):  # the client has gone
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_length(head))
                await asyncio.sleep(0.0 if answered < 2 else 0.2)
                answered += 1
                writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sender = Sender("bench-000", "none")
    job = Job(f"http://127.0.0.1:{port}", [sender], "rate", connections=2, seconds=0.2, rate=50)
    result = await Generator(job).run()
    server.close()
    assert result.requests == 10
    assert result.outcomes == {"202": 10}


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
