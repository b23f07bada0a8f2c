"""What others hold of this database's rounds: the WORM store, the witness, and what they object to."""

from typing import NamedTuple

from ops.witness.client import WitnessClient
from ops.witness.judge import Objection, WitnessCode
from schemas.answers import NoAnswer
from sinks.checkpoints import Checkpoints, StoredRound
from sinks.keyring import Keyring
from sinks.notes import text_of
from sinks.round_store import FORKED, ROLLED_BACK, RoundStore
from sinks.signing import SignatureError

_CODES = {WitnessCode.FORK: FORKED, WitnessCode.ROLLBACK: ROLLED_BACK}


class History(NamedTuple):
    """A worker's rounds and those who remember them. The watch and whoever makes rounds share one."""

    checkpoints: Checkpoints
    rounds: RoundStore
    witness: WitnessClient | None
    objections: dict[int, str]
    """By partition, why nothing may be decided or signed: another history was seen. Begins empty."""
    broken: dict[str, str]
    """By tenant, what a standing check found wrong with the chain. Begins empty."""

    async def compare(self, partition: int, ring: Keyring, *, signing: bool) -> list[str]:
        """What store and witness hold against the partition's rounds. Raises NoAnswer for the stores alone.

        An objection made before this call is gone after it when both were asked and neither objects any more.
        With `signing`, the witness is asked what it says to the oldest round that waits for it.
        """
        before = self.objections.get(partition)
        found = [finding for finding in [await self.rounds.rollback_of(partition, ring)] if finding]
        answered = True
        try:
            found += await self._unlike_the_witness(partition, ring)
            found += await self._not_countersigned(partition) if signing else []
        except NoAnswer:
            answered = self.witness is None  # one that is away proves nothing
        if before is not None and answered and signing and not found and self.objections.get(partition) == before:
            del self.objections[partition]
        return found

    async def _unlike_the_witness(self, partition: int, ring: Keyring) -> list[str]:
        if self.witness is None:
            return []
        seen = await self.witness.latest(partition, ring)
        if seen is None:
            return []
        ours = await self.checkpoints.one(partition, seen.number)
        if ours is None:
            return [f"{ROLLED_BACK}: the witness saw round {seen.number} of partition {partition}"]
        if not _says(ours, seen.text):
            return [f"{FORKED}: the witness saw another round {seen.number} of partition {partition}"]
        return []

    async def _not_countersigned(self, partition: int) -> list[str]:
        waiting = await self.checkpoints.unwitnessed(partition)
        if self.witness is None or not waiting:
            return []
        try:
            await self.checkpoints.cosigned(waiting[0], await self.witness.countersign(waiting[0]))
        except (Objection, SignatureError) as objection:
            return [finding] if stops(finding := told(waiting[0], objection)) else []
        return []


def told(this: StoredRound, objection: Objection | SignatureError) -> str:
    """A code and a sentence for a round that the witness does not countersign, or that cannot be shown to it."""
    if isinstance(objection, SignatureError):
        return f"EVIDENCE_TAMPERED: what partition {this.partition} keeps of its rounds was changed"
    code = _CODES.get(objection.code, objection.code)
    return f"{code}: the witness of partition {this.partition} says {objection}"


def stops(finding: str) -> bool:
    """Whether it speaks of another history, which nothing may be added to."""
    return finding.partition(":")[0] in {FORKED, ROLLED_BACK}


def _says(ours: StoredRound, text: str) -> bool:
    try:
        return text_of(ours.note) == text
    except SignatureError:
        return False
