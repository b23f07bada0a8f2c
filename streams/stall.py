"""Finds a consumer that has a backlog and makes no progress, though nothing is in hand here."""

from streams.pin import Consumer, ConsumerState

STALL_S = 10.0
PARKED_S_MAX = 30.0
"""Nothing is parked for longer than this: deliveries that were received and not settled may be parked until then."""
IN_HAND_S = 3.0
"""Whoever takes the deliveries asks more often than this, unless a batch is in hand."""
LOOKS_S = 2.0


class StallWatch:
    """Judges one consumer, without asking the broker while deliveries come or a batch is in hand."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._progress_s = 0.0
        self._asked_s = 0.0
        self._looked_s = 0.0
        self._floor = -1

    def progress(self, now_s: float) -> None:
        """Something was delivered."""
        self._progress_s = now_s
        self._floor = -1

    def nothing_in_hand(self, now_s: float) -> None:
        """Whatever was taken before is settled."""
        if now_s - self._asked_s > IN_HAND_S:
            self.progress(now_s)
        self._asked_s = now_s

    async def stalled(self, now_s: float, pin: str, seen_seq: int) -> bool:
        """Whether to bind anew; asked again only after as long a time. `pin` is ours, empty for none.

        Raises NoAnswer and ApiError.
        """
        quiet_s = now_s - self._progress_s
        if quiet_s < STALL_S or now_s - self._asked_s > IN_HAND_S or now_s - self._looked_s < LOOKS_S:
            return False
        self._looked_s = now_s
        state = await self._consumer.state()
        if not self._waits(state, pin, seen_seq, quiet_s):
            self.progress(now_s)
            return False
        seen_before = state.ack_floor.stream_seq == self._floor
        self._floor = state.ack_floor.stream_seq
        if seen_before:
            self.progress(now_s)
        return seen_before

    @staticmethod
    def _waits(state: ConsumerState, pin: str, seen_seq: int, quiet_s: float) -> bool:
        if state.pinned not in {"", pin}:
            return False
        undelivered = state.num_pending > 0
        lost = state.num_ack_pending > 0 and state.delivered.stream_seq > seen_seq
        return undelivered or (bool(pin) and (lost or (state.num_ack_pending > 0 and quiet_s >= PARKED_S_MAX)))
