"""Everything a service does in Postgres, through PgBouncer in transaction mode with one or two server connections."""

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.embedded import EmbeddedServers
from ops.embedded.process import free_port
from schemas.rows import ClaimOutcome, OutboxRow
from schemas.subjects import partition_of
from sinks import attest
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.outbox import Outbox
from sinks.pg import Pool
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
UNPRIVILEGED = "nobody"
"""PgBouncer refuses to run as root."""

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed: scripts/install-debian-packages does it"
)

_CONFIGURATION = """
[databases]
one = host=127.0.0.1 port={server_port} dbname={database} pool_size=1
two = host=127.0.0.1 port={server_port} dbname={database} pool_size=2
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = {users}
log_connections = 0
log_disconnections = 0
"""


class Pooler(NamedTuple):
    servers: EmbeddedServers
    port: int

    def dsn(self, role: str, database: str) -> str:
        """The way of a role to `one`, which has one server connection, or `two`, which has two."""
        direct = urlsplit(self.servers.postgres_dsn(role))
        netloc = f"{direct.username}:{direct.password}@127.0.0.1:{self.port}"
        return direct._replace(netloc=netloc, path=f"/{database}").geturl()

    async def open(self, role: str, database: str) -> Pool:
        return await Pool.open(settings(self.dsn(role, database), pool_size=2, statement_cache_size=0))

    async def connect(self, role: str, database: str) -> Any:
        """A client that does not know the project's rules."""
        return await asyncpg.connect(self.dsn(role, database), statement_cache_size=0)


@pytest.fixture(scope="module")
async def pooler(servers: EmbeddedServers) -> AsyncIterator[Pooler]:
    home = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    direct, port = urlsplit(servers.postgres_dsn("worker")), free_port()
    users, configuration = home / "users", home / "pgbouncer.ini"
    users.write_text("".join(f'"{role}" "{password}"\n' for role, password in servers.role_passwords().items()))
    configuration.write_text(
        _CONFIGURATION.format(server_port=direct.port, database=direct.path[1:], port=port, users=users)
    )
    root = os.geteuid() == 0
    user = pwd.getpwnam(UNPRIVILEGED) if root else pwd.getpwuid(os.geteuid())
    for path in (home, users, configuration):
        os.chown(path, user.pw_uid, user.pw_gid)
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        str(configuration),
        stderr=asyncio.subprocess.PIPE,
        user=user.pw_uid if root else None,
        group=user.pw_gid if root else None,
        extra_groups=[] if root else None,
    )
    try:
        await _up(process)
        yield Pooler(servers, port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
        shutil.rmtree(home)


async def _up(process: asyncio.subprocess.Process) -> None:
    """Return once it listens."""
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(20):
        while b"process up" not in said:
            line = await process.stderr.readline()
            assert line, said.decode()
            said += line


async def _work(pool: Pool, tenants: Sequence[str]) -> None:
    """What a worker does to events of several tenants at once, and once more: as after a lost answer."""
    keys, ledger, letters = EventKeys(pool), DecisionLedger(pool), DeadLetters(pool, make.SHA_A)
    for expected in (ClaimOutcome.CLAIMED, ClaimOutcome.RESUMED):
        claims = [make.claim(tenant, f"e{number}", number) for tenant in tenants for number in range(3)]
        assert set(await keys.claim(claims)) == {expected}
        await ledger.record([make.record(tenant, f"e{number}") for tenant in tenants for number in range(3)])
        await letters.bury([make.letter(tenant, "e9") for tenant in tenants])


async def _relayed(pool: Pool, tenants: Sequence[str]) -> list[OutboxRow]:
    """The rows of these tenants that left for the broker."""
    sent: list[OutboxRow] = []

    async def publish(rows: Sequence[OutboxRow]) -> None:
        sent.extend(row for row in rows if row.tenant_id in tenants)

    while await Outbox(pool).relay(sorted({partition_of(tenant) for tenant in tenants}), publish, 100):
        pass
    return sent


async def _close(*pools: Pool) -> None:
    await asyncio.gather(*(pool.close() for pool in pools))


async def test_many_workers_share_two_server_connections(pooler: Pooler, superuser: Any) -> None:
    workers = [await pooler.open("worker", "two") for _ in range(4)]
    theirs = [[make.tenant_id() for _ in range(5)] for _ in workers]
    await asyncio.gather(*(_work(pool, tenants) for pool, tenants in zip(workers, theirs, strict=True)))
    every = [tenant for tenants in theirs for tenant in tenants]
    sent = await _relayed(workers[0], every)
    await _close(*workers)
    assert sorted((row.tenant_id, row.seq) for row in sent) == sorted((t, seq) for t in every for seq in range(1, 5))
    counted = "SELECT count(*) FROM decisions WHERE tenant_id = ANY ($1::text[])"
    assert await superuser.fetchval(counted, every) == 3 * len(every)


async def test_every_role_is_attested_through_the_pooler_while_others_work(pooler: Pooler) -> None:
    pools = [await pooler.open(role, "two") for role in ("worker", "edge", "operator")]
    found = await asyncio.gather(
        *(attest.findings(pool) for pool in pools for _ in range(3)), _work(pools[0], [make.tenant_id()])
    )
    await _close(*pools)
    assert found == [[]] * 9 + [None]


async def test_clients_that_share_one_session_never_see_each_others_tenant(pooler: Pooler) -> None:
    ours, theirs = await pooler.open("worker", "one"), await pooler.open("worker", "one")
    stranger = await pooler.connect("worker", "one")
    tenants = {ours: make.tenant_id(), theirs: make.tenant_id()}
    sessions = set()
    for pool, tenant in tenants.items():
        await EventKeys(pool).claim([make.claim(tenant, "e1", 1)])
    for _ in range(10):
        for pool, tenant in tenants.items():
            async with pool.tenant_transaction([tenant]) as connection:
                sessions.add(await connection.fetchval("SELECT pg_backend_pid()"))
                assert [row[0] for row in await connection.fetch("SELECT tenant_id FROM event_keys")] == [tenant]
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
                await stranger.execute("SELECT FROM event_keys")
    await stranger.close()
    await _close(ours, theirs)
    assert len(sessions) == 1


async def test_a_transaction_cut_short_leaves_no_tenant_behind(pooler: Pooler) -> None:
    pool, stranger = await pooler.open("worker", "one"), await pooler.connect("worker", "one")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), pool.tenant_transaction([make.tenant_id()]) as connection:
                await connection.execute("SELECT pg_sleep(60)")
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="MISSING"):
            await stranger.execute("SELECT FROM event_keys")
    await stranger.close()
    await _close(pool)


async def test_a_setting_of_a_session_would_reach_the_next_client(pooler: Pooler) -> None:
    """The trap these tests are about is really there: nothing resets a session between two clients."""
    careless, victim = await pooler.connect("worker", "one"), await pooler.connect("worker", "one")
    await careless.execute("SET app.tenants = 'somebody'")
    leaked = await victim.fetchval("SELECT current_setting('app.tenants')")
    await careless.execute("RESET app.tenants")
    await careless.close()
    await victim.close()
    assert leaked == "somebody"
