"""Agents' public keys: valid within their times, rotated with an overlap, revoked for good."""

from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from schemas.principal import SigningKey
from schemas.units import UnixMs, format_rfc3339, parse_rfc3339
from sinks import attest
from sinks.agent_keys import AgentKeys, KeyExistsError, UnknownKeyError, key_id_of
from sinks.pg import Pool
from sinks.tenants import Tenants, UnknownTenantError
from tests.integration.sinks import make
from tests.signing import Agent

DAY_MS = 86_400_000


@pytest.fixture
async def known(operator: Pool, tenant: str) -> str:
    """A tenant that is in the list."""
    await Tenants(operator).add(tenant, "pro")
    return tenant


async def clock_of(superuser: Any) -> UnixMs:
    return UnixMs(await superuser.fetchval("SELECT (extract(epoch FROM now()) * 1000)::bigint"))


async def found(pool: Pool, key_id: str) -> SigningKey:
    key = await AgentKeys(pool).public_key(key_id)
    assert key is not None
    return key


async def test_an_issued_key_is_found_by_the_edge_with_exactly_its_times(
    operator: Pool, edge: Pool, known: str
) -> None:
    agent = Agent(known, "agent-1")
    times = (UnixMs(1_767_225_600_123), UnixMs(1_898_000_000_456))
    key_id = await AgentKeys(operator).issue(known, "agent-1", agent.public_key, *times)
    assert key_id == agent.key_id
    assert await found(edge, key_id) == agent.key(not_before_ms=times[0], not_after_ms=times[1])


async def test_without_times_a_key_is_valid_from_now_without_end(
    operator: Pool, edge: Pool, superuser: Any, known: str
) -> None:
    key_id = await AgentKeys(operator).issue(known, "agent-1", Agent().public_key)
    key = await found(edge, key_id)
    now_ms = await clock_of(superuser)
    assert now_ms - 60_000 < key.not_before_ms < now_ms - 2_000
    assert (key.not_after_ms, key.revoked_ms) == (None, None)


async def test_nobody_has_a_key_that_was_never_issued(edge: Pool) -> None:
    assert await AgentKeys(edge).public_key("0" * 16) is None


async def test_a_rotated_key_stays_for_the_overlap_beside_the_new_one(
    operator: Pool, edge: Pool, superuser: Any, known: str
) -> None:
    keys, old, new = AgentKeys(operator), Agent(known), Agent(known)
    await keys.issue(known, "agent-1", old.public_key)
    assert await keys.rotate(old.key_id, new.public_key, DAY_MS) == new.key_id
    ending, begun, now_ms = await found(edge, old.key_id), await found(edge, new.key_id), await clock_of(superuser)
    assert ending.not_after_ms is not None
    assert now_ms + DAY_MS - 60_000 < ending.not_after_ms <= now_ms + DAY_MS
    assert (begun.tenant_id, begun.agent_id, begun.not_after_ms) == (known, "agent-1", None)
    assert begun.not_before_ms < now_ms - 2_000


async def test_an_overlap_never_prolongs_a_key(operator: Pool, edge: Pool, superuser: Any, known: str) -> None:
    keys, old = AgentKeys(operator), Agent(known)
    ends = UnixMs(await clock_of(superuser) + 600_000)
    await keys.issue(known, "agent-1", old.public_key, None, ends)
    new_key_id = await keys.rotate(old.key_id, Agent().public_key, DAY_MS, ends)
    assert (await found(edge, old.key_id)).not_after_ms == ends
    assert (await found(edge, new_key_id)).not_after_ms == ends


async def test_a_key_that_is_revoked_over_or_unknown_cannot_be_rotated(operator: Pool, known: str) -> None:
    keys, revoked, over = AgentKeys(operator), Agent(), Agent()
    await keys.issue(known, "agent-1", revoked.public_key)
    await keys.revoke(revoked.key_id)
    await keys.issue(known, "agent-1", over.public_key, UnixMs(1), UnixMs(2))
    for key_id in (revoked.key_id, over.key_id, "0" * 16):
        new = Agent()
        with pytest.raises(UnknownKeyError):
            await keys.rotate(key_id, new.public_key, DAY_MS)
        assert await keys.public_key(new.key_id) is None


async def test_a_rotation_to_a_known_key_changes_nothing(operator: Pool, edge: Pool, known: str) -> None:
    keys, old, other = AgentKeys(operator), Agent(), Agent()
    for agent in (old, other):
        await keys.issue(known, "agent-1", agent.public_key)
    with pytest.raises(KeyExistsError):
        await keys.rotate(old.key_id, other.public_key, 0)
    assert (await found(edge, old.key_id)).not_after_ms is None


async def test_a_revoked_key_is_marked_once_and_for_good(
    operator: Pool, edge: Pool, superuser: Any, known: str
) -> None:
    keys, agent = AgentKeys(operator), Agent()
    await keys.issue(known, "agent-1", agent.public_key)
    assert await keys.revoke(agent.key_id)
    assert not await keys.revoke(agent.key_id)
    revoked_ms = (await found(edge, agent.key_id)).revoked_ms
    assert revoked_ms is not None
    assert revoked_ms <= await clock_of(superuser)


async def test_the_list_shows_a_tenants_keys_and_what_became_of_them(operator: Pool, known: str) -> None:
    keys, first, second = AgentKeys(operator), Agent(), Agent()
    ends = parse_rfc3339("2030-01-31T00:00:00Z")
    await keys.issue(known, "agent-1", first.public_key)
    await keys.issue(known, "agent-2", second.public_key, UnixMs(0), ends)
    await keys.revoke(first.key_id)
    listed = {key.key_id: key for key in await keys.list(known)}
    assert set(listed) == {first.key_id, second.key_id}
    assert listed[first.key_id].revoked_at is not None
    assert listed[second.key_id][2:] == (
        *("agent-2", listed[second.key_id].created_at, "1970-01-01T00:00:00.000Z", format_rfc3339(ends), None),
    )
    assert set(listed) <= {key.key_id for key in await keys.list()}
    assert await keys.list(make.tenant_id()) == []


async def test_no_key_is_issued_twice_or_for_whom_it_cannot_be(operator: Pool, known: str) -> None:
    keys, agent = AgentKeys(operator), Agent()
    await keys.issue(known, "agent-1", agent.public_key)
    with pytest.raises(KeyExistsError):
        await keys.issue(known, "agent-2", agent.public_key)
    with pytest.raises(UnknownTenantError):
        await keys.issue(make.tenant_id(), "agent-1", Agent().public_key)
    with pytest.raises(ValueError):
        await keys.issue(known, "a b", Agent().public_key)
    with pytest.raises(ValueError):
        key_id_of(b"short")


@pytest.mark.parametrize("role", ["edge", "worker"])
async def test_neither_service_changes_keys_and_the_worker_does_not_read_them(
    servers: EmbeddedServers, role: str
) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn(role))
    try:
        for statement in (
            "UPDATE agent_keys SET revoked_at = NULL",
            "DELETE FROM agent_keys",
            "INSERT INTO agent_keys (key_id) VALUES ('x')",
            *(["SELECT FROM agent_keys"] if role == "worker" else []),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_nobody_gives_a_key_to_another_agent(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn("operator"))
    try:
        for column in ("tenant_id = tenant_id", "agent_id = 'x'", "public_key = public_key", "not_before = now()"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"UPDATE agent_keys SET {column}")  # noqa: S608  (a fixed list)
    finally:
        await connection.close()


async def test_the_table_is_exempt_by_name_and_everything_else_still_attests(edge: Pool) -> None:
    assert "public.agent_keys" in attest.EXEMPT_TABLES
    assert await attest.findings(edge) == []
