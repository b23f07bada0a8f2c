"""The real servers, started once for the whole session."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ops import plan
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.settings import load


@asynccontextmanager
async def laid_out(data_dir: Path) -> AsyncIterator[EmbeddedServers]:
    """Servers with tables and streams made; on leaving they have ended."""
    with await DataDirectory.open(data_dir) as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start()
            await plan.lay_out(embedded, load({}).streams)
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """NATS, Postgres and Valkey with tables and streams made, by the settings' defaults.

    `nats_url` takes edge, worker, admin or system; `postgres_dsn` takes edge, worker, operator
    (fg_admin), or admin (the superuser). Each test uses a tenant of its own.
    """
    async with laid_out(tmp_path_factory.mktemp("servers") / "data") as embedded:
        yield embedded
