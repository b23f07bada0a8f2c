"""FG_DECIDE -> features -> policy -> score -> one Postgres transaction.

The three phases are pure but for the policy's answer and what the event's tenant adds to the rules,
which is read before; the ledger commits decision, chain entry,
outbox row and meters together, and the delivery is settled after that commit.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.codes import DeadReason, PolicyCode
from schemas.decision import DecisionRecord
from schemas.envelope import DecideTask
from schemas.fate import DONE, Dead, Fate
from schemas.meter import Meter
from schemas.metrics import PIPELINE_PHASE_MS
from schemas.policy_data import PolicyData
from schemas.subjects import partition_of, tenant_of
from schemas.units import Clock, format_rfc3339, parse_rfc3339
from streams.delivery import Delivery
from streams.features import features_of
from streams.policy import Policy
from streams.ports import Ledger, PolicyDataOf, Store
from streams.scoring import score
from streams.spans import US_PER_MS, spans_of

RECORD_VERSION = 2
_task = msgspec.json.Decoder(DecideTask)


class DecisionStage:
    name = "decision"

    def __init__(  # noqa: PLR0913  (the collaborators of one step, all required)
        self,
        *,
        policy: Policy,
        policy_data: PolicyDataOf,
        ledger: Ledger,
        store: Store,
        clock: Clock,
        config_hash: str,
        enforce: bool,
        meter: Meter,
        committed: Callable[[set[int], int], None],
    ) -> None:
        """`committed` is told the partitions that got outbox rows, and how many at most, after their commit.

        Without `enforce` (observe mode, never in production) the verdict is always allow, and the
        policy's code and reasons say what it would have been.
        """
        self._policy = policy
        self._policy_data = policy_data
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._config_hash = config_hash
        self._enforce = enforce
        self._meter = meter
        self._committed = committed

    async def ready(self) -> bool:
        return await self._store.ping()

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        fates: list[Fate] = [Dead(DeadReason.POISON)] * len(deliveries)
        tasks = {position: task for position, one in enumerate(deliveries) if (task := read_task(one)) is not None}
        if tasks:
            records = await self._decide_all(list(tasks.values()))
            conflicts = await self._ledger.record(records)
            for position, conflict in zip(tasks, conflicts, strict=True):
                fates[position] = Dead(DeadReason.EVENT_ID_CONFLICT) if conflict else DONE
            self._committed({partition_of(record.tenant_id) for record in records}, len(records))
        return fates

    async def _decide_all(self, tasks: Sequence["ReadTask"]) -> list[DecisionRecord]:
        """In the order of the tasks, asking the policy as many questions at once as it likes."""
        data = await self._policy_data.of({read.task.accepted.tenant_id for read in tasks})
        pairs = [(read, data[read.task.accepted.tenant_id]) for read in tasks]
        if self._policy.in_flight_max == 1:
            return [await self._decide(*pair) for pair in pairs]
        turns = asyncio.Semaphore(self._policy.in_flight_max)

        async def in_turn(read: ReadTask, added: PolicyData) -> DecisionRecord:
            async with turns:
                return await self._decide(read, added)

        return await asyncio.gather(*(in_turn(*pair) for pair in pairs))

    async def _decide(self, read: "ReadTask", added: PolicyData) -> DecisionRecord:
        task, event = read
        accepted = task.accepted
        started_us = self._clock.now_ms() * US_PER_MS
        started = time.perf_counter()
        features = features_of(event)
        featured = time.perf_counter()
        document = {"event": accepted.event, "features": features, "tenant": msgspec.Raw(added.document)}
        answer = await self._policy.evaluate(document)
        judged = time.perf_counter()
        points = score(features)
        scored = time.perf_counter()
        self._meter.add(PIPELINE_PHASE_MS, (featured - started) * 1000, "features")
        self._meter.add(PIPELINE_PHASE_MS, (judged - featured) * 1000, "policy")
        self._meter.add(PIPELINE_PHASE_MS, (scored - judged) * 1000, "scoring")
        self._meter.add(PIPELINE_PHASE_MS, (scored - started) * 1000, "total")
        moments_us = [
            started_us + int((moment - started) * 1_000_000) for moment in (started, featured, judged, scored)
        ]
        return DecisionRecord(
            v=RECORD_VERSION,
            tenant_id=accepted.tenant_id,
            event_id=accepted.event_id,
            trace_id=accepted.trace_id,
            request_id=accepted.request_id,
            agent_id=accepted.agent_id,
            source=event["source"],
            schema_version=event["schema_version"],
            created_at=event["created_at"],
            ingest_ts=accepted.ingest_ts,
            decided_at=format_rfc3339(self._clock.now_ms()),
            stream=task.stream,
            seq=task.seq,
            body_sha256=accepted.body_sha256,
            body_bytes=len(bytes(accepted.event)),
            verdict="deny" if self._enforce and answer.code is not PolicyCode.POLICY_ALLOW else "allow",
            policy_code=answer.code.value,
            policy_reasons=answer.reasons,
            policy_hash=self._policy.policy_hash,
            config_hash=self._config_hash,
            score=points.value,
            features=features,
            contributions=points.contributions,
            break_glass=accepted.break_glass,
            policy_data_sha256=added.sha256,
            spans=spans_of(task, moments_us),
        )


class ReadTask(NamedTuple):
    """A task and its event, decoded."""

    task: DecideTask
    event: dict[str, Any]


def read_task(delivery: Delivery) -> ReadTask | None:
    """The task of a FG_DECIDE message, None when the data is not one or speaks of another tenant than its subject.

    The event is decoded whole, so that what no rule could read is told from a fault of ours.
    """
    try:
        task = _task.decode(delivery.data)
        parse_rfc3339(task.accepted.ingest_ts)
        event = msgspec.json.decode(task.accepted.event)
        named = msgspec.convert(event, _Envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return ReadTask(task, event) if named.tenant_id == task.accepted.tenant_id == tenant_of(delivery.subject) else None


class _Envelope(msgspec.Struct):
    """What the record needs of the envelope; the edge admits nothing less."""

    tenant_id: str
    source: str
    schema_version: str
    created_at: str
