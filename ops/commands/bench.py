"""`frostgate bench`: measure this machine, in one run and beside two references."""

import asyncio
from pathlib import Path

import click
import msgspec

from ops.bench.loads import BATCH_LINES
from ops.bench.processes import BenchError
from ops.bench.run import PARTS_BY_DEFAULT, Part, Plan, run
from ops.bench.table import table
from ops.embedded.process import StartError

_BACKLOG_MAX = 500_000
_ENTRIES_MAX = 3_000_000


@click.command(
    epilog="""\b
Example:
  frostgate bench
  frostgate bench --seconds 5 --json bench-report.json
  frostgate bench --only checks --only references
  frostgate bench --only verifier

Exit status: 0 measured, and every accepted event accounted for; 1 otherwise; 2 usage."""
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.2, 600),
    default=10,
    show_default=True,
    help="How long each load lasts.",
)
@click.option(
    "--backlog",
    type=click.IntRange(BATCH_LINES, _BACKLOG_MAX),
    default=50_000,
    show_default=True,
    help=f"Events in the backlog whose drain is timed, in whole batches of {BATCH_LINES}.",
)
@click.option(
    "--entries",
    type=click.IntRange(1_000, _ENTRIES_MAX),
    default=1_000_000,
    show_default=True,
    help="Entries in the bundle that is verified offline; a million take 6 GB of the temporary directory.",
)
@click.option(
    "--only",
    "parts",
    type=click.Choice([part.value for part in Part]),
    multiple=True,
    help="Measure this part alone; may be given more than once. `backlog` (20 times --backlog, many minutes) only so.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    help="Also write the report to this file.",
)
def bench(seconds: float, backlog: int, entries: int, parts: tuple[str, ...], json_file: Path | None) -> None:
    """Measure ingest, drain, CPU and memory on this machine, every answer fsynced.

    Starts stacks of its own in a temporary directory and leaves nothing behind: one edge under each
    load, with the worker draining and with it stopped; what each check costs; idle and slow
    connections; the pipeline stage by stage; mTLS; two edge processes; the offline verifier over a
    bundle of a million entries. In the same run it measures the bare limit (no check at all) and a
    FastAPI + FastStream edge. Compare the ratios, not the rates: those are this
    machine's. Nothing else should run meanwhile.
    """
    plan = Plan(
        parts=frozenset(map(Part, parts)) or PARTS_BY_DEFAULT,
        seconds=seconds,
        backlog=backlog // BATCH_LINES * BATCH_LINES,
        entries=entries,
    )
    try:
        report = asyncio.run(run(plan, lambda text: click.echo(text, err=True)))
    except (StartError, BenchError) as failure:
        raise click.ClickException(str(failure)) from failure
    click.echo(table(report))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if not report.balanced():
        raise click.ClickException("accepted events are not accounted for")
