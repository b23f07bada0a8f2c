"""FG_DECIDE -> features -> policy -> score -> one Postgres transaction.

The three phases are pure but for the policy's answer; the ledger commits decision, chain entry,
outbox row and meters together, and the delivery is settled after that commit.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from schemas.codes import DeadReason, PolicyCode
from schemas.decision import DecisionRecord
from schemas.envelope import DecideTask
from schemas.fate import DONE, Dead, Fate
from schemas.meter import Meter
from schemas.metrics import PIPELINE_PHASE_MS
from schemas.subjects import partition_of, tenant_of
from schemas.units import Clock, format_rfc3339
from streams.delivery import Delivery
from streams.features import features_of
from streams.policy import Policy
from streams.ports import Ledger, Store
from streams.scoring import score

RECORD_VERSION = 1
_task = msgspec.json.Decoder(DecideTask)


class DecisionStage:
    name = "decision"

    def __init__(  # noqa: PLR0913  (the collaborators of one step, all required)
        self,
        *,
        policy: Policy,
        ledger: Ledger,
        store: Store,
        clock: Clock,
        config_hash: str,
        enforce: bool,
        meter: Meter,
        committed: Callable[[set[int]], None],
    ) -> None:
        """`committed` is told the partitions that got outbox rows, after their commit.

        Without `enforce` (observe mode, never in production) the verdict is always allow, and the
        policy's code and reasons say what it would have been.
        """
        self._policy = policy
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
        fates: list[Fate] = [DONE] * len(deliveries)
        records: list[DecisionRecord] = []
        for position, delivery in enumerate(deliveries):
            task = read_task(delivery)
            if task is None:
                fates[position] = Dead(DeadReason.POISON)
            else:
                records.append(await self._decide(task))
        if records:
            await self._ledger.record(records)
            self._committed({partition_of(record.tenant_id) for record in records})
        return fates

    async def _decide(self, task: DecideTask) -> DecisionRecord:
        accepted = task.accepted
        event: dict[str, Any] = msgspec.json.decode(accepted.event)
        started = time.perf_counter()
        features = features_of(event)
        featured = time.perf_counter()
        answer = await self._policy.evaluate({"event": accepted.event, "features": features})
        judged = time.perf_counter()
        points = score(features)
        scored = time.perf_counter()
        self._meter.add(PIPELINE_PHASE_MS, (featured - started) * 1000, "features")
        self._meter.add(PIPELINE_PHASE_MS, (judged - featured) * 1000, "policy")
        self._meter.add(PIPELINE_PHASE_MS, (scored - judged) * 1000, "scoring")
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
        )


def read_task(delivery: Delivery) -> DecideTask | None:
    """The task of a FG_DECIDE message, None when the data is not one or speaks of another tenant than its subject."""
    try:
        task = _task.decode(delivery.data)
        event = msgspec.json.decode(task.accepted.event, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return task if event.tenant_id == task.accepted.tenant_id == tenant_of(delivery.subject) else None


class _Envelope(msgspec.Struct):
    """What the record needs of the envelope; the edge admits nothing less."""

    tenant_id: str
    source: str
    schema_version: str
    created_at: str
