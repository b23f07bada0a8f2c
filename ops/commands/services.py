"""`frostgate edge` and `frostgate worker`: one service each, in this process, until a signal ends it."""

import asyncio
import dataclasses
import resource
from collections.abc import Coroutine
from pathlib import Path

import click
import uvloop

from ops import edge_group, edge_service, tls, worker_service
from ops.commands.target import data_dir_option, settings_of, workers_option
from ops.embedded.process import StartError
from ops.evidence_files import CheckpointSecretError
from ops.evidence_watch import EvidenceRefusedError
from ops.settings import Service, Settings, SettingsError, settings_hash
from ops.telemetry import configure_logging
from sinks.signing import KeyFileError
from streams.topology import STAGES


def _take_descriptors() -> None:
    """Every connection is a descriptor: take as many as this process may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(service: Coroutine[object, object, None], name: str, settings: Settings) -> None:
    configure_logging(f"frostgate-{name}", settings.log_level, settings_hash(settings))
    uvloop.run(service)


@click.command(
    epilog="""\b
Example:
  FG_NATS_URL=nats://edge@nats FG_POSTGRES_DSN=postgresql://fg_edge@db/frostgate \\
    FG_REDIS_URL=redis://redis frostgate edge --workers 2

Exit status: 0 stopped by a signal; 1 stopped by a fault, or 30 s after the signal; 2 configuration."""
)
@workers_option
@click.option(edge_group.SHARED_PORT, "one_of_several", is_flag=True, hidden=True)
@data_dir_option
def edge(workers: int | None, one_of_several: bool, data_dir: Path | None) -> None:
    """Run one ingest edge until SIGTERM: it then answers what it has begun and stops.

    With --workers it is so many processes behind one port and one admin port, one for each
    processor core; one that ends is started again.

    Configured by the environment alone: see docs/configuration.md, or `frostgate doctor`.
    """
    settings = settings_of(data_dir, Service.EDGE)
    if workers is not None:
        settings = dataclasses.replace(settings, edge_workers=workers)
    if found := tls.faults(settings.http_host, settings.tls):
        raise SettingsError(found)
    if settings.edge_workers > 1:
        _run_group(settings)
        return
    listener = edge_group.shared_listener(settings.http_host, settings.http_port) if one_of_several else None
    _take_descriptors()
    _run(edge_service.serve(settings, listener), "edge", settings)


def _run_group(settings: Settings) -> None:
    configure_logging("frostgate-edge", settings.log_level, settings_hash(settings))
    try:
        asyncio.run(edge_group.EdgeGroup(settings).run())
    except StartError as failure:
        raise click.ClickException(str(failure)) from failure


@click.command(
    epilog="""\b
Example:
  frostgate worker
  frostgate worker --stages dedupe,decision

Exit status: 0 stopped by a signal; 1 stopped by a fault, or 30 s after the signal; 2 usage or configuration."""
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
    try:
        _run(worker_service.serve(settings, chosen), "worker", settings)
    except (EvidenceRefusedError, CheckpointSecretError, KeyFileError) as refusal:
        raise click.ClickException(str(refusal)) from refusal
