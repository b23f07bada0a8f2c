"""The outbox: entries leave once they are published, each tenant's in the order of its chain."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.rows import OutboxRow
from schemas.subjects import partition_of
from sinks.ledger import DecisionLedger
from sinks.outbox import Outbox
from sinks.pg import Pool
from tests.integration.sinks import make


class Published:
    """A stream that remembers what it was given, and is away when told so."""

    def __init__(self) -> None:
        self.rows: list[OutboxRow] = []
        self.away = False

    async def __call__(self, rows: Sequence[OutboxRow]) -> None:
        if self.away:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        self.rows += rows

    def seqs(self, tenant: str) -> list[int]:
        return [row.seq for row in self.rows if row.tenant_id == tenant]


async def _record(pool: Pool, tenant: str, count: int, prefix: str = "e") -> None:
    await DecisionLedger(pool).record([make.record(tenant, f"{prefix}{number}") for number in range(count)])


async def _drain(outbox: Outbox, partition: int, published: Published, rows_max: int = 50) -> None:
    while await outbox.relay([partition], published, rows_max) == rows_max:
        pass


@pytest.fixture
async def tenant(worker: Pool) -> str:
    """A tenant in whose partition nothing is waiting."""
    fresh = make.tenant_id()
    await _drain(Outbox(worker), partition_of(fresh), Published())
    return fresh


def _neighbours(tenant: str, count: int) -> list[str]:
    """The tenant and others of its partition, sorted."""
    found = [tenant]
    while len(found) < count:
        candidate = make.tenant_id()
        if partition_of(candidate) == partition_of(found[0]):
            found.append(candidate)
    return sorted(found)


async def _waiting(superuser: Any, tenant: str) -> tuple[int, int]:
    rows = await superuser.fetchval("SELECT count(*) FROM evidence_outbox WHERE tenant_id = $1", tenant)
    names = await superuser.fetchval("SELECT count(*) FROM outbox_tenants WHERE tenant_id = $1", tenant)
    return rows, names


async def test_entries_are_published_in_order_and_then_forgotten(worker: Pool, superuser: Any, tenant: str) -> None:
    await _record(worker, tenant, 7)
    published = Published()
    await _drain(Outbox(worker), partition_of(tenant), published, rows_max=3)
    assert published.seqs(tenant) == list(range(1, 8))
    assert await _waiting(superuser, tenant) == (0, 0)


async def test_a_published_row_is_what_the_chain_holds(worker: Pool, superuser: Any, tenant: str) -> None:
    await _record(worker, tenant, 1)
    published = Published()
    await _drain(Outbox(worker), partition_of(tenant), published)
    (row,) = [row for row in published.rows if row.tenant_id == tenant]
    link = await superuser.fetchrow("SELECT * FROM chain_entries WHERE tenant_id = $1", tenant)
    assert (row.kind, row.event_id, row.chain_hash, row.entry) == ("decision", "e0", link["chain_hash"], link["entry"])


async def test_nothing_is_forgotten_when_the_stream_did_not_take_it(worker: Pool, superuser: Any, tenant: str) -> None:
    await _record(worker, tenant, 3)
    outbox, published = Outbox(worker), Published()
    published.away = True
    with pytest.raises(NoAnswer) as failure:
        await outbox.relay([partition_of(tenant)], published, 50)
    assert failure.value.code is Code.STREAM_UNAVAILABLE
    assert await _waiting(superuser, tenant) == (3, 1)
    published.away = False
    await _drain(outbox, partition_of(tenant), published)
    assert published.seqs(tenant) == [1, 2, 3]


async def test_entries_of_another_partition_stay(worker: Pool, superuser: Any, tenant: str) -> None:
    await _record(worker, tenant, 2)
    published = Published()
    await _drain(Outbox(worker), (partition_of(tenant) + 1) % 16, published)
    assert published.seqs(tenant) == []
    assert await _waiting(superuser, tenant) == (2, 1)


async def test_one_relay_at_a_time_works_on_a_partition(worker: Pool, tenant: str) -> None:
    await _record(worker, tenant, 2)
    rival = Published()

    async def publish(_rows: Sequence[OutboxRow]) -> None:
        assert await Outbox(worker).relay([partition_of(tenant)], rival, 50) == 0

    await Outbox(worker).relay([partition_of(tenant)], publish, 50)
    assert rival.rows == []


async def test_entries_committed_while_others_are_published_are_not_forgotten(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    await _record(worker, tenant, 2)
    published = Published()

    async def publish(rows: Sequence[OutboxRow]) -> None:
        await _record(worker, tenant, 2, prefix="late")
        await published(rows)

    outbox = Outbox(worker)
    await outbox.relay([partition_of(tenant)], publish, 50)
    assert published.seqs(tenant) == [1, 2]
    assert await _waiting(superuser, tenant) == (2, 1)
    await _drain(outbox, partition_of(tenant), published)
    assert published.seqs(tenant) == [1, 2, 3, 4]


async def test_a_busy_tenant_does_not_keep_its_neighbours_waiting(worker: Pool, tenant: str) -> None:
    busy, *others = _neighbours(tenant, 3)
    outbox, published = Outbox(worker), Published()
    await _record(worker, busy, 30)
    for quiet in others:
        await _record(worker, quiet, 1)
    for _ in range(2):
        await outbox.relay([partition_of(busy)], published, 10)
    assert [published.seqs(quiet) for quiet in others] == [[1], [1]]
    assert published.seqs(busy) == sorted(published.seqs(busy))


async def test_recording_and_relaying_at_once_publishes_every_entry_once_in_order(
    worker: Pool, superuser: Any, tenant: str
) -> None:
    tenants = _neighbours(tenant, 4)
    partition, published, outbox = partition_of(tenants[0]), Published(), Outbox(worker)
    recorded = asyncio.Event()

    async def record() -> None:
        for start in range(12):
            batch = [make.record(tenant, f"e{start}-{number}") for number in range(6) for tenant in tenants]
            await DecisionLedger(worker).record(batch)
        recorded.set()

    async def relay() -> None:
        while not recorded.is_set():
            await outbox.relay([partition], published, 10)
        await _drain(outbox, partition, published, 10)

    async with asyncio.TaskGroup() as both:
        both.create_task(record())
        both.create_task(relay())
    assert [published.seqs(tenant) for tenant in tenants] == [list(range(1, 73))] * 4
    assert [await _waiting(superuser, tenant) for tenant in tenants] == [(0, 0)] * 4
