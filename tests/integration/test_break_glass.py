"""The emergency override on real servers, from the command line to the evidence; and waiting for a real decision."""

import asyncio
import http.client
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops import plan
from ops.clock import SystemClock, new_uuid7
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.embedded.process import Child, free_port, spawn
from ops.settings import load
from schemas.units import format_rfc3339
from tests.integration.cli.commands import Ended, Shell
from tests.integration.test_outages import until

AWAY = (503, "RATE_LIMIT_BACKEND_UNAVAILABLE")


class Stack:
    """An edge and a worker on servers of their own, and an operator's shell beside them."""

    def __init__(self, servers: EmbeddedServers, port: int, api_key: str, shell: Shell) -> None:
        self.servers = servers
        self._port = port
        self._api_key = api_key
        self._shell = shell

    async def send(self, event_id: str, **fields: str) -> tuple[int, dict[str, Any]]:
        """Publish one event; returns the status and the document."""
        return await asyncio.to_thread(self._send, event_id, fields)

    async def outcome(self, event_id: str) -> tuple[int, str]:
        status, document = await self.send(event_id)
        return status, document.get("error_code", "")

    async def becomes(self, event_id: str, *wanted: tuple[int, str]) -> None:
        """Publish until this is the answer."""

        async def answered() -> bool:
            return await self.outcome(event_id) in wanted

        await until(f"{event_id} is answered {wanted}", answered)

    async def entry(self, event_id: str) -> dict[str, Any]:
        """The chain entry of the event, once it is there."""
        found: list[str] = []
        connection = await asyncpg.connect(self.servers.postgres_dsn("admin"))

        async def chained() -> bool:
            entry = await connection.fetchval("SELECT entry FROM chain_entries WHERE event_id = $1", event_id)
            if entry is not None:
                found.append(entry)
            return bool(found)

        try:
            await until(f"{event_id} is chained", chained)
        finally:
            await connection.close()
        entry: dict[str, Any] = json.loads(found[0])
        return entry

    async def operator(self, *words: str, **variables: str) -> Ended:
        return await asyncio.to_thread(self._shell.with_variables(**variables).run, "break-glass", *words)

    async def why(self, event_id: str) -> str:
        shell = self._shell.with_variables(FG_ADMIN_POSTGRES_DSN=self.servers.postgres_dsn("operator"))
        return (await asyncio.to_thread(shell.run, "why", event_id, "--tenant", plan.TENANT_ID)).stdout

    async def signed(self, name: str, *more: str) -> str:
        ended = await self.operator("sign", "--key", "key.pem", "--reason", "a test", "-o", name, *more, "--json")
        assert ended.status == 0, ended
        return str(ended.document["id"])

    def _send(self, event_id: str, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        body = {
            "tenant_id": plan.TENANT_ID,
            "event_id": event_id,
            "trace_id": new_uuid7(),
            "agent_id": "agent-1",
            "schema_version": "1.0",
            "created_at": format_rfc3339(SystemClock().now_ms()),
            "source": "test",
            "payload": {"kind": "log.line", "path": "/var/log/x", "offset": 0, "line": event_id},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json", **fields}
            connection.request("POST", "/ingest", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    place = tmp_path_factory.mktemp("break-glass")
    with await DataDirectory.open(place / "data") as directory, pytest.MonkeyPatch.context() as environ:
        environ.setenv("FG_BREAK_GLASS_PUBLIC_KEY_FILE", str(place / "key.pem.pub"))
        servers = EmbeddedServers(directory)
        children: list[Child] = []
        try:
            await servers.start()
            what = plan.of(load({}))
            provision = await what.provision(servers, directory)
            port = free_port()
            for name in ("edge", "worker"):  # one after the other, so that both are stopped if the second fails
                command = what.command(name, servers, port, free_port())
                children.append(await spawn(command, directory.logs))
            yield await _ready(Stack(servers, port, provision.api_key, _shell(place, servers)))
        finally:
            for child in children:
                await child.stop(5.0)
            await servers.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


def _shell(place: Path, servers: EmbeddedServers) -> Shell:
    return Shell(place, FG_DATA_DIR=str(servers.data_dir), FG_BREAK_GLASS_PUBLIC_KEY_FILE=str(place / "key.pem.pub"))


async def _ready(stack: Stack) -> Stack:
    async def accepts() -> bool:
        try:
            return (await stack.outcome("warm-up"))[0] == 202
        except OSError:
            return False

    await until("the edge accepts", accepts)
    assert (await stack.operator("keygen", "key.pem")).status == 0
    return stack


async def test_who_prefers_to_wait_gets_the_decision_of_the_worker(stack: Stack) -> None:
    status, document = await stack.send("waited", Prefer="wait=10")
    assert (status, document["status"]) == (200, "decided")
    assert document["event_id"] == "waited"
    entry = await stack.entry("waited")
    assert (entry["seq"], "break_glass" in entry) == (document["chain_seq"], False)


async def test_without_redis_events_are_accepted_under_an_armed_document_alone_and_their_evidence_names_it(
    stack: Stack,
) -> None:
    document_id = await stack.signed("override.json")
    await stack.servers.stop_one("valkey")
    await stack.becomes("refused", AWAY)
    armed = await stack.operator("arm", "override.json", "--json")
    assert (armed.status, armed.document["id"]) == (0, document_id)
    await stack.becomes("under-override", (202, ""))
    assert (await stack.entry("under-override"))["break_glass"] == document_id
    assert f"under the emergency override {document_id}" in await stack.why("under-override")

    assert (await stack.operator("disarm")).status == 0
    await stack.becomes("refused-again", AWAY, (503, "CIRCUIT_OPEN"))
    again = await stack.operator("arm", "override.json")
    assert (again.status, "armed before" in again.stderr) == (1, True)
    elsewhere = await stack.signed("prod.json", "--environment", "prod")
    refused = await stack.operator("arm", "prod.json")
    assert (refused.status, "this is 'dev'" in refused.stderr, elsewhere in refused.stderr) == (1, True, False)
    status = await stack.operator("status", "--json")
    assert (status.status, status.stdout) == (1, "null\n")
    assert (await stack.outcome("refused-still"))[0] == 503

    await stack.servers.start_one("valkey")
    await stack.becomes("after", (202, ""))
    assert "break_glass" not in await stack.entry("after")
