"""Bringing the database to this program's schema: roles, then the numbered migrations, forward only."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import asyncpg

from sinks import scram
from sinks.faults import DatabaseError, sentence_of, translated
from sinks.pg import Connection

MIGRATIONS = Path(__file__).parent / "migrations"
ROLES = MIGRATIONS / "roles.sql"
LOGIN_ROLES = ("fg_edge", "fg_worker", "fg_admin")
CONNECT_TIMEOUT_S = 10.0
TRIES_MAX = 5
"""How often a step is tried that a worker's locks held up: which tables a transaction holds is its own affair."""
LOCK_KEY = 0x46474D4947524154
"""Advisory lock: one migration at a time in this database."""

_HELD_UP = frozenset({"40P01", "55P03"})
_WITH_VERIFIER = "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)"
_APPLIED = "SELECT name, sha256 FROM schema_migrations"
_NOTE = "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)"


T = TypeVar("T")


class MigrationError(Exception):
    """The database cannot be brought to this program's schema; it is as it was before the step named."""


class _HeldUpError(MigrationError):
    """Somebody held a lock for too long, or waited for one of ours in turn. Nothing of the step took effect."""


class Migration(NamedTuple):
    name: str
    sha256: str
    sql: str


def packaged() -> list[Migration]:
    """The migrations of this program, in order."""
    return [_read(file) for file in sorted(MIGRATIONS.glob("[0-9]*.sql"))]


async def migrate(admin_dsn: str, role_passwords: Mapping[str, str]) -> list[str]:
    """Apply what is missing and return its names; on return the schema is this program's.

    Also sets the login roles' passwords, those named in `role_passwords`. Two calls at once follow
    each other. Workers may run: a step that their locks hold up is tried TRIES_MAX times. Raises
    MigrationError, NoAnswer(STORE_UNAVAILABLE), and ValueError for a password or role that cannot be.
    """
    if not set(role_passwords) <= set(LOGIN_ROLES):
        raise ValueError(f"passwords can be set for {', '.join(LOGIN_ROLES)}")
    verifiers = {role: scram.verifier(password) for role, password in role_passwords.items()}
    with translated():
        connection = await asyncpg.connect(admin_dsn, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)
        try:
            await _tried(partial(_prepare, connection, verifiers))
            return [migration.name for migration in packaged() if await _tried(partial(_apply, connection, migration))]
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)


def _read(file: Path) -> Migration:
    data = file.read_bytes()
    return Migration(file.stem, hashlib.sha256(data).hexdigest(), data.decode())


async def _prepare(connection: Connection, verifiers: Mapping[str, str]) -> None:
    """Roles, their passwords, the grants on the database, and the list of migrations, held against this program's."""
    async with _step(connection, "roles"):
        await connection.execute(ROLES.read_text())
        for role, verifier in verifiers.items():
            await connection.execute(await connection.fetchval(_WITH_VERIFIER, role, verifier))
        await connection.execute("SET LOCAL ROLE fg_owner")
        applied = {row["name"]: row["sha256"] for row in await connection.fetch(_APPLIED)}
    known = {migration.name: migration.sha256 for migration in packaged()}
    for name, sha256 in applied.items():
        if name not in known:
            raise MigrationError(f"{name} is applied and unknown here: the database is newer than this program")
        if known[name] != sha256:
            raise MigrationError(f"{name} was changed after it had been applied")


async def _apply(connection: Connection, migration: Migration) -> bool:
    async with _step(connection, migration.name):
        await connection.execute("SET LOCAL ROLE fg_owner")
        if migration.name in {row["name"] for row in await connection.fetch(_APPLIED)}:
            return False
        await connection.execute(migration.sql)
        await connection.execute(_NOTE, migration.name, migration.sha256)
    return True


async def _tried(step: Callable[[], Awaitable[T]]) -> T:
    """The step's answer. Raises what it raises, where locks hold it up only the last time."""
    for _ in range(TRIES_MAX - 1):
        with suppress(_HeldUpError):
            return await step()
    return await step()


@asynccontextmanager
async def _step(connection: Connection, name: str) -> AsyncIterator[None]:
    """A transaction that no other migration of this database overlaps."""
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
            await connection.execute("SET LOCAL search_path = public")
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            yield
    except DatabaseError as error:
        kind = _HeldUpError if error.sqlstate in _HELD_UP else MigrationError
        raise kind(f"{name}: {sentence_of(error)}") from None
