"""FG_EVENTS -> sealed segments in the WORM store, and an index row for each artifact."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from schemas.codes import DeadReason
from schemas.evidence import EvidenceEvent
from schemas.fate import DONE, Dead, Fate
from schemas.subjects import partition_of, tenant_of
from streams.delivery import Delivery
from streams.ports import EvidenceStore, Store

_event = msgspec.json.Decoder(EvidenceEvent)


class EvidenceStage:
    name = "evidence"

    def __init__(self, evidence: EvidenceStore, store: Store) -> None:
        self._evidence = evidence
        self._store = store

    async def ready(self) -> bool:
        return await self._store.ping() and await self._evidence.ping()

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        fates: list[Fate] = [DONE] * len(deliveries)
        by_partition: defaultdict[int, list[EvidenceEvent]] = defaultdict(list)
        for position, delivery in enumerate(deliveries):
            event = read_event(delivery)
            if event is None:
                fates[position] = Dead(DeadReason.POISON)
            else:
                by_partition[partition_of(event.tenant_id)].append(event)
        for partition, events in by_partition.items():
            await self._evidence.keep(partition, events)
        return fates


def read_event(delivery: Delivery) -> EvidenceEvent | None:
    """The evidence event of a FG_EVENTS message, None when the data is not one."""
    try:
        event = _event.decode(delivery.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return event if event.tenant_id == tenant_of(delivery.subject) else None
