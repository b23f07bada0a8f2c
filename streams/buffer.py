"""What an inbox holds, counted against the byte budget of the process."""

from dataclasses import replace

from streams.delivery import Delivery
from streams.fair import ByteBudget, FairQueue

TAKE_BYTES_MAX = 4 * 1024 * 1024


class Buffer:
    """Deliveries that wait to be taken, suspects before others, and the bytes asked for and not yet here."""

    def __init__(self, budget: ByteBudget, messages_max: int) -> None:
        self._budget = budget
        self._messages_max = messages_max
        self._suspects = FairQueue()
        self._others = FairQueue()
        self._asked_bytes = 0
        self._held = 0
        self.suspect_seqs = range(0)
        """Messages that may have ended an earlier owner."""

    def __len__(self) -> int:
        return len(self._suspects) + len(self._others)

    def push(self, delivery: Delivery, now_s: float) -> None:
        if delivery.seq in self.suspect_seqs:
            self._suspects.push(replace(delivery, suspect=True), now_s)
        else:
            self._others.push(delivery, now_s)
        self._account()

    def take(self, messages_max: int, stale_s: float) -> list[Delivery]:
        """Only suspects or only others; what was pushed before `stale_s` is let go."""
        self._suspects.drop_older(stale_s)
        self._others.drop_older(stale_s)
        taken = (self._suspects or self._others).take(messages_max, TAKE_BYTES_MAX)
        self._account()
        return taken

    def clear(self) -> None:
        self._suspects.clear()
        self._others.clear()
        self._account()

    def reserve(self, asked_bytes: int) -> None:
        """So many bytes were asked for and may come."""
        self._asked_bytes = asked_bytes
        self._account()

    def has_room(self, messages: int, asked_bytes: int) -> bool:
        """Whether to ask for more: not while two such pulls could be taken at once, and within every bound."""
        enough = self._suspects.takeable() + self._others.takeable() >= 2 * messages
        return not enough and len(self) < self._messages_max and self._budget.allows(self._held, asked_bytes)

    def _account(self) -> None:
        held = self._suspects.bytes_held + self._others.bytes_held + self._asked_bytes
        self._budget.hold(held - self._held)
        self._held = held
