"""The real servers, started once for the whole session."""

import shutil
from collections.abc import AsyncIterator

import pytest

from ops import plan
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.settings import load


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """NATS, Postgres and Valkey with tables and streams made, by the settings' defaults.

    `nats_url` takes edge, worker, admin or system; `postgres_dsn` takes edge, worker, operator
    (fg_admin), or admin (the superuser). Each test uses a tenant of its own.
    """
    with await DataDirectory.open(tmp_path_factory.mktemp("servers") / "data") as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start()
            await plan.lay_out(embedded, load({}).streams)
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)
