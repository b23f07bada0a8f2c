"""The worker's rounds: made every 10 s and on request, put into the WORM store, countersigned by the witness."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import StrEnum

from ops.evidence_watch import EvidenceWatch
from ops.history import History, stops, told
from ops.witness.client import WitnessClient
from ops.witness.judge import Objection
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.meter import Meter
from schemas.metrics import CHAIN_FAILURES, CHECKPOINT_AGE_S
from schemas.subjects import PARTITIONS, partition_of
from schemas.units import Clock, UnixMs, parse_rfc3339
from sinks.checkpoints import Grown, StoredRound
from sinks.faults import TakenError
from sinks.keyring import Keyring
from sinks.signing import SignatureError
from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 10.0
REQUESTS_S = 1.0
WITNESS_AWAY_MS_MAX = 10 * 60 * 1_000


class _Source(StrEnum):
    """What stands against a partition's rounds."""

    DATABASE = "database"
    STORE = "store"
    WITNESS = "witness"


class Checkpointer:
    """Keeps every partition covered. Several workers may run one: each round is made once."""

    def __init__(
        self, history: History, ring: Callable[[], Keyring], clock: Clock, meter: Meter, *, retain_days: int
    ) -> None:
        """`ring` is asked for the newest key ring there is."""
        self._history = history
        self._checkpoints = history.checkpoints
        self._ring = ring
        self._retain_days = retain_days
        self._clock = clock
        self._meter = meter
        self._broken: set[str] = set()
        self._refused: dict[tuple[int, _Source], str] = {}
        self._waits_since_ms: dict[int, UnixMs] = {}

    @property
    def findings(self) -> list[str]:
        """Why this worker is not ready, beside what `History.objections` says."""
        found = sorted(set(self._refused.values()))
        if broken := self._broken - self._history.broken.keys():  # the watch counts those
            found.append(f"EVIDENCE_TAMPERED: {len(broken)} chains are not whole and get no checkpoint (see the log)")
        return found

    @property
    def degraded(self) -> list[str]:
        """What is delayed and not lost: rounds wait in the database for their witness."""
        now_ms = self._clock.now_ms()
        if all(now_ms - since_ms < WITNESS_AWAY_MS_MAX for since_ms in self._waits_since_ms.values()):
            return []
        return ["WITNESS_AWAY: checkpoints have waited for their witness for 10 minutes"]

    async def run(self, stopping: asyncio.Event, watch: EvidenceWatch) -> None:
        """Make rounds until `stopping` is set, while the watch permits signatures."""
        due_s = 0.0
        now_s = asyncio.get_running_loop().time
        while not stopping.is_set():
            if watch.permits:
                try:
                    await self.serve_requests(lambda: watch.permits)
                    if now_s() >= due_s:
                        due_s = now_s() + INTERVAL_S
                        await self.make_rounds(range(PARTITIONS), lambda: watch.permits)
                except NoAnswer as problem:
                    log.warning("no checkpoints for now: %s", problem.code)
            await set_within(stopping, REQUESTS_S)

    async def serve_requests(self, permitted: Callable[[], bool]) -> None:
        """Make the rounds somebody asked for. A request stays while another worker is at its partition.

        Raises NoAnswer; the requests then stay too.
        """
        requests = await self._checkpoints.requests()
        covered = await self.make_rounds(sorted(requests), permitted) if requests else []
        for partition in covered:
            await self._checkpoints.served(partition, requests[partition])

    async def make_rounds(self, partitions: Sequence[int], permitted: Callable[[], bool]) -> list[int]:
        """On return those partitions' chains are covered and delivered, but for what findings say.

        A chain that a standing check found changed gets no leaf. What store or witness know otherwise is an
        objection when this returns, and permits nothing further.
        `permitted` is asked right before each round: a key's time may end between two. Returns the
        partitions that no other worker was at. Raises NoAnswer, also when a round is not permitted.
        """
        grown: dict[int, list[Grown]] = {partition: [] for partition in partitions}
        after = ""
        while page := await self._checkpoints.tenants(after):
            after = page[-1]
            wanted = [tenant_id for tenant_id in page if partition_of(tenant_id) in grown]
            for one in await self._checkpoints.grown(wanted) if wanted else []:
                grown[partition_of(one.tenant_id)].append(one)
        covered = []
        for partition, chains in grown.items():
            self._meter.add(CHECKPOINT_AGE_S, self._age_s(chains), str(partition))
            if not chains:  # whatever stood against a round, somebody has made it
                self._refused.pop((partition, _Source.DATABASE), None)
            whole = [one.tenant_id for one in chains if one.tenant_id not in self._history.broken]
            if await self._cover(partition, whole, permitted):
                covered.append(partition)
            await self._deliver(partition)
        return covered

    async def _cover(self, partition: int, tenant_ids: Sequence[str], permitted: Callable[[], bool]) -> bool:
        """Whether this worker was the one to make the partition's rounds."""
        while tenant_ids:
            if not permitted():
                raise NoAnswer(Code.STORE_UNAVAILABLE)
            try:
                made = await self._checkpoints.round(partition, tenant_ids, self._ring())
            except (TakenError, SignatureError):
                finding = f"EVIDENCE_TAMPERED: what partition {partition} keeps of its rounds was changed"
                self._refuse(partition, _Source.DATABASE, finding)
                return True
            if made is None:
                return False
            if made.covered:  # only what was written down proves that it can be
                self._refused.pop((partition, _Source.DATABASE), None)
            for fault in made.faults:
                if fault.tenant_id not in self._broken:
                    log.error("EVIDENCE_TAMPERED: %s", fault)
                    self._meter.add(CHAIN_FAILURES, 1, fault.reason)
            self._broken = (self._broken - set(made.covered)) | {fault.tenant_id for fault in made.faults}
            tenant_ids = made.left
        return True

    async def _deliver(self, partition: int) -> None:
        """Put what the WORM store lacks, oldest first; then send the witness what it lacks."""
        after, obstructed = 0, ""
        while rounds := await self._checkpoints.unstored(partition, after):
            for this in rounds:
                finding = await self._history.rounds.put(this, self._ring(), retain_days=self._retain_days)
                if stops(finding):
                    self._refuse(partition, _Source.STORE, finding)
                    return
                obstructed = obstructed or finding  # that one waits, and the store remembers those after it
            after = rounds[-1].number
        if obstructed:
            self._refuse(partition, _Source.STORE, obstructed)
        else:
            self._refused.pop((partition, _Source.STORE), None)
        await self._each_witnessed(partition)

    async def _each_witnessed(self, partition: int) -> None:
        """On return no round waits for the witness, unless it is away, objects or lacks something.

        A partition that was objected to is not shown here: what a witness countersigns is the one history for good.
        """
        if self._history.witness is None or partition in self._history.objections:
            return
        while rounds := await self._checkpoints.unwitnessed(partition):
            for this in rounds:
                if not await self._witnessed(self._history.witness, this):
                    return
        self._waits_since_ms.pop(partition, None)
        self._refused.pop((partition, _Source.WITNESS), None)  # another worker may have had it countersigned

    async def _witnessed(self, witness: WitnessClient, this: StoredRound) -> bool:
        try:
            cosignature = await witness.countersign(this)
        except NoAnswer:
            log.warning("the witness is away; round %d of partition %d waits", this.number, this.partition)
            self._waits_since_ms.setdefault(this.partition, self._clock.now_ms())
            return False
        except (Objection, SignatureError) as objection:
            self._waits_since_ms.pop(this.partition, None)
            self._refuse(this.partition, _Source.WITNESS, told(this, objection))
            return False
        await self._checkpoints.cosigned(this, cosignature)
        self._waits_since_ms.pop(this.partition, None)
        self._refused.pop((this.partition, _Source.WITNESS), None)
        return True

    def _refuse(self, partition: int, source: _Source, finding: str) -> None:
        if finding not in {self._refused.get((partition, source)), self._history.objections.get(partition)}:
            log.error("%s", finding)
            self._meter.add(CHAIN_FAILURES, 1, finding.partition(":")[0].lower())
        if stops(finding):
            self._history.objections[partition] = finding
        else:
            self._refused[partition, source] = finding

    def _age_s(self, chains: Sequence[Grown]) -> float:
        now_ms = self._clock.now_ms()
        return max((max(0.0, (now_ms - _came_in(one, now_ms)) / 1_000) for one in chains), default=0.0)


def _came_in(one: Grown, now_ms: UnixMs) -> UnixMs:
    try:
        return parse_rfc3339(one.since)
    except ValueError:
        return now_ms  # an entry that was altered: the round will say so
