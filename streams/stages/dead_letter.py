"""FG_DLQ -> one `ingest_dlq` row and one chain entry per dead event, unless the event is decided."""

from collections.abc import Callable, Sequence

import msgspec

from schemas.codes import DeadReason
from schemas.envelope import DeadLetter
from schemas.fate import DONE, Fate
from schemas.meter import Meter
from schemas.metrics import DLQ_EVENTS
from schemas.rows import BuriedLetter
from schemas.subjects import partition_of, tenant_of
from schemas.units import Clock
from streams.delivery import Delivery
from streams.graveyard import completed, letter_of
from streams.ports import DeadLetters, Store

_letter = msgspec.json.Decoder(DeadLetter)


class DeadLetterStage:
    name = "dlq"

    def __init__(
        self, letters: DeadLetters, store: Store, clock: Clock, meter: Meter, committed: Callable[[set[int]], None]
    ) -> None:
        self._letters = letters
        self._store = store
        self._clock = clock
        self._meter = meter
        self._committed = committed

    async def ready(self) -> bool:
        return await self._store.ping()

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        now_ms = self._clock.now_ms()
        letters = [BuriedLetter(read_letter(delivery), delivery.seq, now_ms) for delivery in deliveries]
        new = await self._letters.bury(letters)
        self._committed({partition_of(buried.letter.tenant_id) for buried in letters})
        for buried in new:
            self._meter.add(DLQ_EVENTS, 1, buried.letter.tenant_id, buried.letter.reason_code)
        return [DONE] * len(deliveries)


def read_letter(delivery: Delivery) -> DeadLetter:
    """The letter of a FG_DLQ message; data that is not a letter becomes one, since nothing lies deeper than here."""
    try:
        letter = completed(_letter.decode(delivery.data))
    except (msgspec.MsgspecError, ValueError, RecursionError):  # also text that is no UTF-8 or no base64
        return letter_of(DeadLetterStage.name, delivery, DeadReason.POISON)
    if letter.tenant_id != tenant_of(delivery.subject):
        return letter_of(DeadLetterStage.name, delivery, DeadReason.POISON)
    return letter
