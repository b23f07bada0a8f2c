"""What the stages need from the sinks, in the stages' words; `ops/worker_service.py` brings them together."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from schemas.decision import DecisionRecord
from schemas.evidence import EvidenceEvent
from schemas.rows import BuriedLetter, Claim, ClaimOutcome, OutboxRow


class Store(Protocol):
    """Anything with a database behind it."""

    async def ping(self) -> bool:
        """Whether the database answers; never raises."""


class EventKeys(Protocol):
    async def claim(self, claims: Sequence[Claim]) -> list[ClaimOutcome]:
        """One outcome per claim, committed. Raises NoAnswer (nothing is known to be stored) and Refusal."""


class Ledger(Protocol):
    async def record(self, records: Sequence[DecisionRecord]) -> None:
        """Commit decision, chain entry, outbox row and meters of each record, once per (tenant, event).

        Raises NoAnswer and Refusal; after either, recording again has the effect of once.
        """


class DeadLetters(Protocol):
    async def bury(self, letters: Sequence[BuriedLetter]) -> int:
        """Commit row, chain entry and outbox row of each letter; returns how many were new. Raises NoAnswer."""


class Outbox(Protocol):
    async def relay(
        self, partitions: Sequence[int], publish: Callable[[Sequence[OutboxRow]], Awaitable[None]], rows_max: int
    ) -> int:
        """Publish up to `rows_max` rows of these partitions in (tenant, seq) order, then forget them; returns how many.

        Raises NoAnswer; a row is forgotten only after `publish` returned.
        """


class EvidenceStore(Protocol):
    async def keep(self, partition: int, events: Sequence[EvidenceEvent]) -> None:
        """Seal the events' records into the WORM store and index them, those already kept left out.

        Raises NoAnswer when either store is away and Refusal when a record does not match its hash.
        """
