"""The pulling side of one consumer: keeps one pull request open and buffers what arrives, tenant by tenant.

The consumer of a partition delivers to one worker, the pinned one (streams/pin.py), which asks often
enough to stay it. The others stand by with a request for one message; the first one that comes under
a new pin makes its receiver the owner. What the earlier owner had in its hands then comes again in
its order, marked as suspect. Whoever cannot be sure of the pin any more hands out nothing.
"""

import asyncio
import logging
from functools import partial

import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from schemas.answers import NoAnswer
from schemas.meter import Meter
from schemas.metrics import STAGE_STALLS, TAKEOVERS
from streams import wire
from streams.buffer import Buffer
from streams.delivery import Delivery, first_time, from_message, pending_behind
from streams.fair import ByteBudget
from streams.jetstream import ApiError, JetStream
from streams.pin import PIN_GROUP, PIN_TIMEOUT_MS, Consumer, ConsumerState, Source
from streams.settings import StreamSettings
from streams.stall import StallWatch

log = logging.getLogger("streams")

PIN_TIMEOUT_S = PIN_TIMEOUT_MS / 1000
SILENCE_S_MAX = 15.0
"""Three heartbeats: the server forgot the request (reconnection, leader change, lost reply)."""
LOOK_S = 0.5
LOOK_IDLE_S = 3.0
WORKED_S_MAX = 2.0
"""What is left of an ack_wait for working a delivery once it is taken."""
ERROR_PAUSE_S = 0.25


class Inbox:
    """Deliveries of one consumer. `arrived` is set, by the inbox, whenever there is something to take."""

    def __init__(
        self,
        *,
        jetstream: JetStream,
        settings: StreamSettings,
        source: Source,
        budget: ByteBudget,
        meter: Meter,
        arrived: asyncio.Event,
    ) -> None:
        self._jetstream = jetstream
        self._settings = settings
        self._source = source
        self._buffer = Buffer(budget, settings.buffer_messages_max)
        self._meter = meter
        self._arrived = arrived
        self._name = f"{source.stream}.{source.consumer}"
        self._consumer = Consumer(jetstream, source)
        self._stall = StallWatch(self._consumer)
        self._subscription: Subscription | None = None
        self._subject = ""
        self._generation = 0
        self._tending = False
        self._expected = 0
        self.more = False
        """Whether the broker holds another full pull, so that nobody need wait for more to come."""
        self._asked_s = 0.0
        self._heard_s = 0.0
        self._confirmed_s = 0.0
        """When the last request that was answered under this pin was sent."""
        self._look_s = 0.0
        self._pin = ""
        self._claim: tuple[str, Delivery | None] | None = None
        """A new pin, and the message that told of it until it is to come again with all others."""
        self._seen_seq = 0

    async def open(self) -> None:
        """Subscribe; the first `pull` brings messages. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        self._jetstream.on_reconnect(self._end_pull)
        await self._bind()

    async def pull(self) -> None:
        """As `tend`, asked by whoever takes the deliveries: nothing taken before is in hand any more."""
        self._stall.nothing_in_hand(asyncio.get_running_loop().time())
        await self.tend()

    async def tend(self) -> None:
        """Keep one request open and the pin held, and take over what a new pin brings. Nothing while disconnected."""
        if self._tending or self._subscription is None or not self._jetstream.connected:
            return
        self._tending = True
        try:
            await self._look()
            await self._unstall()
            await self._ask()
            while self._claim is not None:
                await self._take_over(*self._claim)
                await self._ask()
        except (NoAnswer, ApiError) as failure:
            log.warning("consumer %s waits: %s", self._name, failure)
        finally:
            self._tending = False

    def take(self, messages_max: int) -> list[Delivery]:
        """Up to that many deliveries, tenants in turns: suspects alone as long as there are any, else the others.

        Those that waited here for most of their ack_wait are let go: the broker is about to bring them
        again, and working both copies would make a slow worker slower.
        """
        if not self._certain():
            return []
        stale_s = asyncio.get_running_loop().time() - self._source.ack_wait_ms / 1000 + WORKED_S_MAX
        return self._buffer.take(messages_max, stale_s)

    def __len__(self) -> int:
        """How many may be taken now."""
        return len(self._buffer) if self._certain() else 0

    async def close(self) -> None:
        """Let go of everything: the next owner gets it at once and in order, and nothing of it is suspect.

        When the broker does not answer, it is found as after a crash.
        """
        if self._subscription is None:
            return
        buffered = len(self._buffer)
        await self._unbind()
        try:
            if self._pin:
                await self._consumer.hand_back(self._pin, buffered, self._seen_seq)
        except (NoAnswer, ApiError) as failure:
            log.warning("consumer %s is left without a word: %s", self._name, failure)

    async def _on_message(self, generation: int, message: Msg) -> None:
        if generation != self._generation:
            return  # delivered before the consumer was reset: it comes again, in order
        self._heard_s = asyncio.get_running_loop().time()
        headers = message.headers or {}
        status = headers.get("Status")
        if status is not None:
            if headers.get(wire.PULL_LEFT_HEADER) != "0":  # else the pull was filled, which its messages told already
                await self._on_status(status)
            return
        delivery = from_message(message)
        pin = headers.get(wire.PIN_HEADER, "")
        if pin != self._pin:
            self._claim = self._claim or (pin, delivery)
        else:
            self._confirmed_s = self._asked_s
            self._receive(delivery)
        self._expected -= 1
        if self._expected == 0:
            self._end_pull()
            self.more = pending_behind(delivery.reply) >= self._settings.pull_messages
            if self.more:
                await self._ask()
        self._arrived.set()

    async def _on_status(self, status: str) -> None:
        if status == wire.PULL_HEARTBEAT:
            return
        self._end_pull()
        self.more = status == wire.PULL_CUT
        if status == wire.PULL_PIN_LOST:
            log.warning("consumer %s has another owner", self._name)
            self._pin = ""
            self._buffer.clear()
        elif status in wire.PULL_ENDED:
            self._confirmed_s = self._asked_s
        else:
            log.warning("pulling from %s was refused: %s", self._name, status)
            await asyncio.sleep(ERROR_PAUSE_S)  # no consumer, or no leader yet: asking at once would spin
        if status == wire.PULL_EXPIRED:
            await self._ask()
        if status != wire.PULL_EXPIRED or len(self):
            self._arrived.set()

    def _receive(self, delivery: Delivery) -> None:
        now_s = asyncio.get_running_loop().time()
        self._stall.progress(now_s)
        self._buffer.push(delivery, now_s)
        self._seen_seq = max(self._seen_seq, delivery.seq)

    async def _ask(self) -> None:
        now_s = asyncio.get_running_loop().time()
        silence_s_max = PIN_TIMEOUT_S if self._pin else SILENCE_S_MAX
        if self._expected > 0 and now_s - self._heard_s <= silence_s_max:
            return
        request = self._request(now_s)
        if request is None or self._claim is not None or not self._jetstream.connected:
            return
        self._expected = request.batch
        self._asked_s = self._heard_s = now_s
        try:
            await self._jetstream.request(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._name}", msgspec.json.encode(request), self._subject
            )
        except NoAnswer:
            self._end_pull()  # the reconnection asks again

    def _request(self, now_s: float) -> wire.PullRequest | None:
        """What to ask for now, None for nothing."""
        if self._source.pinned and not self._pin:
            return replace(wire.WAITING, group=PIN_GROUP)
        owner = replace(wire.OWNING, group=PIN_GROUP, id=self._pin)
        messages, asked_bytes = self._settings.pull_messages, self._settings.pull_bytes_max
        if self._buffer.has_room(messages, asked_bytes):
            self._buffer.reserve(asked_bytes)
            return replace(owner if self._pin else wire.WAITING, batch=messages, max_bytes=asked_bytes)
        if self._pin and now_s - self._asked_s >= wire.OWNER_EXPIRES_S:
            return replace(owner, max_bytes=1)  # holds the pin; no message is that small
        return None

    async def _take_over(self, pin: str, first: Delivery | None) -> None:
        """Begin as the owner. What the earlier one left unsettled comes again; without any, `first` is just the next.

        Only what this process never received itself can have ended an earlier owner, so no other is suspect.
        """
        state = await self._consumer.state()
        if state.pinned != pin:
            self._claim = None
            return
        if first is not None and self._left_behind(state, first):
            first = None
            self._claim = pin, first
        if first is None:
            await self._start_again()
        self._claim = None
        self._pin = pin
        self._confirmed_s = asyncio.get_running_loop().time()
        if first is not None:
            self._receive(first)

    def _left_behind(self, state: ConsumerState, first: Delivery) -> bool:
        """Whether the earlier owner left anything unsettled; what of it is suspect is noted."""
        fresh = first_time(first.reply)
        unsettled = state.num_ack_pending - fresh
        reached = first.seq - 1 if fresh else state.delivered.stream_seq
        if unsettled > 0 and reached > self._seen_seq:
            self._buffer.suspect_seqs = range(self._seen_seq + 1, reached + 1)
            self._meter.add(TAKEOVERS, 1, self._source.stage)
            log.warning("consumer %s taken over, %d deliveries were left unsettled", self._name, unsettled)
        return unsettled > 0

    async def _look(self) -> None:
        """Standing by: see that somebody gets the pin while messages wait for an owner that is gone."""
        now_s = asyncio.get_running_loop().time()
        if not self._source.pinned or self._pin or self._claim is not None or now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        state = await self._consumer.state()
        if not state.pinned and state.num_ack_pending > 0:
            await self._consumer.nudge(state)
        elif not state.pinned:
            self._look_s = now_s + LOOK_IDLE_S

    async def _unstall(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if len(self) == 0 and await self._stall.stalled(now_s, self._pin, self._seen_seq):
            self._meter.add(STAGE_STALLS, 1, self._source.stage)
            log.error("consumer %s has a backlog and made no progress: bound anew", self._name)
            await (self._start_again() if self._pin else self._rebind())

    async def _start_again(self) -> None:
        """On return everything unsettled will be delivered again, and nothing delivered before is taken any more."""
        await self._rebind()
        await self._consumer.reset()

    async def _rebind(self) -> None:
        await self._unbind()
        await self._bind()

    async def _bind(self) -> None:
        name = f"{self._source.stream}-{self._source.consumer}-{self._generation}"
        self._subscription, self._subject = await self._jetstream.subscribe(
            name, partial(self._on_message, self._generation)
        )

    async def _unbind(self) -> None:
        """The broker gives up the requests that were open when it learns that nobody listens to their answers."""
        self._generation += 1
        self._buffer.clear()
        self._end_pull()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._jetstream.unsubscribe(subscription)

    def _certain(self) -> bool:
        """Whether the pin cannot have gone to somebody else since it was last confirmed."""
        if not self._source.pinned:
            return True
        return bool(self._pin) and asyncio.get_running_loop().time() - self._confirmed_s < PIN_TIMEOUT_S

    def _end_pull(self) -> None:
        self._expected, self.more = 0, False
        self._buffer.reserve(0)
