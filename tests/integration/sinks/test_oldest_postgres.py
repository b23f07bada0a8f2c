"""The oldest PostgreSQL the project works on: it migrates, is attested for every role, and does a service's work."""

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from ops.embedded.process import free_port
from schemas.rows import ClaimOutcome
from sinks import attest
from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.life import Lives
from sinks.meters_audit import MetersAudit
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.retention import Overdue, Retention, RetentionRules
from sinks.tenants import Tenants
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

OLDEST = 15
PROGRAMS = Path(f"/usr/lib/postgresql/{OLDEST}/bin")
UNPRIVILEGED = "nobody"
"""Postgres refuses to run as root."""
PASSWORDS = {role: f"{role}-password" for role in ("fg_edge", "fg_worker", "fg_admin")}
LOGINS = {"worker": "fg_worker", "edge": "fg_edge", "operator": "fg_admin"}

pytestmark = pytest.mark.skipif(
    not (PROGRAMS / "postgres").exists(),
    reason=f"{PROGRAMS / 'postgres'} is not there: scripts/install-debian-packages installs postgresql-{OLDEST}",
)


class Oldest(NamedTuple):
    port: int

    @property
    def admin_dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    async def open(self, role: str) -> Pool:
        login = LOGINS[role]
        return await Pool.open(settings(f"postgresql://{login}:{PASSWORDS[login]}@127.0.0.1:{self.port}/postgres"))


async def _done(program: str, *arguments: str, user: pwd.struct_passwd | None) -> None:
    """Return once a program of that server has ended well."""
    process = await asyncio.create_subprocess_exec(
        str(PROGRAMS / program),
        *arguments,
        env={"LC_ALL": "C", "TZ": "UTC"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    assert await process.wait() == 0, program


@pytest.fixture(scope="module")
async def oldest() -> AsyncIterator[Oldest]:
    """A server of that version, migrated."""
    home = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None
    if user:
        os.chown(home, user.pw_uid, user.pw_gid)
    data, port = str(home / "data"), free_port()
    await _done("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", user=user)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    await _done("pg_ctl", "-D", data, "-w", "-l", str(home / "log"), "-o", options, "start", user=user)
    try:
        server = Oldest(port)
        await migrate(server.admin_dsn, PASSWORDS)
        yield server
    finally:
        await _done("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop", user=user)
        shutil.rmtree(home)


async def test_it_migrates_twice_and_changes_nothing_the_second_time(oldest: Oldest) -> None:
    assert await migrate(oldest.admin_dsn, PASSWORDS) == []
    connection = await asyncpg.connect(oldest.admin_dsn)
    version = await connection.fetchval("SELECT current_setting('server_version_num')::integer / 10000")
    await connection.close()
    assert version == OLDEST


@pytest.mark.parametrize("role", LOGINS)
async def test_it_is_attested_for_every_role(oldest: Oldest, tenant: str, role: str) -> None:
    worker, pool = await oldest.open("worker"), await oldest.open(role)
    await EventKeys(worker).claim([make.claim(tenant, "e1", 1)])  # so that there is a partition
    attestation = await attest.attestation(pool)
    await asyncio.gather(worker.close(), pool.close())
    assert attestation.findings == ()
    assert attestation.server.startswith(f"{OLDEST}.")
    assert {"decisions", "event_keys", "chain_entries", "ingest_dlq"} <= set(attestation.probed)


async def test_a_table_that_may_be_truncated_is_found_there_too(oldest: Oldest) -> None:
    admin, worker = await asyncpg.connect(oldest.admin_dsn), await oldest.open("worker")
    await admin.execute("GRANT TRUNCATE ON decisions TO fg_worker")
    found = await attest.findings(worker)
    await admin.execute("REVOKE TRUNCATE ON decisions FROM fg_worker")
    assert [finding.split(":")[0] for finding in found] == ["T6 public.decisions"]
    assert await attest.findings(worker) == []
    await asyncio.gather(admin.close(), worker.close())


async def test_an_event_goes_all_its_way_there_and_is_let_go(oldest: Oldest, tenant: str) -> None:
    worker, edge, operator = [await oldest.open(role) for role in ("worker", "edge", "operator")]
    await Tenants(operator).add(tenant)
    assert await EventKeys(worker).claim([make.claim(tenant, "e1", 1)]) == [ClaimOutcome.CLAIMED]
    await DecisionLedger(worker).record([make.record(tenant, "e1")])
    await DeadLetters(worker, make.SHA_A).bury([make.letter(tenant, "e2")])
    await ArtifactIndex(worker).index([make.artifact(tenant, "e1")])
    assert await Lives(edge).life_of(tenant, "e1", None) is not None
    await MetersAudit(operator).differences(tenant)
    rules = RetentionRules(days_by_tier={"free": 7}, key_age_seconds_min=0, letter_age_seconds_min=0)
    retention = Retention(operator, rules, "ann")
    days = await retention.days_over()
    assert await retention.overdue(tenant) == Overdue(1, 1, 1)
    assert [await retention.drop(day, [tenant]) for day in days] == [{tenant: 1}]
    assert await retention.take(tenant) == Overdue(0, 1, 1)
    await asyncio.gather(worker.close(), edge.close(), operator.close())
