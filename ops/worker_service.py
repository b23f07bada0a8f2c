"""The worker process: consumers, stages and sinks brought together."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from functools import partial

from ops.attempt_sweep import AttemptSweep
from ops.clock import SystemClock
from ops.connect import connected
from ops.dead_letter_watch import DeadLetterWatch
from ops.evidence_duty import EvidenceDuty
from ops.evidence_parts import worm_of
from ops.evidence_watch import GuardedKeeper, GuardedLedger, GuardedLetters, GuardedStore
from ops.exporter import Exporter
from ops.health import admin_server
from ops.reports import AttestationReport
from ops.settings import Settings, settings_hash
from ops.stage_parts import StageParts
from ops.stop_deadline import heed_signals
from ops.telemetry import PrometheusMeter
from ops.watch import IsolationWatch, TopologyWatch
from ops.worm_watch import WormWatch
from schemas.metrics import DB_WRITE_MS, RLS_DENIED
from schemas.readiness import Readiness
from schemas.subjects import (
    PARTITIONS,
    STREAM_DECIDE,
    STREAM_DLQ,
    STREAM_EVENTS,
)
from sinks.artifacts import ArtifactIndex
from sinks.attempts import Attempts
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.evidence import EvidenceKeeper
from sinks.ledger import DecisionLedger
from sinks.outbox import Outbox
from sinks.pg import Pool
from sinks.policy_data import PolicyDataReader
from sinks.retention_plans import RetentionPlans
from sinks.signing import Signer
from sinks.waiting_letters import WaitingLetters
from streams.committer import GroupCommitter, unbarred
from streams.graveyard import Graveyard
from streams.jetstream import JetStream
from streams.keeper import Keeper
from streams.opa import RemotePolicy
from streams.policy import EmbeddedPolicy, Policy
from streams.relay import Relay
from streams.runner import Runner, Settled, Stage, keep_settled
from streams.stages.advisory import AdvisoryStage
from streams.stages.dead_letter import DeadLetterStage
from streams.stages.decision import DecisionStage
from streams.stages.dedupe import DedupeStage
from streams.stages.evidence import EvidenceStage
from streams.sweeper import QueueSweeper, RetrySweeper
from streams.topology import STAGES, stage_stream

QUEUE_STAGES = ("dedupe", "decision")
"""Stages that read a queue, which is swept behind them; the others read a history."""
RETRIED_STAGES = ("dedupe", "decision", "evidence")
"""Stages whose events may fail by their own fault and be tried again."""
GC_ALLOCATIONS = 50_000
"""So many objects more before those that refer to each other in circles are looked for."""


class Worker:
    """Everything one worker runs. Made by `build`, so that a fault injector can replace a part before `run`."""

    def __init__(
        self, settings: Settings, policy: Policy, jetstream: JetStream, pool: Pool, meter: PrometheusMeter
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._jetstream = jetstream
        self._pool = pool
        self._meter = meter
        self._clock = SystemClock()
        self.topology = TopologyWatch(jetstream, settings.streams)
        self.unseen = DeadLetterWatch(WaitingLetters(pool), settings.retry, meter)
        self.keys = EventKeys(pool)
        self.ledger = DecisionLedger(pool)
        self.letters = DeadLetters(pool, settings_hash(settings))
        self.outbox = Outbox(pool)
        self.attempts = Attempts(pool, settings.retry.window_seconds, self._clock)
        self.old_attempts = AttemptSweep(self.attempts)
        signer = Signer.load(settings.evidence.signing_key_file)
        report = AttestationReport(settings.evidence.reports_dir, signer, self._clock)
        self.isolation = IsolationWatch(pool, report.publish)
        worm = worm_of(settings.evidence)
        self.worm = WormWatch(worm)
        plans = RetentionPlans(pool, dict(settings.evidence.retention_days_by_tier))
        self.evidence = EvidenceKeeper(worm, ArtifactIndex(pool), plans, signer, self._clock)
        self.duty = EvidenceDuty(settings.evidence, pool, worm, signer, self._clock, meter)
        self.exporter = Exporter(settings.evidence, pool, worm, self._clock, lambda: self.duty.watch.permits)
        self._keeper = Keeper(jetstream, settings.streams, meter)
        self._runners: list[Runner] = []
        self._parts: StageParts | None = None

    async def run(self, stages: Sequence[str], stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. Anything a stage did not foresee ends the process, unacknowledged.

        Raises EvidenceRefusedError, before any stage runs, when the stored evidence speaks against it.
        """
        await self.duty.admit(stopping)
        relay = Relay(self.outbox, self._committer(STREAM_EVENTS))
        graveyard = Graveyard(self._committer(STREAM_DLQ))
        parts = StageParts(self._settings, self._jetstream, graveyard, self.attempts, self._meter, self._clock)
        self._parts = parts
        sweepers: list[QueueSweeper] = []
        for name in stages:
            stage = self._stage(name, relay)
            for stream, partitions in self._partitions(name).items():
                settled = keep_settled
                if name in QUEUE_STAGES:
                    sweepers.append(QueueSweeper(self._jetstream, name, stream, partitions))
                    settled = sweepers[-1].settled
                self._runners += self._lanes(parts, stage, partitions, settled)
        if "dlq" in stages:
            self._runners.append(self._advisories(parts, graveyard))
        retries = RetrySweeper(self._jetstream)
        self._runners.append(self._retries(parts, relay, retries.settled))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.duty.run(stopping))
            tasks.create_task(self.exporter.run(stopping))
            tasks.create_task(self.isolation.run(stopping))
            tasks.create_task(self.topology.run(stopping))
            tasks.create_task(self.unseen.run(stopping))
            tasks.create_task(self.old_attempts.run(stopping))
            tasks.create_task(self.worm.run(stopping))
            tasks.create_task(self._policy.run(stopping))
            tasks.create_task(relay.run(stopping))
            tasks.create_task(retries.run(stopping))
            for sweeper in sweepers:
                tasks.create_task(sweeper.run(stopping))
            tasks.create_task(self._run_stages(stopping))

    async def _run_stages(self, stopping: asyncio.Event) -> None:
        """Hold the partitions until the last runner has ended, then give them to whoever stands by."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as holding:
            holding.create_task(self._keeper.run(ended))
            async with asyncio.TaskGroup() as working:
                for runner in self._runners:
                    working.create_task(runner.run(stopping))
            ended.set()
        await self._keeper.release()

    def readiness(self) -> Readiness:
        reasons = [*self.duty.findings, *self.isolation.findings, *self.topology.findings, *self._policy.findings]
        if not self._jetstream.connected:
            reasons.append("no connection to the broker")
        reasons += [*self.unseen.findings, *self.worm.findings]
        if not self.isolation.store_answers:
            reasons.append("the database does not answer")
        reasons += sorted({f"stage {runner.stage_name} is paused" for runner in self._runners if runner.paused})
        if self._parts is not None:
            reasons += [f"stage {stage} has a dead-letter storm" for stage in self._parts.storms]
            overdue = self._parts.overdue.items()
            reasons += [f"stage {stage} cannot get {count} of its events through" for stage, count in overdue]
        return Readiness(tuple(reasons), (*self._policy.notices, *self.duty.degraded))

    def _stage(self, name: str, relay: Relay) -> Stage:
        match name:
            case "dedupe":
                return DedupeStage(self.keys, self._committer(STREAM_DECIDE), self._pool, self._clock)
            case "decision":
                return DecisionStage(
                    policy=self._policy,
                    policy_data=PolicyDataReader(self._pool, self._clock),
                    ledger=GuardedLedger(self.ledger, self.duty.watch),
                    store=GuardedStore(self._pool, self.duty.watch),
                    clock=self._clock,
                    config_hash=settings_hash(self._settings),
                    enforce=self._settings.opa_enforce,
                    meter=self._meter,
                    committed=relay.committed,
                )
            case "evidence":
                return EvidenceStage(GuardedKeeper(self.evidence, self.duty.watch), self._pool)
            case "dlq":
                letters = GuardedLetters(self.letters, self.duty.watch)
                store = GuardedStore(self._pool, self.duty.watch)
                return DeadLetterStage(letters, store, self._clock, self._meter, relay.committed)
            case _:
                raise ValueError(f"no such stage: {name}")

    def _partitions(self, stage: str) -> dict[str, list[int]]:
        """The partitions of a stage by the stream they lie in."""
        found: dict[str, list[int]] = {}
        for partition in range(PARTITIONS):
            found.setdefault(stage_stream(stage, partition, self._settings.streams), []).append(partition)
        return found

    def _lanes(self, parts: StageParts, stage: Stage, partitions: Sequence[int], settled: Settled) -> list[Runner]:
        lanes = [parts.runner(stage, settled) for _ in range(parts.budgets[stage.name].lanes)]
        for position, partition in enumerate(partitions):
            lane = lanes[position % len(lanes)]
            lane.add(self._keeper.inbox(parts.budgets[stage.name], partition, lane.arrived))
        return lanes

    def _advisories(self, parts: StageParts, graveyard: Graveyard) -> Runner:
        stage = AdvisoryStage(self._jetstream, graveyard, self._settings.streams)
        runner = parts.runner(stage, keep_settled)
        runner.add(self._keeper.inbox(parts.budgets["advisory"], 0, runner.arrived))
        return runner

    def _retries(self, parts: StageParts, relay: Relay, settled: Callable[[int], None]) -> Runner:
        runner = parts.retries({name: self._stage(name, relay) for name in RETRIED_STAGES}, settled)
        runner.add(self._keeper.inbox(parts.budgets["retry"], 0, runner.arrived))
        return runner

    def _committer(self, stream: str) -> GroupCommitter:
        return GroupCommitter(self._jetstream, self._settings.streams, stream, self._meter, unbarred)


async def policy_of(settings: Settings) -> Policy:
    """The rules of the policy directory: run here, or, with an OPA URL, by a server seen to hold the same ones.

    Raises PolicyError for rules that cannot be used.
    """
    if settings.opa_url:
        return await RemotePolicy.connect(settings.opa_url, settings.policy_dir)
    return EmbeddedPolicy.load(settings.policy_dir)


def _noted(meter: PrometheusMeter, table: str, operation: str, elapsed_ms: float) -> None:
    meter.add(DB_WRITE_MS, elapsed_ms, table, operation)


def _rest_from_collecting() -> None:
    """What the start has made stays; a batch of events alone makes ten times what the collector waits for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


async def build(settings: Settings) -> tuple[Worker, PrometheusMeter, JetStream, Pool]:
    """Connect and put a worker together. Returns once the broker answers; the database may come later."""
    meter = PrometheusMeter("worker")
    policy = await policy_of(settings)
    jetstream = await connected(settings.streams.url, "worker")
    pool = await Pool.open(settings.postgres, partial(meter.add, RLS_DENIED, 1, "worker"), partial(_noted, meter))
    return Worker(settings, policy, jetstream, pool, meter), meter, jetstream, pool


async def serve(settings: Settings, stages: Sequence[str] = STAGES) -> None:
    """Run the stages until SIGTERM or SIGINT; the batches in hand are finished first."""
    worker, meter, jetstream, pool = await build(settings)
    await run(worker, stages, settings, meter)
    await jetstream.close()
    await pool.close()


async def run(worker: Worker, stages: Sequence[str], settings: Settings, meter: PrometheusMeter) -> None:
    """Run a built worker with its admin port until a signal says stop; from then on the process ends within a bound."""
    stopping = asyncio.Event()
    heed_signals(lambda _number: stopping.set())
    admin = admin_server(settings.admin_host, settings.admin_port, worker.readiness, meter)
    await admin.start()
    _rest_from_collecting()
    try:
        await worker.run(stages, stopping)
    finally:
        await admin.stop()
