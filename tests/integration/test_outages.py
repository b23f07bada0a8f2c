"""A server goes away under the running edge and worker, and comes back.

What was acknowledged stays, what cannot be acknowledged is refused with its code, nothing lands in
the dead-letter queue, and work resumes by itself.
"""

import asyncio
import http.client
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from ops import plan
from ops.clock import SystemClock, new_uuid7
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.embedded.process import Child, free_port, spawn
from ops.settings import load
from schemas.units import format_rfc3339

BOUND_S = 60.0


class Pipeline:
    """An edge and a worker on servers of their own, which a test may stop and start."""

    def __init__(self, servers: EmbeddedServers, api_key: str, port: int, children: list[Child]) -> None:
        self.servers = servers
        self.children = children
        self._port = port
        self._api_key = api_key

    async def send(self, event_id: str) -> tuple[int, str]:
        """Publish one event; returns the status and the error code."""
        return await asyncio.to_thread(self._send, event_id)

    async def sent_at_last(self, event_id: str) -> None:
        """Publish until it is accepted."""

        async def accepted() -> bool:
            return (await self.send(event_id))[0] == 202

        await until(f"{event_id} is accepted", accepted)

    async def count(self, table: str) -> int:
        connection = await asyncpg.connect(self.servers.postgres_dsn("admin"))
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608  (the test's own name)
        finally:
            await connection.close()

    def _send(self, event_id: str) -> tuple[int, str]:
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
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
            connection.request("POST", "/ingest", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()).get("error_code", "")
        finally:
            connection.close()


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(BOUND_S):
            while not await holds():  # noqa: ASYNC110  (other processes do the work)
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {BOUND_S} s: {what}")


@pytest.fixture(scope="module")
async def pipeline(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pipeline]:
    with await DataDirectory.open(tmp_path_factory.mktemp("outages") / "data") as directory:
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
            pipeline = Pipeline(servers, provision.api_key, port, children)

            async def listening() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    return False
                writer.close()
                return True

            await until("the edge listens", listening)
            await pipeline.sent_at_last("warm-up")
            yield pipeline
        finally:
            for child in children:
                await child.stop(5.0)
            await servers.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


async def _decided(pipeline: Pipeline, events: int) -> None:
    async def all_of_them() -> bool:
        return await pipeline.count("decisions") >= events

    await until(f"{events} decisions", all_of_them)
    assert await pipeline.count("decisions") == events
    assert await pipeline.count("ingest_dlq") == 0


async def test_with_postgres_stopped_ingest_goes_on_and_the_backlog_is_decided_afterwards(pipeline: Pipeline) -> None:
    await _decided(pipeline, 1)
    await pipeline.servers.stop_one("postgres")
    # Within 15 s of a broker's start nobody can tell a new id from one it forgot: those are refused, then it goes on.
    await pipeline.sent_at_last("away-0")
    for number in range(1, 50):
        assert await pipeline.send(f"away-{number}") == (202, "")
    await pipeline.servers.start_one("postgres")
    await _decided(pipeline, 51)
    assert all(child.alive for child in pipeline.children)


async def test_with_the_broker_stopped_ingest_is_refused_and_resumes_by_itself(pipeline: Pipeline) -> None:
    before = await pipeline.count("decisions")
    await pipeline.servers.stop_one("nats")

    async def refused_as_unavailable() -> bool:
        return await pipeline.send("refused") == (503, "STREAM_UNAVAILABLE")

    await until("the edge knows", refused_as_unavailable)
    assert await pipeline.send("refused-too") == (503, "STREAM_UNAVAILABLE")
    await pipeline.servers.start_one("nats")
    await pipeline.sent_at_last("back")
    await _decided(pipeline, before + 1)
    assert all(child.alive for child in pipeline.children)


async def test_with_valkey_stopped_ingest_is_refused_and_resumes_by_itself(pipeline: Pipeline) -> None:
    before = await pipeline.count("decisions")
    await pipeline.servers.stop_one("valkey")
    assert await pipeline.send("refused-here") == (503, "RATE_LIMIT_BACKEND_UNAVAILABLE")
    await pipeline.servers.start_one("valkey")
    await pipeline.sent_at_last("back-again")
    await _decided(pipeline, before + 1)
