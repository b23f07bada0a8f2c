"""The edge's ports as values a test can turn: what they answer, and when they do not."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import hypothesis
import msgspec
import pytest

from edge.app import EdgeApp
from edge.ports import Admission, Ask, CircuitOpen, Component, Depth, EdgePorts, TenantLimits, Ticket
from edge.settings import EdgeSettings, QueueSettings, RateSettings, TlsSettings
from schemas.answers import Duplicate, NoAnswer, PublishOutcome, Refused, Stored
from schemas.codes import Code
from schemas.envelope import AcceptedEvent, EventKey, key_of
from schemas.metrics import Metric
from schemas.principal import Principal, Scope, SigningKey
from schemas.readiness import Readiness
from schemas.units import UnixMs, format_rfc3339
from tests.unit.edge.calling import Client

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

NOW_MS = UnixMs(1_767_225_600_000)
DAY_MS = 86_400_000
TRACE_ID = "018f7e20-6d6f-7e20-a3f1-9eb6b7a1f112"
STREAM = "FG_INGEST_0"
RATES = RateSettings(rps_base=20, rps_burst=120, rps_by_tier=(), events_per_month_by_tier=(), latency_p95_ms_hard=200)
QUEUES = QueueSettings(
    depth_warn=5_000, depth_shed=8_000, depth_hardstop=12_000, key_template="fg:q:{tenant_id}:{lane}"
)


def envelope(**changes: Any) -> dict[str, Any]:
    """A sound envelope made at NOW_MS; a change to `...` takes the field away."""
    fields = {
        "tenant_id": "acme",
        "event_id": "evt-1",
        "trace_id": TRACE_ID,
        "agent_id": "agent-7",
        "schema_version": "1.0",
        "created_at": format_rfc3339(NOW_MS),
        "source": "sensor/edge",
        "payload": {"action": "login", "attempts": 3},
    } | changes
    return {name: value for name, value in fields.items() if value is not ...}


def body_of(**changes: Any) -> bytes:
    return msgspec.json.encode(envelope(**changes))


class StandingClock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.at_ms = NOW_MS

    def now_ms(self) -> UnixMs:
        return self.at_ms

    def advance(self, by_ms: int) -> None:
        self.at_ms = UnixMs(self.at_ms + by_ms)


class Broker:
    """A stream in memory with the promises of `edge.ports.Publisher`."""

    def __init__(self) -> None:
        self.messages: dict[int, bytes] = {}
        self.by_id: dict[str, int] = {}
        self.submitted: list[str] = []
        self.refuses: Code | None = None
        self.proven = True
        self.remembers_ms = UnixMs(NOW_MS - 120_000)
        self.reads = True
        self.forgotten_ms = UnixMs(0)
        self.oldest_ms: UnixMs | None = None
        self.asked_oldest: list[str] = []
        self.settles: Callable[[], None] = lambda: None
        """What happens in the queue before it is asked for its oldest message."""

    def submit(self, subject: str, message_id: str, data: bytes, traceparent: str) -> "asyncio.Future[PublishOutcome]":
        del subject, traceparent
        self.submitted.append(message_id)
        outcome: asyncio.Future[PublishOutcome] = asyncio.get_running_loop().create_future()
        if self.refuses is not None:
            outcome.set_result(Refused(self.refuses))
        elif message_id in self.by_id:
            outcome.set_result(Duplicate(STREAM, self.by_id[message_id]))
        else:
            seq = self.by_id[message_id] = len(self.by_id) + 1
            self.messages[seq] = data
            outcome.set_result(Stored(STREAM, seq))
        return outcome

    async def stored_message(self, stream: str, seq: int) -> bytes | None:
        assert stream == STREAM
        if not self.reads:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        return self.messages.get(seq)

    async def oldest_stored_ms(self, subject: str) -> UnixMs | None:
        self.asked_oldest.append(subject)
        if not self.reads:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        self.settles()
        return self.oldest_ms

    def answer_ms(self) -> float:
        return 1.0

    def durability_proven(self) -> bool:
        return self.proven

    def remembers_since_ms(self) -> UnixMs:
        return self.remembers_ms

    def forgotten_before_ms(self) -> UnixMs:
        return self.forgotten_ms

    def settle(self) -> dict[str, EventKey]:
        """Take every message away, as dedupe does, and return the keys it would have committed."""
        keys = {}
        for seq, data in self.messages.items():
            key = key_of(msgspec.json.decode(data, type=AcceptedEvent), STREAM, seq)
            keys[key.event_id] = key
        self.messages.clear()
        return keys


class KeyTable:
    """`event_keys` in memory; counts its queries."""

    def __init__(self) -> None:
        self.keys: dict[str, EventKey] = {}
        self.answers = True
        self.queries: list[tuple[tuple[str, str], ...]] = []
        self.at_once = 2

    async def stored(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventKey]:
        self.queries.append(tuple(identities))
        if not self.answers:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return {(tenant, one): self.keys[one] for tenant, one in identities if one in self.keys}


class Memory:
    """The coordination store in memory: hints, and an answer that a test can turn."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, str], EventKey] = {}
        self.answers = True
        self.room = 1_000
        """Events that the budget still admits."""
        self.tries: dict[str, int] = {}
        self.refused: Code | None = None
        self.asked: list[Ask] = []
        self.noted: list[str] = []

    async def admit(self, ask: Ask) -> Admission:
        if not self.answers:
            raise NoAnswer(Code.RATE_LIMIT_BACKEND_UNAVAILABLE)
        self.asked.append(ask)
        keys = [self.keys.get((ask.tenant_id, one)) for one in ask.event_ids]
        admitted = []
        for key in keys:
            admitted.append(key is not None or self.room > 0)
            self.room -= key is None and self.room > 0
        tries = [self.tries.get(one, 0) for one in ask.event_ids]
        return Admission(keys, admitted, tries, self.room, 0 if self.room else 2_500, self.refused)

    def remember(self, keys: Sequence[EventKey]) -> None:
        self.keys |= {(key.tenant_id, key.event_id): key for key in keys}

    def tried(self, tenant_id: str, event_ids: Sequence[str]) -> None:
        del tenant_id
        self.noted += event_ids


class Turned:
    """The limits, depths, circuits and the rest of the gates: open, until a test turns one."""

    def __init__(self) -> None:
        self.limits = TenantLimits(1_000, 1_000, "tenant", None, 0)
        self.depth: Depth | None = Depth(0, 0.0)
        self.share = 1.0
        self.opened: dict[tuple[Component, str | None], int] = {}
        self.ticket = Ticket("round-1", "round-2")
        self.recorded: list[tuple[Component, str | None, bool]] = []
        self.document: str | None = None
        self.skewed = False
        self.redis_proven = True
        self.signing_keys: dict[str, SigningKey] = {}
        self.documents: dict[tuple[str, str], bytes] = {}

    async def of_tenant(self, tenant_id: str, plan_tier: str) -> TenantLimits:
        del tenant_id, plan_tier
        return self.limits

    def armed(self) -> str | None:
        return self.document

    def factor(self, tenant_id: str) -> float:
        del tenant_id
        return self.share

    def took(self, tenant_id: str, events: int, elapsed_ms: float) -> None:
        del tenant_id, events, elapsed_ms

    async def enter(self, component: Component, tenant_id: str | None = None) -> Ticket:
        for share in (tenant_id, None):
            if (component, share) in self.opened:
                raise CircuitOpen(self.opened[component, share])
        return self.ticket

    def record(
        self, component: Component, tenant_id: str | None, ticket: Ticket, *, failed: bool, elapsed_ms: float
    ) -> None:
        del elapsed_ms
        assert ticket is self.ticket
        self.recorded.append((component, tenant_id, failed))

    async def public_key(self, key_id: str) -> SigningKey | None:
        return self.signing_keys.get(key_id)

    async def decided(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        return {one: self.documents[one] for one in identities if one in self.documents}


class TurnedLimits:
    """The two ports that have a method of the same name."""

    def __init__(self, turned: Turned) -> None:
        self._turned = turned

    async def of(self, tenant_id: str, plan_tier: str) -> TenantLimits:
        return await self._turned.of_tenant(tenant_id, plan_tier)


class TurnedDepths:
    def __init__(self, turned: Turned) -> None:
        self._turned = turned

    def of(self, tenant_id: str) -> Depth | None:
        del tenant_id
        return self._turned.depth


class KeyRing:
    """API keys in memory; counts how often it was asked."""

    def __init__(self) -> None:
        self.principals: dict[str, Principal] = {}
        self.answers = True
        self.asked = 0
        self.began: asyncio.Queue[None] = asyncio.Queue()

    async def authenticate(self, api_key: str) -> Principal | None:
        self.asked += 1
        self.began.put_nowait(None)
        await asyncio.sleep(0)  # like any look-up, it lets others go on
        if not self.answers:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return self.principals.get(api_key)


class NoLives:
    async def life_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        del tenant_id, event_id, agent_id
        return None


class NoEvidence:
    """A service without any: nothing to prove, and no bundles."""

    async def evidence_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        del tenant_id, event_id, agent_id
        return None

    async def order(self, tenant_id: str, bundle_id: str, wanted: tuple[str, str, bool], requested_by: str) -> bool:
        del tenant_id, bundle_id, wanted, requested_by
        return False

    async def status(self, tenant_id: str, bundle_id: str) -> bytes | None:
        del tenant_id, bundle_id
        return None

    async def content(self, tenant_id: str, bundle_id: str) -> tuple[int, AsyncIterator[bytes]] | None:
        del tenant_id, bundle_id
        return None


class Tally:
    """A meter that sums up what it was told."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, ...], float] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        key = (metric.name, *labels)
        self.told[key] = self.told.get(key, 0) + value


class World:
    """All ports of one edge."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.table = KeyTable()
        self.memory = Memory()
        self.ring = KeyRing()
        self.clock = StandingClock()
        self.tally = Tally()
        self.ring.principals["key"] = Principal("k1", "acme", None, frozenset({Scope.INGEST}), "free")
        numbers = itertools.count(1)
        self.gates = Turned()
        self.ports = EdgePorts(
            publisher=self.broker,
            stored_keys=self.table,
            coordination=self.memory,
            limits=TurnedLimits(self.gates),
            depths=TurnedDepths(self.gates),
            throttle=self.gates,
            circuits=self.gates,
            break_glass=self.gates,
            signatures=self.gates,
            decisions=self.gates,
            clock_skewed=lambda: self.gates.skewed,
            redis_proven=lambda: self.gates.redis_proven,
            credentials=self.ring,
            lives=NoLives(),
            evidence=NoEvidence(),
            exports=NoEvidence(),
            readiness=lambda: Readiness(()),
            rates=RATES,
            queues=QUEUES,
            tls=TlsSettings(cert_file="", key_file="", client_ca_file="", trust_domain=""),
            meter=self.tally,
            clock=self.clock,
            new_request_id=lambda: f"request-{next(numbers)}",
            new_span_id=lambda: f"{next(numbers):016x}",
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def settings() -> EdgeSettings:
    return EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)


@pytest.fixture
def client(world: World, settings: EdgeSettings) -> Client:
    return Client(EdgeApp(settings, world.ports))
