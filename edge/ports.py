"""What the edge needs from others, in its own words; `ops/wiring` matches these by shape."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from edge.settings import QueueSettings, RateSettings, TlsSettings
from schemas.answers import NoAnswer, PublishOutcome
from schemas.codes import Code
from schemas.envelope import EventKey
from schemas.meter import Meter
from schemas.principal import Principal, SigningKey
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

    async def oldest_stored_ms(self, subject: str) -> UnixMs | None:
        """When the first message now in the queue of that subject was stored, None when there is none.

        Raises NoAnswer(STREAM_UNAVAILABLE).
        """

    def answer_ms(self) -> float:
        """How long the stream took for its last answer, without the wait in this process."""

    def durability_proven(self) -> bool:
        """Whether the streams' effective configuration was proven within the last watch interval."""

    def remembers_since_ms(self) -> UnixMs:
        """Every id published after this moment is still known to the broker (DESIGN decision 3, Postgres away)."""

    def forgotten_before_ms(self) -> UnixMs:
        """An id published before this moment may be known to nobody yet; 0 while there is none such.

        That is so while settling some tenant's messages lags behind by more than the broker's window: then
        the message is in the stream, and neither the broker's memory nor Postgres knows of it.
        """


class StoredKeys(Protocol):
    """The truth about accepted events: `event_keys` in Postgres."""

    @property
    def at_once(self) -> int:
        """How many calls are served at once. One more would wait for a connection of ours, not for Postgres."""

    async def stored(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventKey]:
        """The keys of those events, (tenant_id, event_id) each, that have one. Raises NoAnswer(STORE_UNAVAILABLE)."""


class Budget(NamedTuple):
    """What a tenant may send: events per second, and events at once."""

    rate_per_s: float
    burst: int


class Nonce(NamedTuple):
    """A verified signature's claim to be new. `created_s` is the signature's own time, Unix seconds."""

    key_id: str
    nonce: str
    created_s: int


class Ask(NamedTuple):
    """One request's question to the coordination store. Ids are distinct; none at all asks how the budget stands."""

    tenant_id: str
    event_ids: Sequence[str]
    budget: Budget
    nonce: Nonce | None = None


class Admission(NamedTuple):
    """The answer; `keys`, `admitted` and `tries` have one item per id, in the order asked.

    With `refused`, REPLAY_DETECTED or REPLAY_WINDOW_CLOSED, nothing was looked up and nothing charged.
    """

    keys: Sequence[EventKey | None]
    """Hints: the receipts of those stored lately."""
    admitted: Sequence[bool]
    """Whether the budget had room. A hinted event is charged to a budget of duplicates, ten times as large."""
    tries: Sequence[int]
    """How often the event was offered again within the window, 0 where that is not known."""
    remaining: int
    """Events the budget has left after this request."""
    retry_after_ms: int
    """Until one more event passes; 0 while `remaining` is not. With REPLAY_WINDOW_CLOSED, until a new signature may."""
    refused: Code | None = None


class Coordination(Protocol):
    """The one awaited Redis call of a request (DESIGN decision 7), and the hints behind everyone's back."""

    async def admit(self, ask: Ask) -> Admission:
        """Look up hints, check the nonce, charge the budget: atomically for one tenant, on Redis's own clock.

        Raises NoAnswer(RATE_LIMIT_BACKEND_UNAVAILABLE): then a charge or a nonce may have been taken or not.
        """

    def remember(self, keys: Sequence[EventKey]) -> None:
        """Write the hints of stored events in the background; losing one costs a look-up, nothing else."""

    def tried(self, tenant_id: str, event_ids: Sequence[str]) -> None:
        """Note in the background that these were refused after their call, so that the next try is known as one."""


class TenantLimits(NamedTuple):
    """The limits of a tenant and the `rule` they come from: `tenant`, `tier` or `base`, in this order."""

    rps: int
    burst: int
    rule: str
    events_per_month_max: int | None
    events_this_month: int
    """Decided events, as last read."""


class Limits(Protocol):
    """Limits by tenant, at most 2 s old."""

    async def of(self, tenant_id: str, plan_tier: str) -> TenantLimits:
        """The limits in force; where Postgres does not say, the last known ones.

        Raises NoAnswer(STORE_UNAVAILABLE) when there are none.
        """


class Depth(NamedTuple):
    """Unsettled messages of one tenant over all lanes, and how fast they grow."""

    messages: int
    slope_per_s: float


class Depths(Protocol):
    """The shared view of queue depths."""

    def of(self, tenant_id: str) -> Depth | None:
        """The tenant's depth, None while the view is older than 2 s: unknown means no."""


class Throttle(Protocol):
    """Which tenants must slow down at this edge, for everybody's sake."""

    def factor(self, tenant_id: str) -> float:
        """The part of its rate that the tenant may use, above 0 and up to 1."""

    def took(self, tenant_id: str, events: int, elapsed_ms: float) -> None:
        """One request of the tenant was answered."""


class Component(StrEnum):
    STREAM = "stream"
    REDIS = "redis"
    POSTGRES = "postgres"


class Ticket(NamedTuple):
    """The rounds of probes that a call is one of, for the circuit of everybody and the tenant's own; empty: of none."""

    everybody: str
    own: str


NO_PROBE = Ticket("", "")


class Circuits(Protocol):
    """The breakers: one for each component, and one for each tenant's share of the stream."""

    async def enter(self, component: Component, tenant_id: str | None = None) -> Ticket:
        """Return when the call may be made, with `tenant_id` also by the tenant's own circuit.

        Raises CircuitOpen: nothing may be sent, try after its time.
        """

    def record(
        self, component: Component, tenant_id: str | None, ticket: Ticket, *, failed: bool, elapsed_ms: float
    ) -> None:
        """What became of a call that got this ticket. Refusals of the caller's own making are no failures."""


class CircuitOpen(NoAnswer):
    """The component failed too often and is being spared."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(Code.CIRCUIT_OPEN)
        self.retry_after_ms = retry_after_ms


class BreakGlass(Protocol):
    """The emergency override for the loss of Redis."""

    def armed(self) -> str | None:
        """The id of the armed document while it is valid, else None."""


class Signatures(Protocol):
    """Keys of agents for signed requests."""

    async def public_key(self, key_id: str) -> SigningKey | None:
        """The key of that id, valid or not, None when there is none. Raises NoAnswer(STORE_UNAVAILABLE)."""


class Decisions(Protocol):
    """Decisions as documents."""

    async def decided(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        """The JSON documents of those events, (tenant_id, event_id) each, that are decided or dead. Raises NoAnswer."""


class Credentials(Protocol):
    """API keys."""

    async def authenticate(self, api_key: str) -> Principal | None:
        """The principal of a valid key, None for any other string. Raises NoAnswer(STORE_UNAVAILABLE)."""


class Lives(Protocol):
    """Read side of one event's whole life."""

    async def life_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        """The life as one JSON document, None when this tenant, or this agent, has no such event. Raises NoAnswer."""


class Evidence(Protocol):
    """The proofs of one event."""

    async def evidence_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        """The evidence as one JSON document, None when this tenant, or this agent, has no such event.

        Raises NoAnswer, with EVIDENCE_UNVERIFIED when what is stored is not what was signed.
        """


class Exports(Protocol):
    """Bundles of a tenant's evidence: ordered here, built by a worker. Every method raises NoAnswer."""

    async def order(self, tenant_id: str, bundle_id: str, wanted: tuple[str, str, bool], requested_by: str) -> int:
        """Commit an order: from, to, and whether with traces.

        Returns 0, or, when the tenant has too many, the milliseconds after which it may order again.
        """

    async def status(self, tenant_id: str, bundle_id: str) -> bytes | None:
        """How the bundle stands as a JSON document, None when this tenant has none of that id."""

    async def content(self, tenant_id: str, bundle_id: str) -> tuple[int, AsyncIterator[bytes]] | None:
        """Size and bytes of a bundle that is ready here, None when there is none. The iterator raises NoAnswer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePorts:
    """Everything the edge is given. No port is optional: a missing guard must be a missing argument."""

    publisher: Publisher
    stored_keys: StoredKeys
    coordination: Coordination
    limits: Limits
    depths: Depths
    throttle: Throttle
    circuits: Circuits
    break_glass: BreakGlass
    signatures: Signatures
    decisions: Decisions
    credentials: Credentials
    lives: Lives
    evidence: Evidence
    exports: Exports
    clock_skewed: Callable[[], bool]
    """Whether the clocks of this process, Redis and Postgres are more than 2 s apart, or were not compared lately."""
    readiness: Callable[[], Readiness]
    redis_proven: Callable[[], bool]
    """Whether Redis was lately seen to be what admission relies on; without that it is as good as away."""
    rates: RateSettings
    queues: QueueSettings
    tls: TlsSettings
    meter: Meter
    clock: Clock
    new_request_id: Callable[[], str]
    new_span_id: Callable[[], str]
