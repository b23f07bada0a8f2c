"""The pulling side of one consumer: keeps one pull request open and buffers what arrives.

The buffer is bounded by what was asked for: at most one pull beyond what the stage has not taken
yet. A pull that the server forgot (reconnection, leader change, lost reply) is noticed by missing
heartbeats and asked again.
"""

import asyncio
import logging
from collections import deque

import msgspec
from nats.aio.msg import Msg

from schemas.answers import NoAnswer
from streams.delivery import Delivery, from_message
from streams.jetstream import JetStream
from streams.settings import StreamSettings

log = logging.getLogger("streams")

PULL_EXPIRES_S = 30
HEARTBEAT_S = 5
HEARTBEATS_MISSED_MAX = 3
NS_PER_S = 1_000_000_000
HEARTBEAT_STATUS = "100"
WORKED_S_MAX = 2.0
"""What is left of an ack_wait for working a delivery once it is taken."""
ERROR_PAUSE_S = 0.25
ENDED = frozenset({"404", "408", "409"})
"""The pull is over and all is well: nothing there, expired, or over its byte limit."""


class Inbox:
    """Deliveries of one consumer. `arrived` is set, by the inbox, whenever there is something to take."""

    def __init__(
        self, jetstream: JetStream, settings: StreamSettings, stream: str, consumer: str, arrived: asyncio.Event
    ) -> None:
        self._jetstream = jetstream
        self._settings = settings
        self._name = f"{stream}.{consumer}"
        self._arrived = arrived
        self._buffer: deque[tuple[float, Delivery]] = deque()
        self._subject = ""
        self._expected = 0
        self._heard_at_s = 0.0

    async def open(self) -> None:
        """Subscribe; the first `pull` brings messages. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        _, self._subject = await self._jetstream.subscribe(self._name.replace(".", "-"), self._on_message)
        self._jetstream.on_reconnect(self._forget_pull)

    async def pull(self) -> None:
        """Keep one request open, unless half a pull still waits to be taken. Nothing is asked while disconnected."""
        now_s = asyncio.get_running_loop().time()
        silent = now_s - self._heard_at_s > HEARTBEAT_S * HEARTBEATS_MISSED_MAX
        if self._expected > 0 and not silent:
            return
        if len(self._buffer) > self._settings.pull_messages // 2 or not self._jetstream.connected:
            return
        request = {
            "batch": self._settings.pull_messages,
            "max_bytes": self._settings.pull_bytes_max,
            "expires": PULL_EXPIRES_S * NS_PER_S,
            "idle_heartbeat": HEARTBEAT_S * NS_PER_S,
        }
        try:
            await self._jetstream.request(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._name}", msgspec.json.encode(request), self._subject
            )
        except NoAnswer:
            return  # the reconnection asks again
        self._expected = self._settings.pull_messages
        self._heard_at_s = now_s

    def take(self, messages_max: int) -> list[Delivery]:
        """Up to that many deliveries, oldest first.

        Those that waited here for most of their ack_wait are let go: the broker is about to bring them
        again, and working both copies would make a slow worker slower.
        """
        stale_s = asyncio.get_running_loop().time() - self._settings.ack_wait_ms / 1000 + WORKED_S_MAX
        while self._buffer and self._buffer[0][0] < stale_s:
            self._buffer.popleft()
        count = min(messages_max, len(self._buffer))
        return [self._buffer.popleft()[1] for _ in range(count)]

    def __len__(self) -> int:
        return len(self._buffer)

    async def _on_message(self, message: Msg) -> None:
        self._heard_at_s = asyncio.get_running_loop().time()
        status = message.headers.get("Status") if message.headers else None
        if status is None:
            self._buffer.append((self._heard_at_s, from_message(message)))
            self._expected -= 1
        elif status in ENDED:
            self._expected = 0
        elif status != HEARTBEAT_STATUS:
            log.warning("pulling from %s was refused: %s", self._name, status)
            await asyncio.sleep(ERROR_PAUSE_S)  # no consumer, or no leader yet: asking at once would spin
            self._expected = 0
        if status != HEARTBEAT_STATUS:
            self._arrived.set()

    def _forget_pull(self) -> None:
        self._expected = 0
        self._arrived.set()
