"""Proof, from the live database, that row-level security binds this very login (DESIGN decision 12)."""

from pathlib import Path

from sinks.faults import is_denied
from sinks.migrate import packaged
from sinks.pg import Pool

EXEMPT_TABLES = {
    "public.tenants": "the list of tenants itself",
    "public.api_keys": "looked up before the tenant is known",
    "public.agent_keys": "looked up before the tenant is believed; public keys only",
    "public.signing_keys": "public keys, which any verifier needs",
    "public.outbox_tenants": "tells the relay which tenants to name; ids only, for the worker alone",
}
DEFINER_FUNCTIONS = {"app.ensure_ingest_partition": "creates a protected partition, reads no row and returns nothing"}
LOOSE_INDEXES = {"ingest_dlq_pkey": "the table's published id is a number of its own"}
CANONICAL_POLICY = "(tenant_id = ANY (( SELECT app.tenants() AS tenants)::text[]))"

_RULES = (Path(__file__).parent / "attest.sql").read_text()
_APPLIED = "SELECT name FROM schema_migrations"
_TENANT_TABLES = """
SELECT c.oid::regclass::text AS name, format('SELECT FROM %s LIMIT 1', c.oid::regclass) AS probe
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
    AND has_table_privilege(c.oid, 'SELECT') AND 'public.' || c.relname <> ALL ($1::text[])
ORDER BY 1
"""


async def findings(pool: Pool) -> list[str]:
    """What stands against this login's isolation; empty means attested. Raises NoAnswer.

    Run by the role that serves: its rights are what is judged.
    """
    async with pool.connection() as connection:
        applied = {row["name"] for row in await connection.fetch(_APPLIED)}
        missing = [migration.name for migration in packaged() if migration.name not in applied]
        rows = await connection.fetch(
            _RULES, list(EXEMPT_TABLES), CANONICAL_POLICY, list(DEFINER_FUNCTIONS), list(LOOSE_INDEXES)
        )
    found = [f"migration {name} is not applied" for name in missing]
    return found + [row[0] for row in rows] + await _unbound(pool)


async def _unbound(pool: Pool) -> list[str]:
    """The tables whose policies do not bind this login: with row_security off a bound read is refused, not filtered."""
    found = []
    async with pool.lent() as connection:
        await connection.execute("BEGIN")
        tables = await connection.fetch(_TENANT_TABLES, list(EXEMPT_TABLES))
        for table in tables:
            await connection.execute("SAVEPOINT probe; SET LOCAL row_security = off")
            if not await is_denied(connection.execute(table["probe"])):
                found.append(f"{table['name']}: the probe read past row-level security")
            await connection.execute("ROLLBACK TO probe")
        await connection.execute("ROLLBACK")
    return found
