"""API keys: known by their hash alone, valid until revoked."""

import hashlib
from typing import Any

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from schemas.principal import Principal
from sinks.api_keys import ApiKeys
from sinks.pg import Pool
from sinks.tenants import PlanTier, TenantExistsError, Tenants, UnknownTenantError
from tests.integration.sinks import make


@pytest.fixture
async def known(operator: Pool, tenant: str) -> str:
    """A tenant that is in the list."""
    await Tenants(operator).add(tenant, PlanTier.PRO)
    return tenant


async def test_an_issued_key_speaks_for_its_tenant(operator: Pool, edge: Pool, known: str) -> None:
    issued = await ApiKeys(operator).issue(known, "agent-1", ["events:read", "ingest"])
    principal = await ApiKeys(edge).authenticate(issued.secret)
    assert principal == Principal(issued.key_id, known, "agent-1", frozenset({"ingest", "events:read"}), "pro")


async def test_a_revoked_key_speaks_for_nobody(operator: Pool, edge: Pool, known: str) -> None:
    keys = ApiKeys(operator)
    revoked, kept = await keys.issue(known, None, ["ingest"]), await keys.issue(known, None, ["ingest"])
    assert await keys.revoke(revoked.key_id)
    assert not await keys.revoke(revoked.key_id)
    assert await ApiKeys(edge).authenticate(revoked.secret) is None
    assert await ApiKeys(edge).authenticate(kept.secret) is not None


async def test_any_other_string_speaks_for_nobody(operator: Pool, edge: Pool, known: str) -> None:
    secret = (await ApiKeys(operator).issue(known, None, ["ingest"])).secret
    for other in ("", "fgk_", secret + "A", secret[:-1], secret.upper(), f" {secret}", "fgk_\x00", "é", secret + "\n"):
        assert await ApiKeys(edge).authenticate(other) is None


async def test_the_secret_is_stored_nowhere_and_printed_never(operator: Pool, superuser: Any, known: str) -> None:
    issued = await ApiKeys(operator).issue(known, None, ["ingest"])
    row = await superuser.fetchrow(
        "SELECT k::text AS text, key_sha256 FROM api_keys AS k WHERE key_id = $1", issued.key_id
    )
    assert row["key_sha256"] == hashlib.sha256(issued.secret.encode()).digest()
    assert issued.secret.split("_", 2)[2] not in row["text"]
    assert issued.secret not in repr(issued)


async def test_the_list_shows_a_tenants_keys_and_what_became_of_them(operator: Pool, known: str) -> None:
    keys = ApiKeys(operator)
    first, second = await keys.issue(known, None, ["ingest"]), await keys.issue(known, "agent-1", ["admin:read"])
    await keys.revoke(first.key_id)
    listed = {key.key_id: key for key in await keys.list(known)}
    assert set(listed) == {first.key_id, second.key_id}
    assert listed[first.key_id].revoked_at is not None
    assert (listed[second.key_id].agent_id, listed[second.key_id].revoked_at) == ("agent-1", None)
    assert set(listed) <= {key.key_id for key in await keys.list()}


async def test_no_key_is_issued_for_a_tenant_that_is_not_there(operator: Pool, tenant: str) -> None:
    with pytest.raises(UnknownTenantError):
        await ApiKeys(operator).issue(tenant, None, ["ingest"])


@pytest.mark.parametrize(("agent_id", "scopes"), [("a b", ["ingest"]), ("", ["ingest"]), (None, ["everything"])])
async def test_no_key_is_issued_for_an_agent_or_scope_that_cannot_be(
    operator: Pool, known: str, agent_id: str | None, scopes: list[str]
) -> None:
    with pytest.raises(ValueError):
        await ApiKeys(operator).issue(known, agent_id, scopes)


async def test_a_tenant_is_added_once_and_keeps_its_plan(operator: Pool, known: str) -> None:
    tenants = Tenants(operator)
    with pytest.raises(TenantExistsError):
        await tenants.add(known, PlanTier.FREE)
    assert not await tenants.ensure(known, PlanTier.FREE)
    assert [listed.plan_tier for listed in await tenants.list() if listed.tenant_id == known] == ["pro"]


@pytest.mark.parametrize(
    ("tenant_id", "plan"), [("a b", "free"), ("_other", "free"), ("a" * 64, "free"), ("a", "gold")]
)
async def test_a_tenant_or_plan_that_cannot_be_is_refused(operator: Pool, tenant_id: str, plan: str) -> None:
    with pytest.raises(ValueError):
        await Tenants(operator).add(tenant_id, plan)


@pytest.mark.parametrize("role", ["edge", "worker"])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tenants (tenant_id) VALUES ('intruder')",
        "UPDATE tenants SET plan_tier = 'enterprise'",
        "DELETE FROM api_keys",
        "UPDATE api_keys SET revoked_at = NULL",
        "SELECT * FROM outbox_tenants; UPDATE api_keys SET scopes = '{admin:write}'",
    ],
)
async def test_neither_service_changes_tenants_or_keys(servers: EmbeddedServers, role: str, statement: str) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn(role))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_ids_of_other_tests_are_not_mixed_up(operator: Pool, known: str) -> None:
    assert await ApiKeys(operator).list(make.tenant_id()) == []
    assert await ApiKeys(operator).list(known) == []
