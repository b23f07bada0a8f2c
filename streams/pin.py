"""Who works a partition: the pin of its consumer's priority group, as the broker tells and changes it.

The broker delivers to one client of the group, the pinned one, until it has not been asked by it for
`PIN_TIMEOUT_MS`; then it pins whichever client it next has a delivery for. What the earlier one left
unsettled is not delivered again by that: it is after `CONSUMER.RESET`, in the order of the stream.
"""

import asyncio
from typing import NamedTuple

import msgspec

from streams.delivery import delayed
from streams.jetstream import JetStream

PIN_GROUP = "p"
PIN_TIMEOUT_MS = 2_500
NUDGE_MS = 1
SETTLING_LOOKS_MAX = 10
SETTLING_S = 0.01


class _Position(msgspec.Struct, frozen=True):
    stream_seq: int = 0
    consumer_seq: int = 0


class _Group(msgspec.Struct, frozen=True):
    pinned_client_id: str = ""


class _Config(msgspec.Struct, frozen=True):
    filter_subject: str = ""


class ConsumerState(msgspec.Struct, frozen=True):
    """How far a consumer is. `delivered` starts again at the ack floor when it is reset."""

    config: _Config
    delivered: _Position
    ack_floor: _Position
    num_ack_pending: int = 0
    num_pending: int = 0
    priority_groups: tuple[_Group, ...] = ()

    @property
    def pinned(self) -> str:
        """The pinned client, empty while there is none."""
        return self.priority_groups[0].pinned_client_id if self.priority_groups else ""

    @property
    def unsettled(self) -> int:
        return self.num_ack_pending + self.num_pending


class Source(NamedTuple):
    """The consumer an inbox reads. `pinned`: it has a priority group, so one worker at a time gets its messages."""

    stage: str
    stream: str
    consumer: str
    pinned: bool
    ack_wait_ms: int


class Consumer:
    """One consumer's state and the verbs that move it. All of them raise NoAnswer and ApiError."""

    def __init__(self, jetstream: JetStream, source: Source) -> None:
        self._jetstream = jetstream
        self._stream = source.stream
        self._name = f"{source.stream}.{source.consumer}"

    async def state(self) -> ConsumerState:
        return await self._jetstream.api(f"CONSUMER.INFO.{self._name}", None, ConsumerState)

    async def reset(self) -> None:
        """On return everything above the ack floor is undelivered; the pin stays."""
        await self._jetstream.api(f"CONSUMER.RESET.{self._name}", None, dict)

    async def hand_back(self, pin: str, unsettled: int, seen_seq: int) -> None:
        """On return nobody is pinned by us, and nothing is delivered and unsettled. `unsettled` is what should be left.

        Nobody answers an acknowledgement: those just sent may need a moment, and what is not seen settled comes again.
        A pin that is nobody's any more is handed back too, unless more was delivered since than the `seen_seq` we saw.
        """
        state = await self.state()
        for _ in range(SETTLING_LOOKS_MAX):
            if state.num_ack_pending <= unsettled:
                break
            await asyncio.sleep(SETTLING_S)
            state = await self.state()
        lapsed = not state.pinned and state.delivered.stream_seq <= seen_seq
        if state.pinned != pin and not lapsed:
            return
        if state.num_ack_pending > 0:
            await self.reset()
        if not lapsed:
            await self._jetstream.api(f"CONSUMER.UNPIN.{self._name}", {"group": PIN_GROUP}, dict)

    async def nudge(self, state: ConsumerState) -> None:
        """Let the oldest unsettled delivery come again at once, so that somebody is pinned by it.

        Without a new message the broker has nothing to deliver, and pins nobody, until an ack_wait is over.
        """
        oldest = await self._jetstream.next_stored(
            self._stream, state.ack_floor.stream_seq + 1, state.config.filter_subject
        )
        if oldest is not None:
            floor = state.ack_floor.consumer_seq + 1
            reply = f"$JS.ACK.{self._name}.1.{oldest.seq}.{floor}.0.0"
            await self._jetstream.settle([(reply, delayed(NUDGE_MS))])
