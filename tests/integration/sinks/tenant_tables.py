"""Every table that has tenants, every way to ask one for rows, and what becomes of it."""

from typing import Any

import asyncpg

ROLES = ("edge", "worker", "operator")
TABLES = (
    "attempts",
    "chain_entries",
    "chain_frontiers",
    "chain_heads",
    "chain_leaves",
    "chain_nodes",
    "decision_evidence_artifacts",
    "decisions",
    "event_keys",
    "evidence_bundles",
    "evidence_outbox",
    "ingest_dlq",
    "ingest_events",
    "operator_actions",
    "tenant_policy_data",
    "tenant_runtime_limits",
    "usage_meters",
)
VERBS = {
    "SELECT": "SELECT FROM {table} WHERE tenant_id = $1",
    "SELECT FOR UPDATE": "SELECT FROM {table} WHERE tenant_id = $1 FOR UPDATE",
    "UPDATE": "UPDATE {table} SET {column} = {column} WHERE tenant_id = $1",
    "UPDATE RETURNING": "UPDATE {table} SET {column} = {column} WHERE tenant_id = $1 RETURNING *",
    "DELETE": "DELETE FROM {table} WHERE tenant_id = $1",
    "DELETE RETURNING": "DELETE FROM {table} WHERE tenant_id = $1 RETURNING *",
    "CTE": "WITH theirs AS (SELECT * FROM {table} WHERE tenant_id = $1) SELECT FROM theirs",
    "CTE that deletes": "WITH gone AS (DELETE FROM {table} WHERE tenant_id = $1 RETURNING *) SELECT FROM gone",
    "MERGE": "MERGE INTO {table} AS t USING (VALUES ($1)) AS v (tenant_id) ON t.tenant_id = v.tenant_id"
    " WHEN MATCHED THEN DO NOTHING",
    "MERGE that updates": "MERGE INTO {table} AS t USING (VALUES ($1)) AS v (tenant_id) ON t.tenant_id = v.tenant_id"
    " WHEN MATCHED THEN UPDATE SET {column} = t.{column}",
    "MERGE that deletes": "MERGE INTO {table} AS t USING (VALUES ($1)) AS v (tenant_id) ON t.tenant_id = v.tenant_id"
    " WHEN MATCHED THEN DELETE",
}
"""With the other tenant's id: no row, or denied."""
_COPY = "INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, $1)"
WRITES = {
    "INSERT": _COPY,
    "INSERT RETURNING": f"{_COPY} RETURNING *",
    "INSERT of many": "INSERT INTO {table} SELECT r.* FROM unnest(ARRAY[$1::jsonb]) AS j (row)"
    " CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, j.row) AS r",
    "INSERT ON CONFLICT DO NOTHING": f"{_COPY} ON CONFLICT DO NOTHING",
    "INSERT ON CONFLICT DO UPDATE": f"{_COPY} ON CONFLICT ON CONSTRAINT {{table}}_pkey"
    " DO UPDATE SET {column} = EXCLUDED.{column}",
    "MERGE that inserts": "MERGE INTO {table} AS t USING jsonb_populate_record(NULL::{table}, $1) AS v ON false"
    " WHEN NOT MATCHED THEN INSERT VALUES (v.*)",
}
"""With a row of the other tenant: denied."""

# What no repository of these tests writes.
REST = """
INSERT INTO attempts VALUES ($1, 'e1', 'decision', 1, now(), now());
INSERT INTO chain_frontiers VALUES ($1, 1, '\\x', repeat('a', 64), repeat('b', 64), 0, 1);
INSERT INTO chain_leaves VALUES ($1, 1, 1, 0, repeat('a', 64));
INSERT INTO chain_nodes VALUES ($1, 8, 0, sha256(''));
INSERT INTO evidence_bundles VALUES ($1, 'b1', '{}');
INSERT INTO operator_actions VALUES ($1, 'a1', 'someone', 'nothing', '{}');
INSERT INTO tenants (tenant_id, plan_tier) VALUES ($1, 'pro');
INSERT INTO tenant_runtime_limits VALUES ($1, 'pro', 1, 1, now(), 'someone');
INSERT INTO tenant_policy_data VALUES ($1, '{}', now(), 'someone');
"""
SET_TENANTS = "SELECT app.set_tenants($1::text[])"


async def attempt(connection: Any, tenant: str, statement: str, *values: str) -> str:
    """What became of the statement in a transaction of the tenant: how many rows, or that it was denied."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(SET_TENANTS, [tenant])
        tag: str = await connection.execute(statement, *values)
    except asyncpg.InsufficientPrivilegeError:
        return "denied"
    else:
        return tag.rpartition(" ")[2]
    finally:
        await transaction.rollback()


async def changeable_column(connection: Any, table: str) -> str:
    query = """
        SELECT column_name FROM information_schema.column_privileges
        WHERE table_name = $1 AND grantee = current_user AND privilege_type = 'UPDATE' LIMIT 1
    """
    return await connection.fetchval(query, table) or "tenant_id"
