"""Bundles over HTTP: orders are bounded, nobody else's are told, and content is hashed before it leaves."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from ops.settings import load
from schemas.codes import Code
from schemas.principal import Scope
from sinks.api_keys import ApiKeys
from sinks.bundles import Written
from sinks.exports import PENDING_MAX, PIECE_BYTES, Exports, Pieces
from sinks.pg import Pool
from sinks.worm import DirectoryWorm
from tests.contract.conftest import RunEdge, Sender
from tests.contract.wire import Answer, Client, Connection, head

EXPORTS = "/v1/evidence/exports"
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
            pieces = Pieces(worm, f"exports/{sender.tenant_id}/{taken.bundle_id}/attempt")
            await pieces.write(CONTENT)
            await pieces.close()
            await exports.done(taken, Written({"bundle_id": taken.bundle_id}, "0" * 64, len(CONTENT)), pieces)


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
    (last,) = tmp_path.rglob("000001")
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
    assert await exports.take(timedelta(minutes=1)) == taken
    assert await exports.take(timedelta(minutes=1)) is None
    await exports.give_back(taken, timedelta(0))
    assert await exports.take(timedelta(minutes=1)) == taken
    await exports.failed(taken, "because")
    await exports.failed(taken, "for another reason")
    status = (await asked(sender, f"{EXPORTS}/{taken.bundle_id}")).document
    assert (status["status"], status["bundle"]["reason"]) == ("failed", "because")
