"""Proof, from the live database, that row-level security binds this very login (DESIGN decision 12)."""

from pathlib import Path
from typing import NamedTuple

from schemas.answers import Refusal
from sinks.faults import UnexpectedAnswerError, is_denied
from sinks.migrate import packaged
from sinks.pg import Connection, Pool

RULES = {
    "R1": "no role the login is or can become may bypass row-level security or manage roles",
    "R2": "the session runs as the role it logged in with",
    "R3": "no such role owns a relation, schema or function",
    "R4": "no such role is predefined by the server",
    "T1": "row-level security is enabled on every table with tenants",
    "T2": "it is forced, for the owner too",
    "T3": "every table has a tenant_id that is never null, or is exempt by name",
    "T4": "every table has its restrictive policy for everyone and its permissive one for this login",
    "T5": "every policy has the one text, and the functions that isolation stands on their definitions",
    "T6": "nobody here may truncate, refer to or maintain a table, or put triggers on it",
    "T7": "every unique index starts with tenant_id",
    "T8": "every foreign key carries tenant_id",
    "T9": "no exclusion constraint compares rows of several tenants",
    "V1": "every view runs as its caller",
    "V2": "there is no materialized view and no foreign table",
    "F1": "no function runs as its owner, but for those named",
    "F2": "no function claims to be leakproof",
    "S1": "nobody here may create in a schema, or schemas",
    "S2": "nobody here may create temporary tables",
    "S3": "nothing is granted to PUBLIC",
    "S4": "row security, durability and trigger settings are the server's defaults",
    "S5": "every trigger is enabled, and those that keep rows and ask for a tenant are there as defined",
    "P1": "every partition is protected like its table",
    "M1": "every migration of this program is applied",
    "B1": "with row_security off, reading a table with tenants is refused",
}
"""R to P are the rows of attest.sql. M1, B1 and A1 are found here."""
UNATTESTABLE = "A1"
"""The rule of the one finding that stands when the database cannot be asked about itself."""

EXEMPT_TABLES = {
    "public.schema_migrations": "the list of migrations; no tenant's",
    "public.tenants": "the list of tenants itself",
    "public.api_keys": "looked up before the tenant is known",
    "public.agent_keys": "looked up before the tenant is believed; public keys only",
    "public.signing_keys": "public keys, which any verifier needs",
    "public.export_requests": "tells the worker which tenants want a bundle; ids only, which an edge may add to",
    "public.outbox_tenants": "tells the relay which tenants to name; ids only, for the worker alone",
    "public.chain_checkpoints": "notes over whole partitions; their leaves are keyed hashes",
    "public.checkpoint_requests": "partitions whose next round is asked for; no tenant's",
}
DEFINER_FUNCTIONS = {
    "app.ensure_ingest_partition(date)": "creates a protected partition, reads no row and returns nothing",
    "app.drop_ingest_partition(date, jsonb)": "drops a day that the plans it is told of do not need; returns nothing",
}
LOOSE_INDEXES = {"ingest_dlq_pkey": "the table's published id is a number of its own"}
_GROWS = "append_only BEFORE DELETE OR UPDATE OR TRUNCATE"
_OF_A_ROUND = "partition, checkpoint_seq, tree_size, root_sha256, note, leaves, created_at"
KEEPERS = {
    table: f"CREATE TRIGGER {when} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change()"
    for table, when in {
        "public.chain_entries": _GROWS,
        "public.operator_actions": _GROWS,
        "public.chain_checkpoints": f"append_only BEFORE DELETE OR UPDATE OF {_OF_A_ROUND} OR TRUNCATE",
        "public.chain_nodes": _GROWS,
        "public.chain_leaves": _GROWS,
        "public.chain_frontiers": "never_less BEFORE DELETE OR TRUNCATE",
    }.items()
}
"""Tables that only grow, each with the trigger that sees to it, in the server's words (pg_get_triggerdef)."""
ASKS_FOR_A_TENANT = (
    "CREATE TRIGGER tenant_named BEFORE INSERT OR DELETE OR UPDATE ON %s"
    " FOR EACH STATEMENT EXECUTE FUNCTION app.require_tenants()"
)
"""The trigger on every table with tenants: a write to an empty table meets no policy, for it meets no row."""
PINNED = {
    "app.drop_ingest_partition(date, jsonb)": "dba708b3a9eb24ffa8edd415cce6f5da193c25c7ece67df782ba0659e588ab19",
    "app.ensure_ingest_partition(date)": "ff402e9369ef67b040584f0b948415f0dfbd025d72361f8bc82943ef434d5633",
    "app.is_tenant_id(text)": "da48ec449134c79d4064c57ff4218ffd4d9eb2456972148b1bfe58ab2bd4ffcb",
    "app.protect(regclass)": "673f0798f8f07cb27c8e2ca294b3b66d7e1efa2520d3e43c57e7896742971203",
    "app.refuse_change()": "8cafb00a4d20230dc3b789aa4210683da4634b04401919073f6379a42d768d3d",
    "app.require_tenants()": "722db7f4f58ff8414c7f666e031215ad1b74db0fdc098d1974d089db2026fb37",
    "app.set_tenants(text[])": "89e1b1f360043fdbe6c79d88c57b0a43776f0d5d730cb577bff13f389f4cd511",
    "app.tenants()": "d90beee19440583f243d2436c265d9e518b89fb2acd31188312485982d9051b3",
}
"""The functions that policies, triggers and partitions stand on, and the SHA-256 of their definitions.

The definition is the server's own (pg_get_functiondef), the same words from version 15 to 18: body, settings,
volatility, and whose rights it runs with.
"""
CANONICAL_POLICY = "(tenant_id = ANY (( SELECT app.tenants() AS tenants)::text[]))"

_PROBE_TENANT = "attestation"
"""Named for the probe's transaction; the probe is refused before any row is looked at, so it can be anybody."""
_RULES = (Path(__file__).parent / "attest.sql").read_text()
_APPLIED = "SELECT name FROM schema_migrations"
_ASKED = "SELECT current_setting('server_version'), session_user::text, current_database()::text"
_TENANT_TABLES = """
SELECT c.oid::regclass::text AS name, format('SELECT FROM %s LIMIT 1', c.oid::regclass) AS probe
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
    AND has_table_privilege(c.oid, 'SELECT') AND 'public.' || c.relname <> ALL ($1::text[])
ORDER BY 1
"""


class Finding(NamedTuple):
    """A rule that does not hold: for which object, and how."""

    rule: str
    object: str
    finding: str

    def __str__(self) -> str:
        return f"{self.rule} {self.object}: {self.finding}"


class Attestation(NamedTuple):
    """What one login saw of its own isolation. Without findings it is attested."""

    server: str
    login: str
    database: str
    findings: tuple[Finding, ...]
    probed: tuple[str, ...]
    """The tables a read of which was tried with row_security off."""


async def findings(pool: Pool) -> list[str]:
    """What stands against this login's isolation, each with its rule first; empty means attested. Raises NoAnswer.

    Run by the role that serves: its rights are what is judged.
    """
    return [str(finding) for finding in (await attestation(pool)).findings]


async def attestation(pool: Pool) -> Attestation:
    """As `findings`, with what was asked. Raises NoAnswer.

    A database that refuses to be asked, or does not understand what it is asked, is one finding.
    """
    try:
        async with pool.connection() as connection:
            server, login, database = await connection.fetchrow(_ASKED)
            found = await _missing_migrations(connection) + await _broken_rules(connection)
        probed, unbound = await _probed(pool)
    except (UnexpectedAnswerError, Refusal) as problem:
        # A Refusal is of a value in the call. All of them are this program's: the server takes its words otherwise.
        found = [Finding(UNATTESTABLE, "database", f"row-level security cannot be attested: {problem}")]
        return Attestation("unknown", "unknown", "unknown", tuple(found), ())
    return Attestation(server, login, database, (*found, *unbound), tuple(probed))


async def _missing_migrations(connection: Connection) -> list[Finding]:
    applied = {row["name"] for row in await connection.fetch(_APPLIED)}
    return [
        Finding("M1", f"migration {migration.name}", "is not applied")
        for migration in packaged()
        if migration.name not in applied
    ]


async def _broken_rules(connection: Connection) -> list[Finding]:
    rows = await connection.fetch(
        _RULES,
        list(EXEMPT_TABLES),
        CANONICAL_POLICY,
        list(DEFINER_FUNCTIONS),
        list(LOOSE_INDEXES),
        list(KEEPERS),
        list(KEEPERS.values()),
        list(PINNED),
        list(PINNED.values()),
        ASKS_FOR_A_TENANT,
    )
    return sorted(Finding(*row) for row in rows)


async def _probed(pool: Pool) -> tuple[list[str], list[Finding]]:
    """The tables tried, and those whose policies do not bind: a bound read is refused there, not filtered."""
    unbound = []
    async with pool.tenant_transaction([_PROBE_TENANT]) as connection:
        tables = await connection.fetch(_TENANT_TABLES, list(EXEMPT_TABLES))
        await connection.execute("SET LOCAL row_security = off; SAVEPOINT probe")
        for table in tables:
            if not await is_denied(connection.execute(table["probe"])):
                unbound.append(Finding("B1", table["name"], "the probe read past row-level security"))
            await connection.execute("ROLLBACK TO probe")
    return [table["name"] for table in tables], unbound
