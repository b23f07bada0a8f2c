"""Evidence as the worker makes it: chained, sealed, indexed and covered by rounds."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ops.clock import SystemClock
from schemas.decision import DecisionRecord, Span
from schemas.evidence import EvidenceEvent
from schemas.subjects import partition_of
from sinks import keyring
from sinks.artifacts import ArtifactIndex
from sinks.bundles import Bundler, Keys
from sinks.checkpoints import Checkpoints
from sinks.evidence import EvidenceKeeper
from sinks.keyring import Keyring
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from sinks.retention_plans import RetentionPlans
from sinks.signing import Signer, create_key
from sinks.worm import DirectoryWorm
from tests.integration.sinks import make

SECRET = bytes(range(32))
DAYS = {"free": 7, "pro": 90, "enterprise": 365}
_OUTBOX = "SELECT seq, kind, event_id, chain_hash, entry, record FROM evidence_outbox WHERE tenant_id = $1 ORDER BY seq"
_SENT = "DELETE FROM evidence_outbox WHERE tenant_id = $1"


def signer() -> Signer:
    """A key of its own."""
    with tempfile.TemporaryDirectory() as directory:
        create_key(Path(directory) / "key.pem")
        return Signer.load(Path(directory) / "key.pem")


@dataclass(frozen=True)
class Evidence:
    """A worker's side of evidence, in one directory."""

    pool: Pool
    worm: DirectoryWorm
    signer: Signer
    keyring: Keyring

    @classmethod
    def begin(cls, pool: Pool, directory: Path) -> "Evidence":
        root, signing = signer(), signer()
        ring = keyring.first(root, signing.public_key, SystemClock().now_ms())
        return cls(pool, DirectoryWorm(directory), signing, ring)

    @property
    def bundler(self) -> Bundler:
        return Bundler(self.pool, self.worm, Keys(self.signer, self.keyring, SECRET), SystemClock())

    async def decide(self, tenant: str, numbers: Sequence[int]) -> None:
        """Chain a decision for each number, with spans and an hour of its own."""
        for start in range(0, len(numbers), 500):
            records = [_record(tenant, number) for number in numbers[start : start + 500]]
            await DecisionLedger(self.pool).record(records)

    async def seal(self, tenant: str) -> None:
        """Seal and index what is chained; then it has left the outbox."""
        async with self.pool.tenant_transaction([tenant]) as connection:
            rows = await connection.fetch(_OUTBOX, tenant)
            await connection.execute(_SENT, tenant)
        keeper = EvidenceKeeper(
            self.worm, ArtifactIndex(self.pool), RetentionPlans(self.pool, DAYS), self.signer, SystemClock()
        )
        events = [
            EvidenceEvent(
                tenant_id=tenant,
                seq=row["seq"],
                kind=row["kind"],
                event_id=row["event_id"],
                chain_hash=row["chain_hash"],
                entry=msgspec.Raw(row["entry"].encode()),
                record=msgspec.Raw(row["record"].encode()),
            )
            for row in rows
        ]
        for start in range(0, len(events), 1_000):
            await keeper.keep(partition_of(tenant), events[start : start + 1_000])

    async def cover(self, *tenants: str) -> None:
        """One round of each tenant's partition."""
        rounds = Checkpoints(self.pool, self.signer, SECRET, witnessed=False)
        for partition in {partition_of(tenant) for tenant in tenants}:
            made = await rounds.round(
                partition, [one for one in tenants if partition_of(one) == partition], self.keyring
            )
            assert made is not None
            assert made.faults == ()

    async def keep(self, tenant: str, numbers: Sequence[int]) -> None:
        """All of it."""
        await self.decide(tenant, numbers)
        await self.seal(tenant)
        await self.cover(tenant)


def hour(number: int) -> str:
    """When the event of that number came in."""
    return f"2026-02-{1 + number // 24 % 28:02d}T{number % 24:02d}:00:00.000Z"


def _record(tenant: str, number: int) -> DecisionRecord:
    made = make.record(tenant, f"e-{number}")
    start_us = 1_769_904_000_000_000 + number
    spans = (Span(start_us + 10, "ingest", "", "00f067aa0ba902b7", start_us),)
    return msgspec.structs.replace(made, v=2, ingest_ts=hour(number), spans=spans)
