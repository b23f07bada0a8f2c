"""The scheduler keeps each tenant's order, loses nothing, and lets nobody wait for a second turn of another."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streams.buffer import Buffer
from streams.delivery import Delivery
from streams.fair import TURN_MAX, ByteBudget, FairQueue, held_bytes

HOT_EVENTS = 4_000
BATCH = 512
BYTES = 10_000_000


def _delivery(tenant: str, seq: int, size: int = 10) -> Delivery:
    return Delivery(f"fg.in.0.{tenant}", b"x" * size, f"reply-{seq}", "FG_INGEST_0", seq)


class FairTurns(RuleBasedStateMachine):
    """The queue beside a model: each tenant's waiting sequences, and who was served since whom."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
        self.model: dict[str, deque[tuple[float, int]]] = {}
        self.overtaken: dict[str, set[str]] = {}
        """Of each waiting tenant, those that had a turn since it began to wait or had its own last turn."""
        self.turn_of = ""
        self.now_s = 0.0
        self.seq = 0

    @rule(tenant=st.sampled_from("abcdef"), count=st.integers(1, 150))
    def push(self, tenant: str, count: int) -> None:
        for _ in range(count):
            self.seq += 1
            self.now_s += 1
            self.queue.push(_delivery(tenant, self.seq), self.now_s)
            if not self.model.setdefault(tenant, deque()):
                self.overtaken[tenant] = set()
            self.model[tenant].append((self.now_s, self.seq))

    @rule(count=st.integers(0, 400))
    def take(self, count: int) -> None:
        waited = sum(map(len, self.model.values()))
        taken = self.queue.take(count, BYTES)
        assert len(taken) == min(count, waited)
        self.turn_of, run = "", 0
        for delivery in taken:
            tenant = delivery.subject.rpartition(".")[2]
            assert self.model[tenant].popleft()[1] == delivery.seq
            alone = not any(waiting for other, waiting in self.model.items() if other != tenant)
            run = run + 1 if tenant == self.turn_of else 1
            if tenant != self.turn_of or (run > TURN_MAX and not alone):
                assert run <= TURN_MAX
                self._begin_turn(tenant)

    @rule(age=st.integers(0, 200))
    def let_go_of_the_old(self, age: int) -> None:
        self.queue.drop_older(self.now_s - age)
        for waiting in self.model.values():
            while waiting and waiting[0][0] < self.now_s - age:
                waiting.popleft()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert len(self.queue) == sum(map(len, self.model.values()))
        assert self.queue.bytes_held == len(self.queue) * held_bytes(_delivery("a", 1))

    def _begin_turn(self, tenant: str) -> None:
        self.turn_of = tenant
        for other, waiting in self.model.items():
            if other != tenant and waiting:
                assert tenant not in self.overtaken[other], f"{tenant} had two turns while {other} waited"
                self.overtaken[other].add(tenant)
        self.overtaken[tenant] = set()


FairTurns.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFairTurns = FairTurns.TestCase


def test_a_cold_tenant_behind_four_thousand_hot_events_is_taken_with_the_first_two_batches() -> None:
    queue = FairQueue()
    for seq in range(HOT_EVENTS):
        queue.push(_delivery("hot", seq), 0.0)
    queue.push(_delivery("cold", HOT_EVENTS), 0.0)
    first_two = queue.take(BATCH, BYTES) + queue.take(BATCH, BYTES)
    assert [d.seq for d in first_two if d.subject.endswith("cold")] == [HOT_EVENTS]
    hot = [d.seq for d in first_two if d.subject.endswith("hot")]
    assert hot == list(range(len(hot)))


def test_one_tenant_alone_fills_a_batch() -> None:
    queue = FairQueue()
    for seq in range(BATCH):
        queue.push(_delivery("only", seq), 0.0)
    assert len(queue.take(BATCH, BYTES)) == BATCH


def test_a_batch_ends_with_the_delivery_that_fills_its_bytes() -> None:
    queue = FairQueue()
    for seq in range(3):
        queue.push(_delivery("large", seq, 1_000), 0.0)
    assert len(queue.take(3, 1)) == 1
    assert len(queue.take(3, 1_700)) == 2


def test_greedy_inboxes_leave_room_for_the_next() -> None:
    budget = ByteBudget(90)
    greedy = [0, 0]
    for _ in range(100):
        for position, held in enumerate(greedy):
            if budget.allows(held, 1):
                budget.hold(1)
                greedy[position] += 1
    assert greedy == [30, 30]
    assert budget.allows(0, 30)


def test_a_full_budget_stops_the_pulling_and_what_is_taken_frees_it() -> None:
    budget = ByteBudget(10_000)
    buffer = Buffer(budget, 1_000)
    while buffer.has_room(256, 1_000):
        buffer.push(_delivery("a", len(buffer), 400), 0.0)
    assert 0 < len(buffer) < 1_000
    buffer.take(1_000, 0.0)
    assert buffer.has_room(256, 1_000)
    assert budget.free == 10_000


def test_suspects_are_taken_alone_and_before_all_others() -> None:
    buffer = Buffer(ByteBudget(BYTES), 1_000)
    buffer.suspect_seqs = range(3, 6)
    for seq in range(1, 9):
        buffer.push(_delivery("a", seq), 0.0)
    assert [(d.seq, d.suspect) for d in buffer.take(2, 0.0)] == [(3, True), (4, True)]
    assert [(d.seq, d.suspect) for d in buffer.take(9, 0.0)] == [(5, True)]
    assert [d.seq for d in buffer.take(9, 0.0)] == [1, 2, 6, 7, 8]
