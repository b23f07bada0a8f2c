"""The loads on one running stack, and what became of every event sent to it."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from ops.bench import connections
from ops.bench.exposition import buckets, p95, scraped
from ops.bench.job import Job, Result, unknown_events
from ops.bench.loads import MODEST_RATE, MODEST_TIMES, STEADY_RATE, TIMED_LINES, Loads
from ops.bench.pipeline import stage_costs
from ops.bench.processes import BenchError, holding, resident_mib, run_job
from ops.bench.report import Accounts, Backlog, Connections, Drain, Edge, Latencies, StageCost, edge_figures
from ops.bench.stack import RunningStack
from ops.settings import load

IDLE = 2_000
SLOW = 2_000
HELD_S_MORE = 1.0
"""Slow senders stay so much longer than the load beside them."""
TRIES = 3
CIRCUIT_OPEN_S = load({}).breaker.open_seconds
"""So long a stack as it comes keeps a circuit open."""

Say = Callable[[str], None]


class Session:
    """Every load begins on an empty queue: all that was accepted before has been decided and relayed."""

    def __init__(self, running: RunningStack, loads: Loads, say: Say) -> None:
        self._running = running
        self._say = say
        self._accepted = 0
        self._unknown = 0
        self.loads = loads

    async def send(self, what: str, job: Job) -> Edge:
        """Run one job beside the draining worker and return its figures."""
        edge = await self._measured(what, job)
        await self._drained()
        return edge

    async def send_apart(self, what: str, job: Job) -> Edge:
        """Run one job with the worker stopped and return its figures."""
        self._running.pause_worker()
        try:
            edge = await self._measured(what, job)
        finally:
            self._running.resume_worker()
        await self._drained()
        return edge

    async def drain(self, job: Job) -> Drain:
        """Fill a backlog while the worker is stopped, let it go on, and time it until all is decided."""
        self._running.pause_worker()
        try:
            await self._fill(f"a backlog of {job.events_max:,} events, worker stopped", job)
            waiting = self._accepted - await self._running.chained()
            before, began = self._running.cpu(), time.perf_counter()
        finally:
            self._running.resume_worker()
        await self._running.until_chained(self._accepted)
        seconds = time.perf_counter() - began
        used = self._running.cpu().since(before)
        self._say(f"  {waiting / seconds:,.0f} events/s decided")
        await self._drained()
        return Drain(
            events=waiting,
            tenants=len(job.senders),
            seconds=seconds,
            events_per_s=waiting / seconds,
            worker_cpu_us=used.worker / waiting,
            nats_cpu_us=used.nats / waiting,
            postgres_cpu_us=used.postgres / waiting,
        )

    async def stages(self, job: Job) -> list[StageCost]:
        """Fill a backlog while the worker is stopped, and take it through one stage after the other."""
        self._running.pause_worker()
        try:
            accepted = await self._fill(f"a backlog of {job.events_max:,} events, stage by stage", job)
            costs = await stage_costs(self._running, accepted, self._say)
        finally:
            self._running.resume_worker()
        await self._drained()
        return costs

    async def latencies(self) -> Latencies:
        """The 95th percentiles of decision and of database writes while 1,000 events/s are offered."""
        names: tuple[tuple[str, dict[str, str]], ...] = (
            ("frostgate_pipeline_phase_latency_ms", {"phase": "total"}),
            ("frostgate_db_write_latency_ms", {}),
        )
        admin_url = self._running.stack.admin_url
        before = scraped(admin_url)
        what = f"batches of {TIMED_LINES}, {STEADY_RATE:,} events/s, for the worker's own clocks"
        offered = await self.send(what, self.loads.timed())
        after = scraped(admin_url)
        decision, write = (p95(buckets(before, *one), buckets(after, *one)) for one in names)
        return Latencies(offered.events_per_s, decision, write)

    async def stand_before(self, job: Job) -> Backlog:
        """The same load on empty queues, and while a worker eats its way through a long backlog."""
        without = await self.send(f"single events, {MODEST_RATE}/s, no backlog", self.loads.modest("empty"))
        self._running.pause_worker()
        try:
            accepted = await self._fill(f"a backlog of {job.events_max:,} events, worker stopped", job)
        finally:
            self._running.resume_worker()
        beside = await self._measured(f"single events, {MODEST_RATE}/s, before it", self.loads.modest("before"))
        worker_mib = resident_mib(self._running.stack.pids.worker)
        self._say(f"  p95 {without.p95_ms:.1f} ms without, {beside.p95_ms:.1f} ms with; worker {worker_mib:.0f} MiB")
        await self._drained()
        return Backlog(events=accepted, without=without, with_backlog=beside, worker_mib=worker_mib)

    async def bear(self) -> Connections:
        """The edge's memory with idle connections, and good clients' latency without and with slow senders."""
        stack = self._running.stack
        edge_mib = resident_mib(stack.pids.edge)
        self._say(f"{IDLE:,} idle connections")
        async with holding(connections.Job(stack.url, idle=IDLE, slow=0, seconds=600)) as held:
            idle = held.stood.idle
            edge_idle_mib = resident_mib(stack.pids.edge)
        self._say(f"  edge: {edge_mib:.0f} MiB before, {edge_idle_mib:.0f} MiB with them")
        without = await self.send(f"single events, {MODEST_RATE}/s, nobody slow", self.loads.modest("calm"))
        self._say(f"  p95 {without.p95_ms:.1f} ms")
        lasts_s = MODEST_TIMES * self.loads.seconds + HELD_S_MORE
        slow = connections.Job(stack.url, idle=0, slow=SLOW, seconds=lasts_s, api_key=self.loads.senders[0].api_key)
        async with holding(slow) as held:
            beside = await self._measured(f"single events, {MODEST_RATE}/s, {SLOW:,} slow", self.loads.modest("slow"))
            ended = await held.end()
        self._say(f"  p95 {beside.p95_ms:.1f} ms; {ended.given_up:,} slow senders given up")
        await self._drained()
        return Connections(
            idle=idle,
            edge_mib=edge_mib,
            edge_idle_mib=edge_idle_mib,
            slow=held.stood.slow,
            reopened=ended.given_up,
            without_slow=without,
            with_slow=beside,
        )

    async def end(self) -> Accounts:
        """The accounts, once no process turned out to have been restarted. Raises BenchError."""
        self._running.check_whole()
        decided, dead = await self._running.outcomes()
        return Accounts(accepted=self._accepted, unknown=self._unknown, decided=decided, dead=dead)

    async def _measured(self, what: str, job: Job) -> Edge:
        before = self._running.cpu()
        result = await self._run(what, job)
        return edge_figures(result, self._running.cpu().since(before).nats)

    async def _run(self, what: str, job: Job) -> Result:
        self._say(what)
        result = await self._offer(job)
        for attempt in range(1, TRIES):
            if result.accepted:
                break
            again = msgspec.structs.replace(job, run=f"{job.run}-{attempt}")
            await self._recovered(again)
            result = await self._offer(again)
        if result.accepted == 0:
            raise BenchError(f"no event was accepted: {result.outcomes}")
        return result

    async def _fill(self, what: str, job: Job) -> int:
        """Make a backlog of `events_max` events and return how many stand; what is refused for the moment is made
        up for. Raises BenchError when none is accepted."""
        missing = job.events_max - (await self._run(what, job)).accepted
        for attempt in range(1, TRIES):
            if missing == 0:
                break
            lines = min(job.lines, missing)
            part = {"run": f"{job.run}-rest-{attempt}", "lines": lines, "events_max": missing - missing % lines}
            rest = msgspec.structs.replace(job, **part)
            await self._recovered(rest)
            missing -= (await self._offer(rest)).accepted
        return job.events_max - missing

    async def _recovered(self, job: Job) -> None:
        """Return when a circuit that the load before opened is tried again: a machine that is busy with what is
        measured keeps Redis or the broker from answering in time."""
        self._say("  the edge refused: once more when its circuits are tried again")
        await asyncio.sleep(CIRCUIT_OPEN_S)
        await self._offer(self.loads.probe(job.run))

    async def _offer(self, job: Job) -> Result:
        result = await run_job(msgspec.structs.replace(job, edge_pid=self._running.stack.pids.edge))
        self._say(f"  {result.per_second:,.0f} events/s accepted, p99 {result.p99_ms:.1f} ms")
        self._accepted += result.accepted
        self._unknown += unknown_events(result)
        for answer, events in result.outcomes.items():
            if answer != "202":
                self._say(f"  {events:,} events answered {answer}")
        return result

    async def _drained(self) -> None:
        await self._running.until_chained(self._accepted)
        await self._running.until_relayed()
