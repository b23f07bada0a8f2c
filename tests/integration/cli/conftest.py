"""One running stack for these tests, and for each test a tenant of its own."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops.instance import Stack
from tests.integration.cli.commands import Shell
from tests.integration.test_up import Up, clean, until

_numbers = itertools.count()


class Tenant:
    """A tenant of the running stack with a key, and what the database holds of it."""

    def __init__(self, stack: Stack, shell: Shell, tenant_id: str) -> None:
        self.stack = stack
        self.tenant_id = tenant_id
        assert shell.run("tenants", "add", tenant_id).status == 0
        self.api_key: str = shell.run("keys", "issue", tenant_id, "--json").document["api_key"]
        self.shell = shell.with_variables(FG_URL=stack.url, FG_API_KEY=self.api_key)

    def rows(self, query: str) -> list[Any]:
        """The answer to a query whose $1 is the tenant."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.stack.postgres_dsn)
            try:
                return list(await connection.fetch(query, self.tenant_id))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def decided(self, count: int) -> list[Any]:
        """The event ids and payloads of all decided events, once there are `count` of them."""
        query = "SELECT event_id FROM decisions WHERE tenant_id = $1"
        until(f"{count} decisions", lambda: len(self.rows(query)) >= count)
        bodies = "SELECT event_id, convert_from(body, 'UTF8')::jsonb->'payload' FROM ingest_events WHERE tenant_id = $1"
        return self.rows(bodies)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A `frostgate up` that runs through all these tests, at rates that no test here has to wait for."""
    rates = {"FG_DP_INGEST_RPS_BURST": "100000", "FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON": '{"free":100000}'}
    up = Up(tmp_path_factory.mktemp("cli"), **rates)
    try:
        yield up.ready()
    finally:
        clean(up)


@pytest.fixture
def operator(stack: Stack, tmp_path: Path) -> Shell:
    """Somebody who finds the stack by its data directory."""
    return Shell(tmp_path, FG_DATA_DIR=stack.data_dir)


@pytest.fixture
def tenant(stack: Stack, operator: Shell) -> Tenant:
    return Tenant(stack, operator, f"cli-{next(_numbers)}")
