"""The loads of a run. Each has a name of its own in the event ids, so no event is sent twice."""

from dataclasses import dataclass

import msgspec

from ops.bench.job import ClientTls, Job
from ops.bench.requests import Sender
from ops.settings import load

TENANTS = 50
SINGLE_CONNECTIONS = 64
BATCH_CONNECTIONS = 8
BATCH_LINES = 100
STEADY_RATE = 1_000
TIMED_LINES = 20
MODEST_RATE = 200
MODEST_TIMES = 3
"""The modest load lasts so many times as long as the others: slow senders are given up only after seconds."""
WARM_UP_S = 1.0
FILL_S_MAX = 120.0
FILL_RATE_MIN = 1_000
QUEUED_PER_TENANT_MAX = 4_500
"""While nobody drains, a tenant's queue stays below where the edge begins to warn."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Jobs for the edge at a URL. The `apart` ones are for a stopped worker, and bounded in events."""

    url: str
    senders: list[Sender]
    seconds: float
    tls: ClientTls | None = None
    core: int | None = None
    """The processor core the load generator has to itself, None for any."""

    def warm_up(self) -> Job:
        return self._job("warm", SINGLE_CONNECTIONS, WARM_UP_S, events_max=self._queued_max())

    def probe(self, run: str) -> Job:
        """The few events, one after the other, that a half-open circuit lets through, and as many more."""
        return self._job(f"{run}-probe", 1, WARM_UP_S, events_max=2 * load({}).breaker.half_open_probes)

    def single(self) -> Job:
        return self._job("single", SINGLE_CONNECTIONS, self.seconds)

    def single_apart(self) -> Job:
        return self._job("single-apart", SINGLE_CONNECTIONS, self.seconds, events_max=self._queued_max())

    def one_tenant(self) -> Job:
        job = self._job("one-tenant", SINGLE_CONNECTIONS, self.seconds, events_max=QUEUED_PER_TENANT_MAX)
        return msgspec.structs.replace(job, senders=self.senders[:1])

    def steady(self) -> Job:
        return self._job("steady", SINGLE_CONNECTIONS, self.seconds, rate=STEADY_RATE)

    def modest(self, name: str) -> Job:
        return self._job(name, SINGLE_CONNECTIONS, MODEST_TIMES * self.seconds, rate=MODEST_RATE)

    def batch(self) -> Job:
        return self._job("batch", BATCH_CONNECTIONS, self.seconds, lines=BATCH_LINES)

    def batch_apart(self) -> Job:
        return self._job(
            "batch-apart", BATCH_CONNECTIONS, self.seconds, lines=BATCH_LINES, events_max=self._queued_max()
        )

    def timed(self) -> Job:
        """The steady rate for the worker's own clocks: in small batches, so that edge and generator leave it room."""
        rate = STEADY_RATE // TIMED_LINES
        return self._job("timed", SINGLE_CONNECTIONS, self.seconds, rate=rate, lines=TIMED_LINES)

    def backlog(self, events: int, run: str = "backlog") -> Job:
        seconds = max(FILL_S_MAX, events / FILL_RATE_MIN)
        return self._job(run, BATCH_CONNECTIONS, seconds, lines=BATCH_LINES, events_max=events)

    def backlog_of_one(self, events: int) -> Job:
        job = self.backlog(min(events, QUEUED_PER_TENANT_MAX), "backlog-one")
        return msgspec.structs.replace(job, senders=self.senders[:1])

    def _queued_max(self) -> int:
        return QUEUED_PER_TENANT_MAX * len(self.senders)

    def _job(
        self, name: str, connections: int, seconds: float, *, rate: int = 0, lines: int = 0, events_max: int = 0
    ) -> Job:
        return Job(
            url=self.url,
            senders=self.senders,
            run=name,
            connections=connections,
            seconds=seconds,
            rate=rate,
            lines=lines,
            events_max=events_max,
            tls=self.tls,
            core=self.core,
        )
