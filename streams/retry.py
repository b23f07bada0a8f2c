"""FG_RETRY: a delivery that failed by its own fault waits here for its next attempt, outside its stage's window.

It is stored as a scheduled message: the broker itself delivers it, when its time has come, to the
retry lane's consumer. The original is acknowledged once this is stored, so it counts against its
tenant's cap no longer, and holds nobody up.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec

from schemas.answers import NoAnswer, NotNow
from schemas.codes import Code, DeadReason
from schemas.envelope import RetryTask
from schemas.fate import Dead, Fate, Later
from schemas.subjects import lane, tenant_of
from schemas.units import Clock, UnixMs, format_rfc3339
from streams.budgets import PARKED_MS
from streams.delivery import ACK, Delivery, delayed, is_later
from streams.jetstream import JetStream
from streams.ports import RetryLane, Settler
from streams.settings import StreamSettings
from streams.wire import decode_ack
from streams.work import Stage, StageWork

log = logging.getLogger("streams")

HEADERS_BYTES_MAX = 1_024
"""What a message's headers, which count towards its size, take at most."""

_task = msgspec.json.Decoder(RetryTask)


class ScheduledRetries:
    """Puts deliveries into the retry lane."""

    def __init__(self, jetstream: JetStream, settings: StreamSettings, clock: Clock) -> None:
        self._jetstream = jetstream
        self._settings = settings
        self._clock = clock

    async def schedule(self, stage: str, delivery: Delivery, attempt: int, delay_ms: int) -> bool:
        """Return once the delivery, whose `attempt`-th try failed, is stored to come again after `delay_ms`.

        False: it is too large to be, and nothing was stored. Raises NoAnswer; scheduling again stores
        nothing twice.
        """
        data = msgspec.json.encode(
            RetryTask(
                stage=stage,
                stream=delivery.stream,
                seq=delivery.seq,
                subject=delivery.subject,
                attempt=attempt,
                message_base64=base64.b64encode(delivery.data).decode(),
            )
        )
        if len(data) + HEADERS_BYTES_MAX > self._settings.message_bytes_max:
            return False
        tenant = lane(tenant_of(delivery.subject))
        # The reply subject is of this one delivery: the same attempt of a later one, its count forgotten meanwhile,
        # must not be taken for this one, whose message is long gone.
        headers = {
            "Nats-Schedule": f"@at {format_rfc3339(UnixMs(self._clock.now_ms() + delay_ms))}",
            "Nats-Schedule-Target": f"fg.rt.{tenant.partition}.{tenant.tenant_id}",
            "Nats-Msg-Id": f"retry/{delivery.stream}/{delivery.seq}/{attempt}/{delivery.reply}",
        }
        subject = f"fg.rs.{tenant.partition}.{tenant.tenant_id}.{delivery.stream}-{delivery.seq}"
        reply = await self._jetstream.ask(subject, data, headers, self._settings.publish_timeout_ms)
        if decode_ack(reply).error is not None:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        return True


class LaneSettler:
    """Settles what is in hand at the desk: what is to come again is scheduled anew instead.

    Those that wait would otherwise fill the lane's window, and one tenant's or one stage's would hold
    up the retries of all others.
    """

    def __init__(self, broker: Settler, lane: RetryLane, wait_ms: int, settled: Callable[[int], None]) -> None:
        """`settled` is told the sequences in the lane that were acknowledged, so that it can be swept behind them."""
        self._broker = broker
        self._lane = lane
        self._wait_ms = wait_ms
        self._settled = settled
        self._in_hand: _InHand | None = None

    @property
    def connected(self) -> bool:
        return self._broker.connected

    def take(self, message: Delivery, task: RetryTask | None, delivery: Delivery) -> None:
        """This is in hand from now on: a message of the lane, its task, and the delivery that it stands for."""
        self._in_hand = _InHand(message.seq, task, delivery)

    async def settle(self, settlements: Iterable[tuple[str, bytes]]) -> None:
        """Raises NoAnswer; settling again schedules nothing twice."""
        verbs = [(reply, await self._instead(reply, verb)) for reply, verb in settlements]
        await self._broker.settle(verbs)
        for reply, verb in verbs:
            if verb == ACK and self._in_hand is not None and self._in_hand.delivery.reply == reply:
                self._settled(self._in_hand.seq)

    async def _instead(self, reply: str, verb: bytes) -> bytes:
        if not is_later(verb) or self._in_hand is None:
            return verb
        _, task, delivery = self._in_hand
        if task is None or delivery.reply != reply:
            return verb
        return ACK if await self._lane.schedule(task.stage, delivery, task.attempt, self._wait_ms) else verb


class _InHand(NamedTuple):
    seq: int
    task: RetryTask | None
    delivery: Delivery


class Impatient:
    """A stage as the desk runs it: while its dependencies are away its event waits for them, and the desk does not."""

    def __init__(self, stage: Stage) -> None:
        self.name = stage.name
        self._stage = stage

    async def ready(self) -> bool:
        """It waits for nothing."""
        return True

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        try:
            return await self._stage.run(deliveries)
        except NoAnswer as failure:
            if not isinstance(failure, NotNow) and await self._stage.ready():
                raise
            return [Later(failure.code, PARKED_MS)] * len(deliveries)


class RetryDesk:
    """Runs what comes back through the stage it failed in: attempt first, alone, settled by its fate."""

    name = "retry"

    def __init__(
        self,
        works: Mapping[str, StageWork],
        broken: StageWork,
        settler: LaneSettler,
        paused_of: Callable[[str], bool],
    ) -> None:
        """`works` by stage, and `broken`, the work of `BrokenTasks`, for what names none of them: all with `settler` as
        their broker. `paused_of` says whether a stage waits for its dependencies, as its own runners have found.
        """
        self._works = works
        self._broken = broken
        self._settler = settler
        self._paused_of = paused_of

    @property
    def paused(self) -> bool:
        return any(work.paused for work in (*self._works.values(), self._broken))

    async def work(self, batch: Sequence[Delivery], stopping: asyncio.Event) -> None:
        """Return when every delivery is settled, or, some unsettled, when `stopping` is set."""
        for delivery in batch:
            task = read_task(delivery)
            work = self._works.get(task.stage) if task is not None else None
            if task is None or work is None:
                self._settler.take(delivery, None, delivery)
                await self._broken.work([delivery], stopping)
                continue
            # A suspect: its attempt is counted before it runs.
            failed = replace(unwrapped(task, delivery.reply), suspect=True)
            self._settler.take(delivery, task, failed)
            if work.guard.storm or self._paused_of(task.stage):
                await self._put_off(failed)
            else:
                await work.work([failed], stopping)

    async def _put_off(self, delivery: Delivery) -> None:
        try:
            await self._settler.settle([(delivery.reply, delayed(PARKED_MS))])
        except NoAnswer as failure:  # it comes again when its ack_wait is over
            log.info("a retry waits where it is", extra={"error_code": failure.code.value})


class BrokenTasks:
    """The stage of what stands in the retry lane and is no task of it."""

    name = RetryDesk.name

    async def ready(self) -> bool:
        return True

    async def run(self, deliveries: Sequence[Delivery]) -> list[Fate]:
        return [Dead(DeadReason.POISON)] * len(deliveries)


def read_task(delivery: Delivery) -> RetryTask | None:
    """The task of a FG_RETRY message, None when the data is not one or speaks of another tenant than its subject."""
    try:
        task = _task.decode(delivery.data)
        base64.b64decode(task.message_base64, validate=True)
        return task if tenant_of(task.subject) == tenant_of(delivery.subject) else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def unwrapped(task: RetryTask, reply: str) -> Delivery:
    """The delivery that failed, settled where it stands now."""
    return Delivery(task.subject, base64.b64decode(task.message_base64), reply, task.stream, task.seq)
