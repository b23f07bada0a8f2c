"""The worker process: consumers, stages and sinks brought together."""

import asyncio
import signal
from collections.abc import Sequence

from ops.clock import SystemClock
from ops.connect import connected
from ops.health import admin_server
from ops.settings import Settings, settings_hash
from ops.telemetry import PrometheusMeter
from ops.watch import IsolationWatch, TopologyWatch
from schemas.readiness import Readiness
from schemas.subjects import (
    PARTITIONS,
    STREAM_ADVISORIES,
    STREAM_DECIDE,
    STREAM_DLQ,
    STREAM_EVENTS,
    consumer_name,
)
from sinks.artifacts import ArtifactIndex
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.evidence import EvidenceKeeper
from sinks.ledger import DecisionLedger
from sinks.outbox import Outbox
from sinks.pg import Pool
from sinks.signing import Signer
from sinks.worm import DirectoryWorm
from streams.committer import GroupCommitter, unbarred
from streams.graveyard import Graveyard
from streams.inbox import Inbox
from streams.jetstream import JetStream
from streams.opa import RemotePolicy
from streams.policy import EmbeddedPolicy, Policy
from streams.relay import Relay
from streams.runner import Batching, Runner, Settled, Stage, keep_settled
from streams.stages.advisory import AdvisoryStage
from streams.stages.dead_letter import DeadLetterStage
from streams.stages.decision import DecisionStage
from streams.stages.dedupe import DedupeStage
from streams.stages.evidence import EvidenceStage
from streams.sweeper import QueueSweeper
from streams.topology import ADVISORY_CONSUMER, STAGES, stage_stream

LANES = {"dedupe": 2, "decision": 2, "evidence": 4, "dlq": 1}
"""Runners per stage: a lane takes every n-th partition and works its batches one after the other, so that a
tenant's events keep their order while small batches of many partitions share a transaction."""
QUEUE_STAGES = ("dedupe", "decision")
"""Stages that read a queue, which is swept behind them; the others read a history."""
BATCHING = {
    "dedupe": Batching(messages_max=512, linger_ms=200),
    "decision": Batching(messages_max=512, linger_ms=200),
    "evidence": Batching(messages_max=1_000, linger_ms=1_000),  # one sealed, fsynced segment a batch and partition
    "dlq": Batching(messages_max=64, linger_ms=50),
}


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
        self.isolation = IsolationWatch(pool)
        self.topology = TopologyWatch(jetstream, settings.streams)
        self.keys = EventKeys(pool)
        self.ledger = DecisionLedger(pool)
        self.letters = DeadLetters(pool, settings_hash(settings))
        self.outbox = Outbox(pool)
        signer = Signer.load(settings.evidence.signing_key_file)
        worm = DirectoryWorm(settings.evidence.worm_dir)
        self.evidence = EvidenceKeeper(worm, ArtifactIndex(pool), signer, self._clock)
        self._runners: list[Runner] = []

    async def run(self, stages: Sequence[str], stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. Anything a stage did not foresee ends the process, unacknowledged."""
        relay = Relay(self.outbox, self._committer(STREAM_EVENTS))
        graveyard = Graveyard(self._committer(STREAM_DLQ))
        sweepers: list[QueueSweeper] = []
        for name in stages:
            stage = self._stage(name, relay)
            for stream, partitions in self._partitions(name).items():
                settled = keep_settled
                if name in QUEUE_STAGES:
                    sweepers.append(QueueSweeper(self._jetstream, name, stream, partitions))
                    settled = sweepers[-1].settled
                self._runners += self._lanes(stage, stream, partitions, graveyard, settled)
        if "dlq" in stages:
            self._runners.append(self._advisories(graveyard))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.isolation.run(stopping))
            tasks.create_task(self.topology.run(stopping))
            tasks.create_task(relay.run(stopping))
            for sweeper in sweepers:
                tasks.create_task(sweeper.run(stopping))
            for runner in self._runners:
                tasks.create_task(runner.run(stopping))

    def readiness(self) -> Readiness:
        reasons = [*self.isolation.findings, *self.topology.findings]
        if not self._jetstream.connected:
            reasons.append("no connection to the broker")
        if not self.isolation.store_answers:
            reasons.append("the database does not answer")
        reasons += sorted({f"stage {runner.stage_name} is paused" for runner in self._runners if runner.paused})
        return Readiness(tuple(reasons))

    def _stage(self, name: str, relay: Relay) -> Stage:
        match name:
            case "dedupe":
                return DedupeStage(self.keys, self._committer(STREAM_DECIDE), self._pool)
            case "decision":
                return DecisionStage(
                    policy=self._policy,
                    ledger=self.ledger,
                    store=self._pool,
                    clock=self._clock,
                    config_hash=settings_hash(self._settings),
                    enforce=self._settings.opa_enforce,
                    meter=self._meter,
                    committed=relay.committed,
                )
            case "evidence":
                return EvidenceStage(self.evidence, self._pool)
            case "dlq":
                return DeadLetterStage(self.letters, self._pool, self._clock, self._meter, relay.committed)
            case _:
                raise ValueError(f"no such stage: {name}")

    def _partitions(self, stage: str) -> dict[str, list[int]]:
        """The partitions of a stage by the stream they lie in."""
        found: dict[str, list[int]] = {}
        for partition in range(PARTITIONS):
            found.setdefault(stage_stream(stage, partition, self._settings.streams), []).append(partition)
        return found

    def _lanes(
        self, stage: Stage, stream: str, partitions: Sequence[int], graveyard: Graveyard, settled: Settled
    ) -> list[Runner]:
        lanes = [self._runner(stage, graveyard, BATCHING[stage.name], settled) for _ in range(LANES[stage.name])]
        for position, partition in enumerate(partitions):
            lane = lanes[position % len(lanes)]
            lane.add(self._inbox(stream, consumer_name(stage.name, partition), lane))
        return lanes

    def _advisories(self, graveyard: Graveyard) -> Runner:
        stage = AdvisoryStage(self._jetstream, graveyard, self._settings.streams)
        runner = self._runner(stage, graveyard, BATCHING["dlq"], keep_settled)
        runner.add(self._inbox(STREAM_ADVISORIES, ADVISORY_CONSUMER, runner))
        return runner

    def _runner(self, stage: Stage, graveyard: Graveyard, batching: Batching, settled: Settled) -> Runner:
        return Runner(
            stage=stage,
            jetstream=self._jetstream,
            graveyard=graveyard,
            batching=batching,
            meter=self._meter,
            settled=settled,
        )

    def _inbox(self, stream: str, consumer: str, runner: Runner) -> Inbox:
        return Inbox(self._jetstream, self._settings.streams, stream, consumer, runner.arrived)

    def _committer(self, stream: str) -> GroupCommitter:
        return GroupCommitter(self._jetstream, self._settings.streams, stream, self._meter, unbarred)


async def policy_of(settings: Settings) -> Policy:
    """The rules of the policy directory: run here, or, with an OPA URL, by a server seen to hold the same ones.

    Raises PolicyError for rules that cannot be used.
    """
    if settings.opa_url:
        return await RemotePolicy.connect(settings.opa_url, settings.policy_dir)
    return EmbeddedPolicy.load(settings.policy_dir)


async def build(settings: Settings) -> tuple[Worker, PrometheusMeter, JetStream, Pool]:
    """Connect and put a worker together. Returns once the broker answers; the database may come later."""
    meter = PrometheusMeter("worker")
    policy = await policy_of(settings)
    jetstream = await connected(settings.streams.url, "worker")
    pool = await Pool.open(settings.postgres)
    return Worker(settings, policy, jetstream, pool, meter), meter, jetstream, pool


async def serve(settings: Settings, stages: Sequence[str] = STAGES) -> None:
    """Run the stages until SIGTERM or SIGINT; the batches in hand are finished first."""
    worker, meter, jetstream, pool = await build(settings)
    await run(worker, stages, settings, meter)
    await jetstream.close()
    await pool.close()


async def run(worker: Worker, stages: Sequence[str], settings: Settings, meter: PrometheusMeter) -> None:
    """Run a built worker with its admin port until a signal says stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    admin = admin_server(settings.admin_host, settings.admin_port, worker.readiness, meter)
    await admin.start()
    try:
        await worker.run(stages, stopping)
    finally:
        await admin.stop()
