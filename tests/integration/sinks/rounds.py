"""What the tests of checkpoints work with: chains of given length, a signing key in a ring, a store in a directory."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.evidence_files import EvidenceFiles
from ops.history import History
from ops.witness.client import WitnessClient
from schemas.evidence import EntryKind
from schemas.metrics import Metric
from sinks.chain import Draft, append
from sinks.checkpoints import Checkpoints
from sinks.keyring import Keyring, load
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.round_store import RoundStore
from sinks.settings import PostgresSettings
from sinks.signing import Signer
from sinks.tenants import Tenants
from sinks.verification import Verification
from sinks.worm import DirectoryWorm
from tests.integration.sinks import make


class Counted:
    """A meter that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, tuple[str, ...]]] = []

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        self.told.append((metric.name, value, labels))

    def labels(self, metric: Metric) -> set[tuple[str, ...]]:
        return {labels for name, _value, labels in self.told if name == metric.name}


class Kit(NamedTuple):
    """Checkpoints with everything around them."""

    root: Signer
    signer: Signer
    ring: Keyring
    ring_file: Path
    worm: DirectoryWorm
    checkpoints: Checkpoints
    verification: Verification

    def history(self, witness: WitnessClient | None = None) -> History:
        """What a worker that has just started knows of others."""
        return History(self.checkpoints, RoundStore(self.checkpoints, self.worm), witness, {}, {})

    def newest_ring(self) -> Keyring:
        """As its file has it now."""
        return load(self.ring_file)


def permitted() -> bool:
    """Whether a round may be signed: always, where no watch is looked at."""
    return True


def kit(pool: Pool, home: Path, *, witnessed: bool = False) -> Kit:
    """A signing key, its ring, and a store, all in `home` and new where they are missing."""
    files = EvidenceFiles.of(home)
    files.ensure()
    root, signer = Signer.load(files.root_key), Signer.load(files.signing_key)
    (home / "worm").mkdir(exist_ok=True)
    worm = DirectoryWorm(home / "worm")
    checkpoints = Checkpoints(pool, signer, files.checkpoint_secret.read_bytes(), witnessed=witnessed)
    return Kit(root, signer, load(files.keyring), files.keyring, worm, checkpoints, Verification(pool))


@asynccontextmanager
async def own_postgres(home: Path) -> AsyncIterator[EmbeddedServers]:
    """A migrated Postgres nobody else uses."""
    with await DataDirectory.open(home) as opened:
        embedded = EmbeddedServers(opened)
        try:
            await embedded.start_one("postgres")
            await migrate(embedded.postgres_dsn("admin"), embedded.role_passwords())
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(opened.outside, ignore_errors=True)


@asynccontextmanager
async def pool_of(servers: EmbeddedServers, role: str) -> AsyncIterator[Pool]:
    pool = await Pool.open(PostgresSettings(dsn=servers.postgres_dsn(role), pool_size=4, statement_cache_size=100))
    try:
        yield pool
    finally:
        await pool.close()


async def know(operator: Pool, tenant: str) -> None:
    await Tenants(operator).ensure(tenant)


async def grow(worker: Pool, tenant: str, count: int, first_event: int = 0) -> None:
    """Chain so many decisions more."""
    drafts = [
        Draft(tenant, f"evt-{number}", make.INGEST_TS, make.TRACE_ID, "r", "p" * 64, "c" * 64, make.SHA_A, 9, b"{}")
        for number in range(first_event, first_event + count)
    ]
    async with worker.tenant_transaction([tenant]) as connection:
        await append(connection, EntryKind.DECISION, drafts, looking=False)
