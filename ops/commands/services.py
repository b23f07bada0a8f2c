"""`frostgate edge` and `frostgate worker`: one service each, in this process, until a signal ends it."""

from collections.abc import Coroutine
from pathlib import Path

import click
import uvloop

from ops import edge_service, worker_service
from ops.commands.target import data_dir_option, settings_of
from ops.settings import Service, Settings, settings_hash
from ops.telemetry import configure_logging
from streams.topology import STAGES


def _run(service: Coroutine[object, object, None], name: str, settings: Settings) -> None:
    configure_logging(f"frostgate-{name}", settings.log_level, settings_hash(settings))
    uvloop.run(service)


@click.command(
    epilog="""\b
Example:
  FG_NATS_URL=nats://edge@nats FG_POSTGRES_DSN=postgresql://fg_edge@db/frostgate \\
    FG_REDIS_URL=redis://redis frostgate edge

Exit status: 0 stopped by a signal; 1 stopped by a fault; 2 configuration."""
)
@data_dir_option
def edge(data_dir: Path | None) -> None:
    """Run one ingest edge until SIGTERM: it then answers what it has begun and stops.

    Configured by the environment alone: see docs/configuration.md, or `frostgate doctor`.
    """
    settings = settings_of(data_dir, Service.EDGE)
    _run(edge_service.serve(settings), "edge", settings)


@click.command(
    epilog="""\b
Example:
  frostgate worker
  frostgate worker --stages dedupe,decision

Exit status: 0 stopped by a signal; 1 stopped by a fault; 2 usage or configuration."""
)
@click.option(
    "--stages",
    default=",".join(STAGES),
    show_default=True,
    metavar="STAGE,...",
    help="Stages this worker runs; every stage has to run somewhere.",
)
@data_dir_option
def worker(stages: str, data_dir: Path | None) -> None:
    """Run one worker until SIGTERM: it then settles what it has begun and stops.

    Configured by the environment alone: see docs/configuration.md, or `frostgate doctor`.
    """
    chosen = tuple(dict.fromkeys(stage.strip() for stage in stages.split(",")))
    unknown = [stage for stage in chosen if stage not in STAGES]
    if unknown:
        raise click.BadParameter(f"no such stage: {', '.join(unknown)}. Stages are {', '.join(STAGES)}")
    settings = settings_of(data_dir, Service.WORKER)
    _run(worker_service.serve(settings, chosen), "worker", settings)
