"""Bundles over HTTP: orders are bounded, nobody else's are told, and content is hashed before it leaves."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops.clock import new_uuid7
from ops.embedded import EmbeddedServers
from ops.settings import load
from schemas.answers import Refusal
from schemas.codes import Code
from schemas.principal import Scope
from sinks.api_keys import ApiKeys
from sinks.bundles import Written
from sinks.exports import ATTEMPTS_MAX, DAY_MAX, PENDING_MAX, PIECE_BYTES, ExportDesk, Exports, Pieces
from sinks.faults import UnexpectedAnswerError
from sinks.pg import Pool
from sinks.worm import DirectoryWorm
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import opened
from tests.contract.wire import Answer, Client, Connection, head

EXPORTS = "/v1/evidence/exports"
REQUEST = "INSERT INTO export_requests (tenant_id, bundle_id) VALUES ($1, $2)"
CONTENT = b"0123456789abcdef" * (PIECE_BYTES // 16 + 1)
"""A piece and sixteen bytes more."""


async def ordered(sender: Sender, query: str = "") -> Answer:
    return await sender.client.ask("POST", EXPORTS + query)


async def asked(sender: Sender, path: str) -> Answer:
    return await sender.client.ask("GET", path)


async def built(pool: Pool, worm: DirectoryWorm, sender: Sender) -> None:
    """What the worker does with the tenant's order, but for what the bundle holds. Others' orders wait on."""
    exports = Exports(pool)
    while (taken := await exports.take(timedelta(minutes=1))) is not None:
        if taken.tenant_id == sender.tenant_id:
            pieces = Pieces(worm, f"exports/{sender.tenant_id}/{taken.bundle_id}")
            await pieces.write(CONTENT)
            await pieces.close()
            await exports.done(taken, Written({"bundle_id": taken.bundle_id}, "0" * 64, len(CONTENT)), pieces)


async def all_failed(pool: Pool) -> None:
    """End whatever orders there are."""
    exports = Exports(pool)
    while (taken := await exports.take(timedelta(minutes=1))) is not None:
        await exports.failed(taken, "not of this test")


@pytest.fixture
async def superuser(servers: EmbeddedServers) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    yield connection
    await connection.close()


@pytest.fixture
async def reader(sender: Sender, run_edge: RunEdge, tmp_path: Path) -> AsyncIterator[Sender]:
    """The sender at an edge with a store of its own."""
    settings = dataclasses.replace(load({}).evidence, worm_dir=tmp_path)
    async with run_edge(more={"evidence": settings}) as edge:
        yield sender.at(edge)


async def test_an_order_is_accepted_once_and_can_be_asked_for(sender: Sender) -> None:
    answer = await ordered(sender, "?include_trace=true&from=2026-02-01T01:00:00%2B01:00")
    assert (answer.status, answer.document["status"]) == (202, "pending")
    assert answer.document["bundle"] == {
        "ingested_from": "2026-02-01T00:00:00.000Z",
        "ingested_to": "",
        "include_trace": True,
    }
    where = answer.headers["location"]
    assert where == f"{EXPORTS}/{answer.document['bundle_id']}"
    assert (await asked(sender, where)).document == answer.document
    assert (await asked(sender, f"{where}/content")).code == Code.NOT_FOUND


async def test_a_tenant_has_so_many_orders_waiting_and_no_more(sender: Sender, other_sender: Sender) -> None:
    assert [(await ordered(sender)).status for _ in range(PENDING_MAX)] == [202] * PENDING_MAX
    refused = await ordered(sender)
    assert refused.code == Code.RATE_LIMITED
    assert int(refused.headers["retry-after"]) >= 1
    assert (await ordered(other_sender)).status == 202


async def test_a_tenant_orders_so_many_in_a_day_and_no_more(
    sender: Sender, other_sender: Sender, worker_pool: Pool, superuser: Any
) -> None:
    for _ in range(DAY_MAX):
        assert (await ordered(sender)).status == 202
        await all_failed(worker_pool)
    await superuser.execute(
        "UPDATE evidence_bundles SET created_at = created_at - interval '23 hours' WHERE tenant_id = $1",
        sender.tenant_id,
    )
    refused = await ordered(sender)
    assert refused.code == Code.RATE_LIMITED
    assert 3_000 < int(refused.headers["retry-after"]) <= 3_600
    assert (await ordered(other_sender)).status == 202
    await superuser.execute(
        "UPDATE evidence_bundles SET created_at = created_at - interval '1 hour' WHERE (tenant_id, bundle_id) = "
        "(SELECT tenant_id, min(bundle_id) FROM evidence_bundles WHERE tenant_id = $1 GROUP BY 1)",
        sender.tenant_id,
    )
    assert [(await ordered(sender)).status for _ in range(2)] == [202, 429]


async def test_orders_at_once_are_counted_one_after_the_other(sender: Sender, servers: EmbeddedServers) -> None:
    async with opened(servers.postgres_dsn("edge")) as pool:
        desk = ExportDesk(pool, DirectoryWorm(Path()))
        waits = await asyncio.gather(
            *(desk.order(sender.tenant_id, new_uuid7(), ("", "", False), "key") for _ in range(8))
        )
    assert waits.count(0) == PENDING_MAX


async def test_an_order_that_is_none_ends_and_the_worker_goes_on(
    sender: Sender, servers: EmbeddedServers, worker_pool: Pool, superuser: Any
) -> None:
    """What a stolen login of an edge can write."""
    await all_failed(worker_pool)
    tenant_id, unreadable = sender.tenant_id, new_uuid7()
    async with opened(servers.postgres_dsn("edge")) as pool:
        for bundle_id in ("nope1", new_uuid7(), "-", "../a", "A" * 36):
            with pytest.raises((Refusal, UnexpectedAnswerError)):
                async with pool.connection() as connection:
                    await connection.execute(REQUEST, tenant_id, bundle_id)
        async with pool.tenant_transaction([tenant_id]) as connection:
            await connection.execute(
                "INSERT INTO evidence_bundles (tenant_id, bundle_id, bundle_json, status, requested_by) "
                """VALUES ($1, $2, '{"ingested_from": 1}', 'pending', 'x'), ($1, $3, '[]', 'ready', 'x')""",
                tenant_id,
                unreadable,
                other := new_uuid7(),
            )
            await connection.execute(REQUEST, tenant_id, unreadable)
            await connection.execute(REQUEST, tenant_id, other)
    assert await Exports(worker_pool).take(timedelta(0)) is None
    status = (await asked(sender, f"{EXPORTS}/{unreadable}")).document
    assert (status["status"], status["bundle"]) == ("failed", {"reason": "this is no order"})
    assert await superuser.fetchval("SELECT count(*) FROM export_requests WHERE tenant_id = $1", tenant_id) == 0


async def test_an_order_without_its_bundle_is_forgotten(sender: Sender, worker_pool: Pool, superuser: Any) -> None:
    await all_failed(worker_pool)
    await superuser.execute("SET session_replication_role = 'replica'")
    await superuser.execute(REQUEST, sender.tenant_id, new_uuid7())
    assert await Exports(worker_pool).take(timedelta(0)) is None
    assert await superuser.fetchval("SELECT count(*) FROM export_requests WHERE tenant_id = $1", sender.tenant_id) == 0


async def test_orders_take_turns_and_each_has_so_many_attempts(
    sender: Sender, other_sender: Sender, worker_pool: Pool, superuser: Any
) -> None:
    await all_failed(worker_pool)
    orders = [(await ordered(one)).document["bundle_id"] for one in (sender, sender, other_sender)]
    await superuser.execute("UPDATE export_requests SET taken_until = taken_until - interval '1 hour'")
    exports = Exports(worker_pool)
    turns: list[str] = []
    while (taken := await exports.take(timedelta(seconds=len(turns) - 1_000))) is not None:
        turns.append(taken.bundle_id)
    assert turns == orders * ATTEMPTS_MAX
    status = (await asked(sender, f"{EXPORTS}/{orders[0]}")).document
    assert (status["status"], status["bundle"]["reason"].split(":")[0]) == ("failed", "given up")


@pytest.mark.parametrize(
    "query", ["?a=1", "?from=yesterday", "?include_trace=yes", "?include_trace", "?from=&to=", "?to=1&to=1", "?%ff=1"]
)
async def test_an_order_that_asks_for_anything_else_is_refused(sender: Sender, query: str) -> None:
    assert (await ordered(sender, query)).code == Code.MALFORMED_REQUEST


async def test_foreign_unknown_and_impossible_bundles_are_answered_alike(sender: Sender, other_sender: Sender) -> None:
    where = (await ordered(other_sender)).headers["location"]
    for path in (where, f"{EXPORTS}/0199d7a0-0000-7000-8000-000000000000", f"{EXPORTS}/", f"{EXPORTS}/%00"):
        assert (await asked(sender, path)).code == Code.NOT_FOUND
        assert (await asked(sender, f"{path}/content")).code == Code.NOT_FOUND


@pytest.mark.parametrize(("agent_id", "scope"), [("agent-1", Scope.EVIDENCE_READ), (None, Scope.EVENTS_READ)])
async def test_a_key_of_one_agent_or_another_scope_gets_none(
    sender: Sender, operator_pool: Pool, agent_id: str | None, scope: Scope
) -> None:
    where = (await ordered(sender)).headers["location"]
    key = await ApiKeys(operator_pool).issue(sender.tenant_id, agent_id, [scope])
    client = Client(sender.client.port, key.secret)
    for method, path in (("POST", EXPORTS), ("GET", where), ("GET", f"{where}/content")):
        assert (await client.ask(method, path)).code == Code.SCOPE_DENIED


async def test_a_bundle_that_is_ready_is_served_whole(reader: Sender, worker_pool: Pool, tmp_path: Path) -> None:
    where = (await ordered(reader)).headers["location"]
    await built(worker_pool, DirectoryWorm(tmp_path), reader)
    status = (await asked(reader, where)).document
    assert (status["status"], status["bytes"]) == ("ready", len(CONTENT))
    answer = await asked(reader, f"{where}/content")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-tar")
    assert answer.body == CONTENT


async def test_an_altered_piece_never_leaves(reader: Sender, worker_pool: Pool, tmp_path: Path) -> None:
    where = (await ordered(reader)).headers["location"]
    await built(worker_pool, DirectoryWorm(tmp_path), reader)
    (last,) = (
        path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == len(CONTENT) % PIECE_BYTES
    )
    last.chmod(0o600)
    last.write_bytes(b"X" * 16)
    async with await Connection.open(reader.client.port) as connection:
        connection.send(head("GET", f"{where}/content", reader.client.credential))
        with pytest.raises(asyncio.IncompleteReadError) as broken:
            await connection.answer()
    assert b"X" not in broken.value.partial


async def test_an_order_is_one_workers_until_its_lease_ends(sender: Sender, worker_pool: Pool) -> None:
    await ordered(sender)
    exports = Exports(worker_pool)
    while (taken := await exports.take(timedelta(0))) is not None and taken.tenant_id != sender.tenant_id:
        await exports.failed(taken, "not of this test")
    assert taken is not None
    again = await exports.take(timedelta(minutes=1))
    assert again == taken._replace(attempt=2)
    assert await exports.take(timedelta(minutes=1)) is None
    await exports.give_back(again, timedelta(0))
    assert await exports.take(timedelta(minutes=1)) == taken._replace(attempt=3)
    await exports.failed(taken, "because")
    await exports.failed(taken, "for another reason")
    status = (await asked(sender, f"{EXPORTS}/{taken.bundle_id}")).document
    assert (status["status"], status["bundle"]["reason"]) == ("failed", "because")
