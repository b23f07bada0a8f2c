"""What a consumer's deliveries wait in: a queue per tenant, taken in turns, under one byte budget for the process."""

from collections import OrderedDict, deque

from streams.delivery import Delivery

TURN_MAX = 64
"""Deliveries of one tenant before the next waiting tenant has its turn."""
DELIVERY_BYTES = 600
"""What holding one delivery costs beside its data."""


def held_bytes(delivery: Delivery) -> int:
    return len(delivery.data) + DELIVERY_BYTES


class ByteBudget:
    """The bytes all inboxes of a process may hold, buffered or asked for.

    Nobody may hold more than is still free: so n greedy inboxes end with 1/(n+1) of the whole each,
    and whoever comes next finds as much.
    """

    def __init__(self, bytes_max: int) -> None:
        self.free = bytes_max

    def hold(self, count: int) -> None:
        self.free -= count

    def release(self, count: int) -> None:
        self.free += count

    def allows(self, held: int, more: int) -> bool:
        """Whether somebody holding `held` may hold `more` beside it."""
        return held + more <= self.free


class FairQueue:
    """Deliveries by tenant. A tenant's own keep their order; between two turns of a tenant every other one that
    waits has a turn.
    """

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, deque[tuple[float, Delivery]]] = OrderedDict()
        """Whose turn it is comes first. Nobody is here without a delivery."""
        self._count = 0
        self.bytes_held = 0

    def __len__(self) -> int:
        return self._count

    def push(self, delivery: Delivery, now_s: float) -> None:
        """Put it behind its tenant's others."""
        self._tenants.setdefault(delivery.subject, deque()).append((now_s, delivery))
        self._count += 1
        self.bytes_held += held_bytes(delivery)

    def take(self, count_max: int, bytes_max: int) -> list[Delivery]:
        """Up to so many deliveries of so many bytes, but one at least when there is any."""
        taken: list[Delivery] = []
        while self._tenants and len(taken) < count_max and bytes_max > 0:
            subject, waiting = self._tenants.popitem(last=False)
            turn = min(TURN_MAX, count_max - len(taken))
            while waiting and turn > 0 and bytes_max > 0:
                delivery = self._pop(waiting)
                taken.append(delivery)
                turn -= 1
                bytes_max -= held_bytes(delivery)
            if waiting:
                self._tenants[subject] = waiting
        return taken

    def takeable(self) -> int:
        """How many one turn of every tenant would take."""
        return sum(min(TURN_MAX, len(waiting)) for waiting in self._tenants.values())

    def drop_older(self, than_s: float) -> None:
        """Let go what was pushed before that moment."""
        for subject, waiting in list(self._tenants.items()):
            while waiting and waiting[0][0] < than_s:
                self._pop(waiting)
            if not waiting:
                del self._tenants[subject]

    def clear(self) -> None:
        self._tenants.clear()
        self._count = 0
        self.bytes_held = 0

    def _pop(self, waiting: deque[tuple[float, Delivery]]) -> Delivery:
        _, delivery = waiting.popleft()
        self._count -= 1
        self.bytes_held -= held_bytes(delivery)
        return delivery
