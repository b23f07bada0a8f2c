"""A broker, a store and a stage in memory: what outlives a worker, and what can go wrong with it.

Every promise of settling is asserted where it could be broken, at the settlement itself.
"""

import asyncio
import base64
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from schemas.answers import NoAnswer, NotNow, Refusal
from schemas.codes import Code, DeadReason
from schemas.envelope import RetryTask
from schemas.fate import DONE, Fate, Later
from schemas.metrics import Metric
from streams.delivery import ACK, IN_PROGRESS, Delivery
from streams.ports import Death, Identity

TENANT = "acme"
SUBJECT = f"fg.decide.3.{TENANT}"
STREAM = "FG_DECIDE"
ACK_WAIT_S = 8.0
INNOCENT, MUTE, REFUSED, DEADLY, LATE = b"innocent", b"mute", b"refused", b"deadly", b"late"
"""LATE kills too, but only once its effect is committed."""


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Message:
    """One stored message and where it stands at the broker."""

    seq: int
    data: bytes
    due_s: float = 0.0
    replies: set[str] = field(default_factory=set)
    delivered: bool = False
    suspect: bool = False
    acked: bool = False


@dataclass
class World:
    """What the workers of one run share."""

    chance: random.Random
    messages: dict[int, Message] = field(default_factory=dict)
    retries: dict[int, Message] = field(default_factory=dict)
    effects: set[int] = field(default_factory=set)
    letters: dict[int, Death] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    runs: dict[int, list[int]] = field(default_factory=dict)
    """For each message, how many were in each run that it was in."""
    runs_left: int | None = None
    """After so many runs more an operator kills the worker."""
    settled_in_lane: list[int] = field(default_factory=list)
    kills_left: int = 0
    away_until_s: float = 0.0
    stuck_until_s: float = 0.0
    """Until then the store answers, and takes nothing of anybody."""
    stuck_left: int = 3
    fault_rate: float = 0.0
    connected: bool = True
    deliveries: int = 0

    def store(self, *kinds: bytes) -> None:
        for kind in kinds:
            seq = len(self.messages) + 1
            self.messages[seq] = Message(seq, kind)

    # What the work asks of its ports.

    async def settle(self, settlements: Iterable[tuple[str, bytes]]) -> None:
        self._strike()
        for reply, verb in settlements:
            self._settle(reply, verb)

    async def bury(self, stage: str, dead: Sequence[Death]) -> None:
        del stage
        await self._trouble()
        for death in dead:
            self.letters.setdefault(death.delivery.seq, death)
        self._lose_answer()

    async def schedule(self, stage: str, delivery: Delivery, attempt: int, delay_ms: int) -> bool:
        del stage, attempt
        await self._trouble()
        now_s = asyncio.get_running_loop().time()
        self.retries[delivery.seq] = Message(delivery.seq, delivery.data, now_s + delay_ms / 1000)
        self._lose_answer()
        return True

    async def made(self, stage: str, events: Sequence[Identity]) -> list[int]:
        del stage
        await self._trouble()
        return [self.attempts.get(event_id, 0) for _, event_id in events]

    async def begin(self, stage: str, events: Sequence[Identity]) -> list[int]:
        del stage
        await self._trouble()
        for _, event_id in events:
            self.attempts[event_id] = self.attempts.get(event_id, 0) + 1
        return [self.attempts[event_id] for _, event_id in events]

    async def give_back(self, stage: str, events: Sequence[Identity], counted: Sequence[int]) -> None:
        del stage
        await self._trouble()
        for (_, event_id), number in zip(events, counted, strict=True):
            if self.attempts.get(event_id) == number:
                self.attempts[event_id] -= 1
        self.attempts = {event_id: attempts for event_id, attempts in self.attempts.items() if attempts}
        self._lose_answer()

    async def forget(self, stage: str, events: Sequence[Identity]) -> None:
        del stage
        await self._trouble()
        for _, event_id in events:
            self.attempts.pop(event_id, None)

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Nothing is measured here."""

    # The stage.

    name = "decision"

    async def ready(self) -> bool:
        return asyncio.get_running_loop().time() >= self.away_until_s

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        await self._trouble()
        kinds = {delivery.data for delivery in deliveries}
        for delivery in deliveries:
            self.runs.setdefault(delivery.seq, []).append(len(deliveries))
        if DEADLY in kinds or (self.kills_left and self.chance.random() < 0.1):
            self.kills_left -= DEADLY not in kinds
            raise Killed
        if self.runs_left is not None:
            self.runs_left -= 1
            if self.runs_left < 0:
                raise Killed
        if asyncio.get_running_loop().time() < self.stuck_until_s:
            raise self.chance.choice((NoAnswer, NotNow))(Code.STORE_UNAVAILABLE)
        if MUTE in kinds:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        if REFUSED in kinds:
            raise Refusal(DeadReason.STORE_REFUSED)
        parked = {d.seq for d in deliveries if d.seq not in self.effects and self.chance.random() < self.fault_rate}
        self.effects |= {delivery.seq for delivery in deliveries} - parked
        if LATE in kinds:
            raise Killed
        self._lose_answer()
        return [Later(Code.INGEST_BACKPRESSURE_HARDSTOP, 1_000) if d.seq in parked else DONE for d in deliveries]

    # The faults.

    async def _trouble(self) -> None:
        await asyncio.sleep(self.chance.random() * 0.01)
        now_s = asyncio.get_running_loop().time()
        if self.chance.random() < self.fault_rate:
            self.away_until_s = now_s + self.chance.random() * 5
        if self.stuck_left and self.chance.random() < self.fault_rate:
            self.stuck_left -= 1
            self.stuck_until_s = now_s + self.chance.random() * 60
        self._strike()
        if not await self.ready():
            raise NoAnswer(Code.STORE_UNAVAILABLE)

    def _strike(self) -> None:
        if self.kills_left and self.chance.random() < 0.02:
            self.kills_left -= 1
            raise Killed

    def _lose_answer(self) -> None:
        if self.chance.random() < self.fault_rate:
            raise NoAnswer(Code.OUTCOME_UNKNOWN)

    # The broker.

    def deliver(self, waiting: dict[int, Message], count: int, stream: str) -> list[Delivery]:
        """What is due, as a consumer gives it: suspects first, and never with others."""
        now_s = asyncio.get_running_loop().time()
        due = [message for message in waiting.values() if not message.acked and message.due_s <= now_s]
        chosen = [message for message in due if message.suspect] or due
        return [self._delivery(message, stream, now_s) for message in chosen[:count]]

    def restarted(self) -> None:
        """The worker's successor: what was delivered and not acknowledged comes again, as suspect."""
        for message in (*self.messages.values(), *self.retries.values()):
            message.replies.clear()
            message.suspect = message.delivered
            message.due_s = 0.0 if message.delivered else message.due_s

    @property
    def unsettled(self) -> list[int]:
        waiting = [message.seq for message in self.messages.values() if not message.acked]
        return waiting + [message.seq for message in self.retries.values() if not message.acked]

    @property
    def silent_left(self) -> bool:
        """Whether anything waits that never gets an answer."""
        return any(m.data == MUTE and not m.acked for m in (*self.messages.values(), *self.retries.values()))

    def _delivery(self, message: Message, stream: str, now_s: float) -> Delivery:
        self.deliveries += 1
        lane = "rt" if stream == "FG_RETRY" else "q"
        reply = f"{lane}.{message.seq}.{self.deliveries}"
        message.due_s = now_s + ACK_WAIT_S
        message.delivered = True
        message.replies.add(reply)
        if lane == "q":
            return Delivery(SUBJECT, message.data, reply, STREAM, message.seq, message.suspect)
        encoded = base64.b64encode(message.data).decode()
        task = RetryTask(self.name, STREAM, message.seq, SUBJECT, 1, encoded)
        return Delivery(f"fg.rt.3.{TENANT}", msgspec.json.encode(task), reply, stream, self.deliveries, message.suspect)

    def _settle(self, reply: str, verb: bytes) -> None:
        lane, number, _ = reply.split(".")
        seq, now_s = int(number), asyncio.get_running_loop().time()
        message = (self.retries if lane == "rt" else self.messages)[seq]
        if verb == IN_PROGRESS:
            message.due_s = max(message.due_s, now_s + ACK_WAIT_S)
        elif verb == ACK:
            waits = lane == "q" and seq in self.retries
            renewed = lane == "rt" and reply not in message.replies  # its own successor lies there by now
            assert seq in self.effects or seq in self.letters or waits or renewed, f"{seq} was settled without effect"
            assert reply not in message.replies or not message.acked, f"{reply} was settled twice"
            message.acked = message.acked or not renewed
        else:
            message.due_s = now_s + int(verb.split(b":")[1].rstrip(b"}")) / 1e9


class WorldInbox:
    """One consumer of the world, in the shape of `streams.inbox.Inbox`."""

    more = False

    def __init__(self, world: World, stream: str) -> None:
        self._world = world
        self._stream = stream
        self._waiting = world.retries if stream == "FG_RETRY" else world.messages
        self._buffer: list[Delivery] = []
        self._pulled_s = 0.0

    async def open(self) -> None: ...

    async def pull(self) -> None:
        if not self._buffer:
            self._buffer = self._world.deliver(self._waiting, 30, self._stream)
            self._pulled_s = asyncio.get_running_loop().time()

    def take(self, messages_max: int) -> list[Delivery]:
        if asyncio.get_running_loop().time() >= self._pulled_s + ACK_WAIT_S:
            self._buffer = []  # stale: the broker brings them again
        taken, self._buffer = self._buffer[:messages_max], self._buffer[messages_max:]
        return taken

    def __len__(self) -> int:
        return len(self._buffer)
