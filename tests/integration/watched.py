"""Evidence in a database of its own, with the checkpointer and the watch of a worker over it."""

import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from ops.checkpointer import Checkpointer
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.evidence_watch import EvidenceWatch
from ops.history import History
from schemas.subjects import PARTITIONS
from schemas.units import UnixMs
from sinks.keyring import load
from sinks.keyring import rotated as with_next_key
from sinks.pg import Pool
from sinks.signing import Signer, create_key
from tests.integration.sinks.rounds import Counted, Kit, grow, kit, know, permitted, pool_of


class Evidence:
    """A database with evidence of its own, its checkpointer, and its watch as a starting worker has it."""

    def __init__(self, servers: EmbeddedServers, pool: Pool, home: Path) -> None:
        self.servers = servers
        self.pool = pool
        self.home = home
        self.kit: Kit = kit(pool, home)
        self.meter = Counted()
        self.history = self.kit.history()
        self.checkpointer = Checkpointer(self.history, self.kit.newest_ring, SystemClock(), self.meter, retain_days=1)

    def watch(self, history: History | None = None) -> EvidenceWatch:
        """As a starting worker has it, or beside the checkpointer of the same history."""
        parts = (history or self.kit.history(), self.kit.verification)
        signing = (self.kit.signer, self.kit.ring_file)
        return EvidenceWatch(self.pool, parts, signing, SystemClock(), self.meter)

    async def more(self, *tenants: str, first_event: int = 0) -> None:
        """Every tenant has 300 entries more, and all of them are in a round that lies in the store."""
        async with pool_of(self.servers, "operator") as operator:
            for tenant in tenants:
                await know(operator, tenant)
                await grow(self.pool, tenant, 300, first_event)
        await self.checkpointer.make_rounds(range(PARTITIONS), permitted)
        assert self.checkpointer.findings == []

    async def restored(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """Yesterday's base backup: what the database was before `meanwhile`, put back after it."""
        data, backup = self.servers.postgres_home / "data", self.servers.postgres_home / "yesterday"
        await self.servers.stop_one("postgres")
        subprocess.run(["cp", "-a", data, backup], check=True)
        await self.servers.start_one("postgres")
        await meanwhile()
        await self.servers.stop_one("postgres")
        shutil.rmtree(data)
        backup.rename(data)
        await self.servers.start_one("postgres")

    async def changed(self, statement: str, *values: object) -> None:
        """A superuser's change with the triggers off."""
        connection = await asyncpg.connect(self.servers.postgres_dsn("admin"))
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL session_replication_role = replica")
                await connection.execute(statement, *values)
        finally:
            await connection.close()


def rotated(evidence: Evidence, overlap_ms: int) -> Signer:
    """The ring in its file knows one key more; the old one holds for the overlap."""
    create_key(evidence.home / "next.pem")
    new, now_ms = Signer.load(evidence.home / "next.pem"), SystemClock().now_ms()
    ring_file, root, old = evidence.kit.ring_file, evidence.kit.root, evidence.kit.signer
    times = (UnixMs(now_ms - 1), UnixMs(now_ms - 1 + overlap_ms))
    fresh = ring_file.with_name("keyring.new")
    fresh.write_bytes(with_next_key(load(ring_file), root, old, new, times).envelope)
    fresh.replace(ring_file)
    return new
