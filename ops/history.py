"""What others hold of this database's rounds: the WORM store, the witness, and what they object to."""

import logging
from typing import NamedTuple

from ops.witness.client import WitnessClient
from ops.witness.judge import Objection, WitnessCode
from schemas.answers import NoAnswer
from sinks.checkpoints import Checkpoints, StoredRound
from sinks.keyring import Keyring
from sinks.round_store import FORKED, ROLLED_BACK, RoundStore, says
from sinks.signing import SignatureError

log = logging.getLogger("ops")

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
        """What store and witness hold against the partition's rounds. Raises NoAnswer for store and database alone.

        What stops is an objection from the moment it is heard, also where this raises. One made before this call
        is gone after it when both were asked and neither objects any more. With `signing`, the witness is asked
        what it says to the oldest round that waits for it, unless something was found already: what it
        countersigns is the one history for good.
        """
        before = self.objections.get(partition)
        found = [self._heard(partition, await self.rounds.rollback_of(partition, ring))]
        away = False
        if self.witness is not None:
            said = await self._unlike_the_witness(self.witness, partition, ring)
            found.append(self._heard(partition, said or ""))
            if signing and said is not None and not any(found):
                said = await self._not_countersigned(self.witness, partition)
                found.append(self._heard(partition, said or ""))
            away = said is None  # one that is away proves nothing
        unchanged = before is not None and self.objections.get(partition) == before
        if unchanged and signing and not away and not any(found):
            log.warning("no longer objected: %s", self.objections.pop(partition))
        return [finding for finding in found if finding]

    def _heard(self, partition: int, finding: str) -> str:
        if stops(finding):
            self.objections[partition] = finding
        return finding

    async def _unlike_the_witness(self, witness: WitnessClient, partition: int, ring: Keyring) -> str | None:
        """Empty when the witness saw nothing else than the database holds; None when it is away."""
        try:
            seen = await witness.latest(partition, ring)
        except NoAnswer:
            return None
        if seen is None:
            return ""
        ours = await self.checkpoints.one(partition, seen.number)
        if ours is None:
            return f"{ROLLED_BACK}: the witness saw round {seen.number} of partition {partition}"
        if not says(ours, seen.text):
            return f"{FORKED}: the witness saw another round {seen.number} of partition {partition}"
        return ""

    async def _not_countersigned(self, witness: WitnessClient, partition: int) -> str | None:
        """Empty when the witness knows no other history than that of the round shown; None when it is away."""
        waiting = await self.checkpoints.unwitnessed(partition, 1)
        if not waiting:
            return ""
        try:
            cosignature = await witness.countersign(waiting[0])
        except NoAnswer:
            return None
        except (Objection, SignatureError) as objection:
            return finding if stops(finding := told(waiting[0], objection)) else ""
        await self.checkpoints.cosigned(waiting[0], cosignature)
        return ""


def told(this: StoredRound, objection: Objection | SignatureError) -> str:
    """A code and a sentence for a round that the witness does not countersign, or that cannot be shown to it."""
    if isinstance(objection, SignatureError):
        return f"EVIDENCE_TAMPERED: what partition {this.partition} keeps of its rounds was changed"
    code = _CODES.get(objection.code, objection.code)
    return f"{code}: the witness of partition {this.partition} says {objection}"


def stops(finding: str) -> bool:
    """Whether it speaks of another history, which nothing may be added to."""
    return finding.partition(":")[0] in {FORKED, ROLLED_BACK}
