"""What the edge needs from others, in its own words; `ops/wiring` matches these by shape."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.answers import PublishOutcome
from schemas.envelope import EventKey
from schemas.meter import Meter
from schemas.principal import Principal
from schemas.readiness import Readiness
from schemas.units import Clock, UnixMs


class Publisher(Protocol):
    """Durable publication to the ingest streams."""

    def submit(self, subject: str, message_id: str, data: bytes, traceparent: str) -> "asyncio.Future[PublishOutcome]":
        """Queue one message for the next group commit.

        The future never raises. `Stored` and `Duplicate` mean the bytes are on disk; `Refused`
        means no effect, except with OUTCOME_UNKNOWN, where the bytes were sent and no answer came.
        """

    async def stored_message(self, stream: str, seq: int) -> bytes | None:
        """The data of a stored message, None when it is gone. Raises NoAnswer(STREAM_UNAVAILABLE)."""

    def durability_proven(self) -> bool:
        """Whether the streams' effective configuration was proven within the last watch interval."""

    def remembers_since_ms(self) -> UnixMs:
        """Every id published after this moment is still known to the broker (DESIGN decision 3, Postgres away)."""


class StoredKeys(Protocol):
    """The truth about accepted events: `event_keys` in Postgres."""

    async def stored(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventKey]:
        """The keys of those events, (tenant_id, event_id) each, that have one. Raises NoAnswer(STORE_UNAVAILABLE)."""


class Hints(Protocol):
    """The 30 s memory of receipts in Redis: a hint saves a look-up and is never the truth."""

    async def recall(self, tenant_id: str, event_ids: Sequence[str]) -> Sequence[EventKey | None]:
        """One answer per id, in order. Raises NoAnswer(RATE_LIMIT_BACKEND_UNAVAILABLE)."""

    def remember(self, keys: Sequence[EventKey]) -> None:
        """Write the hints of stored events in the background; losing one costs a look-up, nothing else."""


class Credentials(Protocol):
    """API keys."""

    async def authenticate(self, api_key: str) -> Principal | None:
        """The principal of a valid key, None for any other string. Raises NoAnswer(STORE_UNAVAILABLE)."""


class Lives(Protocol):
    """Read side of one event's whole life."""

    async def life_of(self, tenant_id: str, event_id: str) -> bytes | None:
        """The life as one JSON document, None when this tenant has no such event. Raises NoAnswer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePorts:
    """Everything the edge is given. No port is optional: a missing guard must be a missing argument."""

    publisher: Publisher
    stored_keys: StoredKeys
    hints: Hints
    credentials: Credentials
    lives: Lives
    readiness: Callable[[], Readiness]
    queue_depth_hardstop: int
    """C: the broker refuses a tenant's event beyond so many unsettled ones."""
    meter: Meter
    clock: Clock
    new_request_id: Callable[[], str]
    new_span_id: Callable[[], str]
