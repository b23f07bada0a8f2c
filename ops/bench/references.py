"""The two references, each against a NATS server of its own under the repository's nats.conf: the same durability."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from edge.settings import TlsSettings
from ops.bench.job import Job
from ops.bench.processes import APP_ROOT, cpu_us, run_job
from ops.bench.reference import STREAM, STREAM_CONFIG, ReferenceConfig
from ops.bench.report import Edge, edge_figures
from ops.embedded.directory import DataDirectory
from ops.embedded.files import write_private
from ops.embedded.nats import NatsServer
from ops.embedded.process import Command, NotAnsweringError, free_port, spawn, until_ready
from streams.jetstream import JetStream

BARE = "ops.bench.bare"
FRAMEWORK = "ops.bench.framework_edge"
ANSWERING = "ops.bench.answering"
START_WAIT_S = 15
STOP_WAIT_S = 5
ANSWER_MS_MAX = 5_000

Jobs = Callable[[str], list[Job]]
"""The jobs to run against the edge at a URL."""


def framework_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("fastapi", "faststream"))


async def measure(module: str, home: Path, jobs: Jobs) -> list[Edge]:
    """Run the jobs against one reference and return the figures of all but the first, which warms it up.

    Raises StartError or BenchError.
    """
    with await DataDirectory.open(home) as directory:
        async with _nats(directory) as (nats_url, nats):
            return await _measured(module, directory, ReferenceConfig(nats_url, free_port()), jobs, nats)


async def measure_answering(home: Path, jobs: Jobs, tls: TlsSettings | None) -> list[Edge]:
    """The same with an edge that answers at once and has no broker, over TLS or not."""
    with await DataDirectory.open(home) as directory:
        return await _measured(ANSWERING, directory, ReferenceConfig("", free_port(), tls), jobs, nats=None)


async def _measured(
    module: str, directory: DataDirectory, config: ReferenceConfig, jobs: Jobs, nats: int | None
) -> list[Edge]:
    async with _edge(module, directory, config) as edge:
        warm_up, *rest = jobs(f"{'http' if config.tls is None else 'https'}://127.0.0.1:{config.port}")
        await run_job(warm_up)
        found = []
        for job in rest:
            nats_before_us = 0 if nats is None else cpu_us(nats)
            result = await run_job(msgspec.structs.replace(job, edge_pid=edge))
            found.append(edge_figures(result, 0 if nats is None else cpu_us(nats) - nats_before_us))
        return found


@asynccontextmanager
async def _nats(directory: DataDirectory) -> AsyncIterator[tuple[str, int]]:
    """A NATS server with the bench's stream; yields the admin user's URL and its process id."""
    server = NatsServer(directory)
    await server.prepare()
    port = free_port()
    child = await spawn(server.command(port), directory.logs)
    try:
        await until_ready(child, lambda: server.probe(port), START_WAIT_S)
        url = server.url("admin", port)
        jetstream = await JetStream.connect(url, "admin")
        try:
            await jetstream.api(f"STREAM.CREATE.{STREAM}", STREAM_CONFIG, dict)
        finally:
            await jetstream.close()
        yield url, child.pid
    finally:
        await child.stop(STOP_WAIT_S)


@asynccontextmanager
async def _edge(module: str, directory: DataDirectory, config: ReferenceConfig) -> AsyncIterator[int]:
    """The reference edge; yields its process id."""
    config_file = directory.path / "reference.json"
    write_private(config_file, msgspec.json.encode(config))
    command = Command(
        name="edge",
        arguments=(sys.executable, "-m", module, str(config_file)),
        environment={"PYTHONPATH": str(APP_ROOT)},
    )
    child = await spawn(command, directory.logs)
    try:
        await until_ready(child, lambda: accepts(config.port), START_WAIT_S)
        yield child.pid
    finally:
        await child.stop(STOP_WAIT_S)


async def accepts(port: int) -> None:
    """Return when something accepts connections there. Raises NotAnsweringError."""
    try:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as cause:
        raise NotAnsweringError from cause
    writer.close()
    await writer.wait_closed()
