"""Policy data of tenants: set by operators with a history, read by workers within their rights, at most 2 s old."""

from typing import Any

import pytest

from schemas.answers import NoAnswer
from schemas.policy_data import NO_POLICY_DATA, read_policy_data
from schemas.units import UnixMs
from sinks.faults import UnexpectedAnswerError
from sinks.pg import Pool
from sinks.policy_data import AGE_MS_MAX, PolicyDataReader, TenantPolicyData
from sinks.tenants import Tenants, UnknownTenantError
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

FIRST = read_policy_data(b'{"denied_programs": ["nmap", "\xc3\xa9"], "limits": {"failed_logins": 9007199254740991}}')
SECOND = read_policy_data(b'{"b": [true, null, -1], "a": {}}')


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> UnixMs:
        return UnixMs(self.ms)


async def tenant_with(operator: Pool, text: bytes | None = None) -> str:
    tenant_id = make.tenant_id()
    await Tenants(operator).add(tenant_id)
    if text is not None:
        await TenantPolicyData(operator).set(tenant_id, read_policy_data(text), "somebody")
    return tenant_id


async def test_data_is_set_shown_replaced_and_cleared_and_the_history_says_by_whom(
    operator: Pool, superuser: Any
) -> None:
    tenant_id, stored = await tenant_with(operator), TenantPolicyData(operator)
    assert await stored.show(tenant_id) is None
    assert not await stored.clear(tenant_id, "ann")
    for data in (FIRST, SECOND):
        await stored.set(tenant_id, data, "ann")
        row = await stored.show(tenant_id)
        assert row is not None
        assert (row.data, row.updated_by) == (data, "ann"), "exactly what was set, hash and all"
    assert await stored.clear(tenant_id, "bob")
    assert await stored.show(tenant_id) is None
    history = await superuser.fetch(
        "SELECT operator, action, details->>'sha256' FROM operator_actions WHERE tenant_id = $1 ORDER BY done_at",
        tenant_id,
    )
    assert [tuple(row) for row in history] == [
        ("ann", "policy_data.set", FIRST.sha256),
        ("ann", "policy_data.set", SECOND.sha256),
        ("bob", "policy_data.clear", ""),
    ]


@pytest.mark.parametrize("name", ["nobody-knows", "not a tenant", ""])
async def test_what_is_no_tenant_has_no_data(operator: Pool, name: str) -> None:
    with pytest.raises(UnknownTenantError):
        await TenantPolicyData(operator).set(name, FIRST, "ann")


async def test_a_worker_reads_many_tenants_at_once_and_keeps_them_for_less_than_2_s(
    operator: Pool, worker: Pool
) -> None:
    first, second = await tenant_with(operator, FIRST.document), await tenant_with(operator)
    clock, stored = Clock(), TenantPolicyData(operator)
    reader = PolicyDataReader(worker, clock)
    assert await reader.of([first, second]) == {first: FIRST, second: NO_POLICY_DATA}
    await stored.set(first, SECOND, "ann")
    await stored.set(second, SECOND, "ann")
    clock.ms += AGE_MS_MAX - 1
    assert await reader.of([first, second]) == {first: FIRST, second: NO_POLICY_DATA}
    clock.ms += 1
    assert await reader.of([first, second]) == {first: SECOND, second: SECOND}
    await stored.clear(first, "ann")
    clock.ms -= 60_000
    assert await reader.of([first]) == {first: NO_POLICY_DATA}, "a clock that went back makes nothing young"


async def test_a_tenant_not_asked_about_before_is_read_and_never_taken_for_one_without_data(
    operator: Pool, worker: Pool
) -> None:
    first, second = await tenant_with(operator), await tenant_with(operator, FIRST.document)
    reader = PolicyDataReader(worker, Clock())
    await reader.of([first])
    assert (await reader.of([first, second]))[second] == FIRST


async def test_without_the_database_there_is_no_answer_rather_than_no_data() -> None:
    away = await Pool.open(settings("postgresql://nobody@127.0.0.1:1/nothing"))
    with pytest.raises(NoAnswer):
        await PolicyDataReader(away, Clock()).of([make.tenant_id()])
    await away.close()


async def test_what_was_written_past_this_program_and_cannot_be_hashed_is_null(superuser: Any, worker: Pool) -> None:
    tenant_id = make.tenant_id()
    await superuser.execute("INSERT INTO tenants (tenant_id) VALUES ($1)", tenant_id)
    await superuser.execute(
        "INSERT INTO tenant_policy_data (tenant_id, data, updated_by) VALUES ($1, $2::text::jsonb, 'x')",
        tenant_id,
        '{"a": 1.5}',
    )
    data = (await PolicyDataReader(worker, Clock()).of([tenant_id]))[tenant_id]
    assert data.document == b"null"
    assert len(data.sha256) == 64


async def test_only_the_operator_writes_and_nobody_reads_another_tenant(
    operator: Pool, worker: Pool, edge: Pool
) -> None:
    mine, other = await tenant_with(operator, FIRST.document), await tenant_with(operator, SECOND.document)
    async with worker.tenant_transaction([mine]) as connection:
        rows = await connection.fetch("SELECT tenant_id FROM tenant_policy_data")
    assert [row["tenant_id"] for row in rows] == [mine]
    for pool in (worker, edge):
        with pytest.raises(UnexpectedAnswerError, match="42501"):
            async with pool.tenant_transaction([other]) as connection:
                await connection.execute("DELETE FROM tenant_policy_data")
    with pytest.raises(UnexpectedAnswerError, match="42501"):
        async with edge.tenant_transaction([other]) as connection:
            await connection.fetch("SELECT FROM tenant_policy_data")
