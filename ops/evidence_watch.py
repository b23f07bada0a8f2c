"""Standing checks of stored evidence: nothing was rolled back, every chain is whole, the signing key holds."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ops.history import History
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.decision import DecisionRecord
from schemas.evidence import EvidenceEvent
from schemas.meter import Meter
from schemas.metrics import CHAIN_FAILURES
from schemas.rows import BuriedLetter
from schemas.subjects import PARTITIONS
from schemas.units import Clock
from sinks import keyring
from sinks.chain_reader import ChainFault
from sinks.keyring import Keyring, KeyringError, RingFile
from sinks.pg import Pool
from sinks.rotations import note_rotations
from sinks.round_store import ROLLED_BACK
from sinks.signing import Signer
from sinks.verification import Verification
from streams.ports import DeadLetters, EvidenceStore, Ledger, Store
from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 60.0
RETRY_S = 1.0
WHOLE_INTERVAL_S = 24 * 3_600.0
PAGE_PAUSE_S = 0.25
"""Between two pages of a full pass: about 4,000 entries a second, a small part of one core."""
TAILS_MAX = 100
"""Chains whose end is read again each minute; where more are active, the next minute goes on with them."""
_ROUND_UNKNOWN = "checkpoint_altered"
"""A fault that every check looks at anew, and that a ring brought late explains."""


class EvidenceRefusedError(Exception):
    """This worker must not run. The text begins with a stable code."""


class EvidenceWatch:
    """Refuses the start over evidence that is newer than the database, and keeps looking after it."""

    def __init__(
        self,
        pool: Pool,
        parts: tuple[History, Verification],
        signing: tuple[Signer, Path],
        clock: Clock,
        meter: Meter,
    ) -> None:
        """`signing`: the key that signs here and the file of the key ring. Raises EvidenceRefusedError for those."""
        self._pool = pool
        self._history, self._verification = parts
        self._signer, ring_file = signing
        self._ring_file = RingFile(ring_file)
        self._clock = clock
        self._meter = meter
        if fault := self._key_fault():
            raise EvidenceRefusedError(fault)
        self._noted_version = 0
        self._refusals: list[str] = ["EVIDENCE_UNCHECKED: the stored evidence was not compared yet"]
        self._tails: list[str] = []

    @property
    def findings(self) -> list[str]:
        """Why this worker is not ready."""
        found = list(dict.fromkeys([*self._standing, *filter(None, [self._key_fault()])]))
        if self._history.broken:
            found.append(f"EVIDENCE_TAMPERED: {len(self._history.broken)} chains are not what they were (see the log)")
        return found

    @property
    def permits(self) -> bool:
        """Whether anything may be decided, sealed or signed."""
        return not self._standing and not self._key_fault()

    @property
    def _standing(self) -> list[str]:
        """What was found against running and not taken back."""
        return list(dict.fromkeys([*self._refusals, *self._history.objections.values()]))

    async def admit(self, stopping: asyncio.Event) -> None:
        """Return once nothing speaks against running, or `stopping` is set; wait for stores that do not answer.

        Raises EvidenceRefusedError.
        """
        while not stopping.is_set():
            try:
                await self.compare()
            except NoAnswer as problem:  # away, or not migrated yet
                log.warning("the stored evidence cannot be compared yet: %s", problem)
                await set_within(stopping, RETRY_S)
                continue
            if self._standing:
                raise EvidenceRefusedError("; ".join(self._standing))
            return

    async def run(self, stopping: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._minutely(stopping))
            tasks.create_task(self._daily(stopping))

    async def compare(self) -> None:
        """Hold the database against the WORM store, the witness, itself and the key ring. Raises NoAnswer.

        What was found until then stands also where this raises, beside what stood before.
        """
        before = self._standing
        found: list[str] = []
        try:
            await self._hold_against_others(found)
        except NoAnswer:
            self._told(before, [*self._refusals, *found])
            raise
        self._told(before, found)

    async def _hold_against_others(self, found: list[str]) -> None:
        """Add to `found` what speaks against running, as soon as it is known. Raises NoAnswer."""
        if key_fault := self._key_fault():
            found.append(key_fault)
        for partition in range(PARTITIONS):
            found += await self._history.compare(partition, self.newest_ring(), signing=not key_fault)
        ours: set[bool] = set()
        async for tenant_ids in self._tenants():
            ours |= await self._history.checkpoints.named_here(tenant_ids)
            shrunk = await self._verification.shrunk(tenant_ids)
            if shrunk:
                log.error("%s: the chain of %s is shorter than its checkpoint", ROLLED_BACK, shrunk[0])
                found.append(f"{ROLLED_BACK}: a chain is shorter than its checkpoint")
        if ours == {False}:
            found.append("CHECKPOINT_SECRET_CHANGED: the checkpoints were made with another secret: put its file back")

    def _told(self, before: Sequence[str], found: Sequence[str]) -> None:
        """These are the refusals now. What did not stand `before` is logged and counted, by whoever heard it first."""
        self._refusals = list(dict.fromkeys(found))
        for finding in self._refusals:
            if finding not in before:
                log.error("%s", finding)
                self._meter.add(CHAIN_FAILURES, 1, finding.partition(":")[0].lower())

    async def check_tails(self) -> None:
        """Read the ends of the chains that grew lately. Raises NoAnswer."""
        active = []
        async for tenant_ids in self._tenants():
            active += await self._verification.active(tenant_ids)
        waiting = [tenant_id for tenant_id in active if tenant_id not in self._tails]
        chosen = (waiting + [tenant_id for tenant_id in active if tenant_id in self._tails])[:TAILS_MAX]
        self._tails = chosen if len(waiting) >= TAILS_MAX else []
        blamed = [tenant_id for tenant_id, reason in self._history.broken.items() if reason == _ROUND_UNKNOWN]
        for tenant_id in dict.fromkeys([*blamed, *chosen]):
            await self._check(tenant_id, whole=False)

    async def check_all(self, stopping: asyncio.Event, pause_s: float = PAGE_PAUSE_S) -> None:
        """Read every chain from its first entry, slowly. Raises NoAnswer."""
        async for tenant_ids in self._tenants():
            for tenant_id in tenant_ids:
                if stopping.is_set():
                    return
                await self._check(tenant_id, whole=True, stopping=stopping, pause_s=pause_s)

    async def note_rotations(self) -> None:
        """On return every chain knows of the key ring's rotations, unless nothing may be added. Raises NoAnswer."""
        ring = self.newest_ring()
        if ring.ring.version == self._noted_version:
            return
        async for tenant_ids in self._tenants():
            if not self.permits:
                return
            await note_rotations(self._pool, ring, tenant_ids)
        self._noted_version = ring.ring.version

    async def _minutely(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self.note_rotations()
                await self.check_tails()
                await set_within(stopping, INTERVAL_S)
                await self.compare()
            except NoAnswer as problem:
                log.warning("the stored evidence cannot be compared for now: %s", problem.code)
                await set_within(stopping, INTERVAL_S)

    async def _daily(self, stopping: asyncio.Event) -> None:
        now_s = asyncio.get_running_loop().time
        while not stopping.is_set():
            begun_s = now_s()
            try:
                await self.check_all(stopping)
            except NoAnswer as problem:
                log.warning("the full pass over the evidence begins again: %s", problem.code)
                await set_within(stopping, INTERVAL_S)
                continue
            await set_within(stopping, max(0.0, begun_s + WHOLE_INTERVAL_S - now_s()))

    async def _check(
        self, tenant_id: str, *, whole: bool, stopping: asyncio.Event | None = None, pause_s: float = 0.0
    ) -> None:
        ring = self.newest_ring()
        try:
            async for _seq in self._verification.check(tenant_id, ring, whole=whole):
                if stopping is not None:
                    if stopping.is_set():
                        return
                    await set_within(stopping, pause_s)
        except ChainFault as fault:
            if self.newest_ring() is ring:
                self._found(fault)
            else:  # what the newer ring's key signed looks altered to the older one
                await self._check(tenant_id, whole=whole, stopping=stopping, pause_s=pause_s)
            return
        # The end of a chain says nothing of what was found at its beginning.
        if whole or self._history.broken.get(tenant_id) == _ROUND_UNKNOWN:
            self._history.broken.pop(tenant_id, None)

    def _found(self, fault: ChainFault) -> None:
        if self._history.broken.get(fault.tenant_id) != fault.reason:
            log.error("EVIDENCE_TAMPERED: %s", fault)
            self._meter.add(CHAIN_FAILURES, 1, fault.reason)
        if self._history.broken.get(fault.tenant_id, _ROUND_UNKNOWN) == _ROUND_UNKNOWN:
            self._history.broken[fault.tenant_id] = fault.reason

    async def _tenants(self) -> AsyncIterator[list[str]]:
        after = ""
        while tenant_ids := await self._history.checkpoints.tenants(after):
            after = tenant_ids[-1]
            yield tenant_ids

    def _key_fault(self) -> str:
        """Why the key that signs here must not sign now, by the key ring as its file has it now."""
        try:
            self._ring = self._ring_file.now()
        except KeyringError as problem:
            return f"KEYRING_UNUSABLE: {problem}"
        return keyring.fault_of(self._ring, self._signer, self._clock.now_ms())

    def newest_ring(self) -> Keyring:
        """The newest key ring that could be read."""
        self._key_fault()
        return self._ring


class GuardedStore:
    """The store as a stage's pause asks for it: it does not answer while the watch does not permit."""

    def __init__(self, store: Store, watch: EvidenceWatch) -> None:
        self._store = store
        self._watch = watch

    async def ping(self) -> bool:
        return self._watch.permits and await self._store.ping()


class GuardedLedger:
    """The ledger, away while the watch does not permit a decision."""

    def __init__(self, ledger: Ledger, watch: EvidenceWatch) -> None:
        self._ledger = ledger
        self._watch = watch

    async def record(self, records: Sequence[DecisionRecord]) -> list[bool]:
        _guard(self._watch)
        return await self._ledger.record(records)


class GuardedLetters:
    """The dead letters, away while the watch does not permit one."""

    def __init__(self, letters: DeadLetters, watch: EvidenceWatch) -> None:
        self._letters = letters
        self._watch = watch

    async def bury(self, letters: Sequence[BuriedLetter]) -> list[BuriedLetter]:
        _guard(self._watch)
        return await self._letters.bury(letters)


class GuardedKeeper:
    """The keeper of evidence, away while the watch does not permit a signature."""

    def __init__(self, keeper: EvidenceStore, watch: EvidenceWatch) -> None:
        self._keeper = keeper
        self._watch = watch

    async def keep(self, partition: int, events: Sequence[EvidenceEvent]) -> None:
        _guard(self._watch)
        await self._keeper.keep(partition, events)

    async def ping(self) -> bool:
        return self._watch.permits and await self._keeper.ping()


def _guard(watch: EvidenceWatch) -> None:
    if not watch.permits:
        raise NoAnswer(Code.STORE_UNAVAILABLE)
