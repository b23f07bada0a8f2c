"""What the stages need from the sinks, in the stages' words; `ops/worker_service.py` brings them together."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas.codes import DeadReason
from schemas.decision import DecisionRecord
from schemas.evidence import EvidenceEvent
from schemas.policy_data import PolicyData
from schemas.rows import BuriedLetter, Claim, ClaimOutcome, OutboxRow
from streams.delivery import Delivery


class Store(Protocol):
    """Anything with a database behind it."""

    async def ping(self) -> bool:
        """Whether the database answers; never raises."""


Identity = tuple[str, str]
"""Tenant and event."""


class Attempts(Protocol):
    """How often an event's own failures were tried in a stage, within the budget's window. All raise NoAnswer."""

    async def made(self, stage: str, events: Sequence[Identity]) -> list[int]:
        """How many attempts each event has had."""

    async def begin(self, stage: str, events: Sequence[Identity]) -> list[int]:
        """Count one more attempt for each event, committed on return; returns the number of each one's attempt."""

    async def give_back(self, stage: str, events: Sequence[Identity], counted: Sequence[int]) -> None:
        """Take the attempt with the number `counted` off each event whose latest it is: it was no failure of its own.

        Earlier ones stay counted, also when asked again.
        """

    async def forget(self, stage: str, events: Sequence[Identity]) -> None:
        """The events are through: their next failure is their first."""


class Settler(Protocol):
    """The broker's side of a delivery."""

    @property
    def connected(self) -> bool: ...

    async def settle(self, settlements: Iterable[tuple[str, bytes]]) -> None:
        """Send (reply subject, verb) each. Raises NoAnswer when nothing was sent."""


class Death(NamedTuple):
    """A delivery that ends dead, and after how many attempts of its own."""

    delivery: Delivery
    reason: DeadReason
    attempts: int = 0


class Burial(Protocol):
    async def bury(self, stage: str, dead: Sequence[Death]) -> None:
        """Return once a letter of each is stored. Raises NoAnswer; burying again stores nothing twice."""


class RetryLane(Protocol):
    async def schedule(self, stage: str, delivery: Delivery, attempt: int, delay_ms: int) -> bool:
        """Return once the delivery, whose `attempt`-th try failed, is stored to come again after `delay_ms`.

        False: it is too large to be, and nothing was stored. Raises NoAnswer; scheduling again stores nothing twice.
        """


class EventKeys(Protocol):
    async def claim(self, claims: Sequence[Claim]) -> list[ClaimOutcome]:
        """One outcome per claim, committed. Raises NoAnswer (nothing is known to be stored) and Refusal."""


class Ledger(Protocol):
    async def record(self, records: Sequence[DecisionRecord]) -> list[bool]:
        """Commit decision, chain entry, outbox row and meters of each record, once per (tenant, event).

        True for each record whose event is decided with another body; nothing came of that record.
        Raises NoAnswer and Refusal; after either, recording again has the effect of once.
        """


class PolicyDataOf(Protocol):
    async def of(self, tenant_ids: Collection[str]) -> Mapping[str, PolicyData]:
        """What each of these tenants adds to the rules, as it was at most 2 s ago. Raises NoAnswer."""


class DeadLetters(Protocol):
    async def bury(self, letters: Sequence[BuriedLetter]) -> list[BuriedLetter]:
        """Commit row, chain entry and outbox row of each letter; returns those that were new. Raises NoAnswer."""


class Outbox(Protocol):
    async def relay(
        self, partitions: Sequence[int], publish: Callable[[Sequence[OutboxRow]], Awaitable[None]], rows_max: int
    ) -> int:
        """Publish up to `rows_max` rows of these partitions in (tenant, seq) order, then forget them; returns how many.

        Raises NoAnswer; a row is forgotten only after `publish` returned.
        """


class EvidenceStore(Protocol):
    async def ping(self) -> bool:
        """Whether the WORM store takes writes; never raises."""

    async def keep(self, partition: int, events: Sequence[EvidenceEvent]) -> None:
        """Seal the events' records into the WORM store and index them, those already kept left out.

        Raises NoAnswer when either store is away and Refusal when a record does not match its hash.
        """
