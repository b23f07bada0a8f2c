"""What a worker does for evidence beside its stages: the comparison at start-up, rounds, and standing checks."""

import asyncio
from pathlib import Path

from ops.checkpointer import Checkpointer
from ops.evidence_files import read_checkpoint_secret
from ops.evidence_watch import EvidenceWatch
from ops.history import History
from ops.witness.client import WitnessClient
from schemas.meter import Meter
from schemas.units import Clock
from sinks.checkpoints import Checkpoints
from sinks.pg import Pool
from sinks.round_store import RoundStore
from sinks.settings import EvidenceSettings
from sinks.signing import Signer, load_public_key
from sinks.verification import Verification
from sinks.worm import Worm


class EvidenceDuty:
    """Runs beside the stages. `watch` says whether they may run at all."""

    def __init__(
        self, settings: EvidenceSettings, pool: Pool, worm: Worm, signer: Signer, clock: Clock, meter: Meter
    ) -> None:
        """Raises EvidenceRefusedError for the key ring, KeyFileError or CheckpointSecretError for other files."""
        secret = read_checkpoint_secret(settings.checkpoint_secret_file)
        witness = _witness(settings, signer)
        checkpoints = Checkpoints(pool, signer, secret, witnessed=witness is not None)
        history = History(checkpoints, RoundStore(checkpoints, worm), witness, {}, {})
        parts = (history, Verification(pool))
        self.watch = EvidenceWatch(pool, parts, (signer, settings.keyring_file), clock, meter)
        retain_days = max(days for _tier, days in settings.retention_days_by_tier)
        self._checkpointer = Checkpointer(history, self.watch.newest_ring, clock, meter, retain_days=retain_days)

    @property
    def findings(self) -> list[str]:
        return [*self.watch.findings, *self._checkpointer.findings]

    @property
    def degraded(self) -> list[str]:
        return self._checkpointer.degraded

    async def admit(self, stopping: asyncio.Event) -> None:
        """As `EvidenceWatch.admit`."""
        await self.watch.admit(stopping)

    async def run(self, stopping: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.run(stopping))
            tasks.create_task(self._checkpointer.run(stopping, self.watch))


def _witness(settings: EvidenceSettings, signer: Signer) -> WitnessClient | None:
    if not settings.witness_url:
        return None
    return WitnessClient(settings.witness_url, load_public_key(Path(settings.witness_public_key_file)), signer)
