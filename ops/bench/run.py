"""One run of the bench: FrostGate under each load, then the references under the same loads."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ops.bench import references
from ops.bench.load import Job, Result, unknown_events
from ops.bench.processes import BenchError, resident_mib, run_job
from ops.bench.report import Accounts, Drain, Edge, FrostGate, Reference, Report, edge_figures, ratios
from ops.bench.requests import Sender
from ops.bench.stack import RunningStack, running_stack

TENANTS = 50
SINGLE_CONNECTIONS = 64
BATCH_CONNECTIONS = 8
BATCH_LINES = 100
STEADY_RATE = 1_000
WARM_UP_S = 1.0
FILL_S_MAX = 120.0
FRAMEWORK_MISSING = (
    "FastAPI and FastStream are not installed; `make bench` or `pip install --group bench` installs them"
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each load lasts, and the size of the backlog, a multiple of BATCH_LINES."""

    seconds: float
    backlog: int


@dataclass(frozen=True, slots=True)
class Loads:
    """The jobs of a run. Each has a name of its own in the event ids, so no event is sent twice."""

    url: str
    senders: list[Sender]
    seconds: float

    def warm_up(self) -> Job:
        return self._job("warm", SINGLE_CONNECTIONS, WARM_UP_S)

    def single(self) -> Job:
        return self._job("single", SINGLE_CONNECTIONS, self.seconds)

    def steady(self) -> Job:
        return self._job("steady", SINGLE_CONNECTIONS, self.seconds, rate=STEADY_RATE)

    def batch(self) -> Job:
        return self._job("batch", BATCH_CONNECTIONS, self.seconds, lines=BATCH_LINES)

    def backlog(self, events: int) -> Job:
        return self._job("backlog", BATCH_CONNECTIONS, FILL_S_MAX, lines=BATCH_LINES, events_max=events)

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
        )


async def run(plan: Plan, say: Say) -> Report:
    """Measure everything. Raises StartError or BenchError; on return and on failure nothing of it is left."""
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="frostgate-bench-") as scratch:
        home = Path(scratch)
        frostgate = await _frostgate(plan, home / "frostgate", say)
        bare = await _bare(plan, home / "bare", say)
        framework = await _framework(plan, home / "framework", say)
    return Report(
        version=version("frostgate"),
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        load_average=load_average,
        seconds_per_load=plan.seconds,
        frostgate=frostgate,
        bare=bare,
        framework=framework,
        ratios=ratios(frostgate, bare, framework),
    )


class _Session:
    """The loads on one running stack, and what became of every event sent to it."""

    def __init__(self, running: RunningStack, senders: list[Sender], seconds: float, say: Say) -> None:
        self._running = running
        self._say = say
        self._accepted = 0
        self._unknown = 0
        self.loads = Loads(running.stack.url, senders, seconds)

    async def send(self, what: str, job: Job) -> Edge:
        """Run one job and return its figures, once everything it sent has been decided."""
        edge = await self._measured(what, job)
        await self._drained()
        return edge

    async def drain(self, events: int) -> Drain:
        """Fill a backlog while the worker is stopped, let it go on, and time it until all is decided."""
        self._running.pause_worker()
        try:
            await self._run(f"a backlog of {events:,} events, worker stopped", self.loads.backlog(events))
            waiting = self._accepted - await self._running.chained()
            before, began = self._running.cpu(), time.perf_counter()
        finally:
            self._running.resume_worker()
        await self._drained()
        seconds = time.perf_counter() - began
        used = self._running.cpu().since(before)
        self._say(f"  {waiting / seconds:,.0f} events/s decided")
        return Drain(
            events=waiting,
            tenants=len(self.loads.senders),
            seconds=seconds,
            events_per_s=waiting / seconds,
            worker_cpu_us=used.worker / waiting,
            nats_cpu_us=used.nats / waiting,
            postgres_cpu_us=used.postgres / waiting,
        )

    async def accounts(self) -> Accounts:
        decided, dead = await self._running.outcomes()
        return Accounts(accepted=self._accepted, unknown=self._unknown, decided=decided, dead=dead)

    async def _measured(self, what: str, job: Job) -> Edge:
        before = self._running.cpu()
        result = await self._run(what, job)
        used = self._running.cpu().since(before)
        return edge_figures(result, used.edge, used.nats)

    async def _run(self, what: str, job: Job) -> Result:
        self._say(what)
        result = await run_job(job)
        self._say(f"  {result.per_second:,.0f} events/s accepted, p99 {result.p99_ms:.1f} ms")
        self._accepted += result.accepted
        self._unknown += unknown_events(result)
        if result.accepted == 0:
            raise BenchError(f"no event was accepted: {result.outcomes}")
        return result

    async def _drained(self) -> None:
        await self._running.until_chained(self._accepted)


async def _frostgate(plan: Plan, home: Path, say: Say) -> FrostGate:
    say("starting FrostGate: frostgate up, in a directory of its own")
    async with running_stack(home) as running:
        say(f"  ready after {running.start_s:.1f} s")
        session = _Session(running, await running.senders(TENANTS), plan.seconds, say)
        loads = session.loads
        await session.send("warming up", loads.warm_up())
        single = await session.send(f"single events, {SINGLE_CONNECTIONS} connections", loads.single())
        steady = await session.send(f"single events, {STEADY_RATE:,}/s steady", loads.steady())
        batch = await session.send(f"batches of {BATCH_LINES}, {BATCH_CONNECTIONS} connections", loads.batch())
        drain = await session.drain(plan.backlog)
        running.check_whole()
        return FrostGate(
            start_s=running.start_s,
            single=single,
            steady=steady,
            batch=batch,
            drain=drain,
            edge_mib=resident_mib(running.stack.pids.edge),
            worker_mib=resident_mib(running.stack.pids.worker),
            accounts=await session.accounts(),
        )


async def _bare(plan: Plan, home: Path, say: Say) -> Reference:
    say("reference: the bare limit, single events and batches")
    single, batch = await references.measure(
        references.BARE, home, lambda url: _reference_jobs(url, plan, Loads.single, Loads.batch)
    )
    say(f"  {single.events_per_s:,.0f} and {batch.events_per_s:,.0f} events/s accepted")
    return Reference(single=single, batch=batch)


async def _framework(plan: Plan, home: Path, say: Say) -> Reference:
    if not references.framework_installed():
        return Reference(not_measured=FRAMEWORK_MISSING)
    say("reference: FastAPI + FastStream, single events")
    (single,) = await references.measure(
        references.FRAMEWORK, home, lambda url: _reference_jobs(url, plan, Loads.single)
    )
    say(f"  {single.events_per_s:,.0f} events/s accepted")
    return Reference(single=single)


def _reference_jobs(url: str, plan: Plan, *wanted: Callable[[Loads], Job]) -> list[Job]:
    """The warm-up and the wanted jobs. References check no credential, so their senders need none that is valid."""
    senders = [Sender(f"bench-{number:03d}", "none") for number in range(TENANTS)]
    loads = Loads(url, senders, plan.seconds)
    return [make(loads) for make in (Loads.warm_up, *wanted)]
