"""One run of the bench: FrostGate under each load, then the references under the same loads."""

import os
import platform
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from ops.bench import checks, references, verifier
from ops.bench.certificates import Certificates, make_certificates
from ops.bench.figures import figures, pipeline_figures, verifier_figures
from ops.bench.job import ClientTls, Job
from ops.bench.loads import BATCH_CONNECTIONS, BATCH_LINES, SINGLE_CONNECTIONS, STEADY_RATE, TENANTS, Loads
from ops.bench.processes import answered, resident_mib, spared_core
from ops.bench.report import (
    Accounts,
    Backlog,
    Checks,
    Connections,
    Edge,
    FrostGate,
    Pipeline,
    Reference,
    Report,
    Verifier,
    Workers,
)
from ops.bench.requests import AGENT_ID, Sender
from ops.bench.session import Say, Session
from ops.bench.stack import RunningStack, running_stack, tenant_name
from ops.clock import SystemClock
from ops.settings import load

CHECK_S_MAX = 1.0
FRAMEWORK_MISSING = (
    "FastAPI and FastStream are not installed; `make bench` or `pip install --group bench` installs them"
)


class Part(StrEnum):
    LOADS = "loads"
    CHECKS = "checks"
    CONNECTIONS = "connections"
    WORKERS = "workers"
    PIPELINE = "pipeline"
    BACKLOG = "backlog"
    VERIFIER = "verifier"
    REFERENCES = "references"


PARTS_BY_DEFAULT = frozenset(Part) - {Part.BACKLOG}
"""A backlog of a million events takes many minutes: it is measured when asked for."""
LONG_BACKLOG_TIMES = 20
"""The long backlog is so many times the other one: a million events by default."""
LONG_BACKLOG_TENANTS = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, how long each load lasts, and the sizes: of the backlog, a multiple of BATCH_LINES, and of
    the bundle that is verified."""

    parts: frozenset[Part]
    seconds: float
    backlog: int
    entries: int


class _OneEdge(NamedTuple):
    """What was measured on a stack as it comes; None where it was not asked for."""

    frostgate: FrostGate | None
    single_apart: Edge | None
    connections: Connections | None
    pipeline: Pipeline | None
    costs: checks.Costs | None
    one_tenant: Edge | None


async def run(plan: Plan, say: Say) -> Report:
    """Measure everything. Raises StartError or BenchError; on return and on failure nothing of it is left."""
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="frostgate-bench-") as scratch:
        bench = _Bench(plan, Path(scratch), say)
        one = await bench.one_edge()
        checked = await bench.mutual_tls(one.costs, one.one_tenant) if one.costs and one.one_tenant else None
        workers = None
        if Part.WORKERS in plan.parts and one.single_apart:
            workers = await bench.two_edges(one.single_apart)
        backlog = await bench.long_backlog() if Part.BACKLOG in plan.parts else None
        bare, framework = await bench.reference_edges()
        verified = await bench.verifier() if Part.VERIFIER in plan.parts else None
    return Report(
        version=version("frostgate"),
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        load_average=load_average,
        seconds_per_load=plan.seconds,
        frostgate=one.frostgate,
        checks=checked,
        connections=one.connections,
        workers=workers,
        pipeline=one.pipeline,
        backlog=backlog,
        verifier=verified,
        bare=bare,
        framework=framework,
        accounts=bench.accounts,
        figures=[
            *figures(one.frostgate, bare, framework, one.connections, workers),
            *pipeline_figures(one.frostgate, one.pipeline, backlog),
            *verifier_figures(verified),
        ],
    )


class _Bench:
    """Stacks one after the other, never two at once, and the accounts of each."""

    def __init__(self, plan: Plan, home: Path, say: Say) -> None:
        self._plan = plan
        self._home = home
        self._say = say
        self._core = spared_core()
        self.accounts: dict[str, Accounts] = {}

    async def one_edge(self) -> _OneEdge:
        parts = self._plan.parts
        if not parts - {Part.REFERENCES, Part.BACKLOG, Part.VERIFIER}:
            return _OneEdge(None, None, None, None, None, None)
        async with self._stack("one edge", TENANTS) as (running, session):
            frostgate = await self._loads(running, session) if Part.LOADS in parts else None
            single_apart = None if frostgate is None else frostgate.single_apart
            if single_apart is None and Part.WORKERS in parts:
                single_apart = await self._single_apart(session)
            costs = one_tenant = None
            if Part.CHECKS in parts:
                costs = await self._costs(running, session)
                one_tenant = await session.send_apart("single events of 1 tenant, plain", session.loads.one_tenant())
            pipeline = await self._pipeline(session) if Part.PIPELINE in parts else None
            # Last: what slow senders may have done to the edge must not be in the other figures.
            held = await session.bear() if Part.CONNECTIONS in parts else None
        return _OneEdge(frostgate, single_apart, held, pipeline, costs, one_tenant)

    async def mutual_tls(self, costs: checks.Costs, plain: Edge) -> Checks:
        """The load of one tenant that `plain` is of, on an edge that asks for client certificates."""
        certificates = make_certificates(self._home, tenant_name(0), AGENT_ID, SystemClock())
        mtls_us = await self._mtls_us(certificates)
        async with self._stack("mTLS", 1, (), certificates.edge, certificates.client) as (_, session):
            mutual_tls = await session.send_apart("single events of 1 tenant, mTLS", session.loads.one_tenant())
        return Checks(
            contract_us=costs.contract_us,
            limits_us=costs.limits_us,
            signature_us=costs.signature_us,
            mtls_us=mtls_us,
            plain=plain,
            mutual_tls=mutual_tls,
        )

    async def _mtls_us(self, certificates: Certificates) -> float:
        self._say("requests answered at once, over plain HTTP and over mTLS")
        (plain,) = await references.measure_answering(
            self._home / "answering", self._reference_jobs(Loads.single), tls=None
        )
        (mutual_tls,) = await references.measure_answering(
            self._home / "answering-tls",
            self._reference_jobs(Loads.single, tls=certificates.client),
            load(certificates.edge).tls,
        )
        return mutual_tls.edge_cpu_us - plain.edge_cpu_us

    async def two_edges(self, one: Edge) -> Workers:
        async with self._stack("two edges", TENANTS, ("--workers", "2")) as (_, session):
            two = await self._single_apart(session)
        return Workers(one=one, two=two, generator_apart=self._core is not None)

    async def verifier(self) -> Verifier:
        self._say(f"the offline verifier: a bundle of {self._plan.entries:,} entries, made and verified")
        return await verifier.measure(self._home, self._plan.entries)

    async def reference_edges(self) -> tuple[Reference, Reference]:
        if Part.REFERENCES not in self._plan.parts:
            return Reference(), Reference()
        return await self._bare(), await self._framework()

    @asynccontextmanager
    async def _stack(
        self,
        name: str,
        tenants: int,
        arguments: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        tls: ClientTls | None = None,
    ) -> AsyncIterator[tuple[RunningStack, Session]]:
        """A stack that is warm; on leaving the block its accounts are kept."""
        self._say(f"starting FrostGate in a directory of its own: {name}")
        async with running_stack(self._home / name.replace(" ", "-"), arguments, settings) as running:
            self._say(f"  ready after {running.start_s:.1f} s")
            loads = Loads(running.stack.url, await running.senders(tenants), self._plan.seconds, tls, self._core)
            session = Session(running, loads, self._say)
            await session.send("warming up", loads.warm_up())
            yield running, session
            self.accounts[name] = await session.end()

    async def _loads(self, running: RunningStack, session: Session) -> FrostGate:
        loads = session.loads
        single_apart = await self._single_apart(session)
        single = await session.send(f"single events, {SINGLE_CONNECTIONS} connections, draining", loads.single())
        steady = await session.send(f"single events, {STEADY_RATE:,}/s steady", loads.steady())
        batches = f"batches of {BATCH_LINES}, {BATCH_CONNECTIONS} connections"
        batch_apart = await session.send_apart(f"{batches}, worker stopped", loads.batch_apart())
        batch = await session.send(f"{batches}, draining", loads.batch())
        drain = await session.drain(loads.backlog(self._plan.backlog))
        return FrostGate(
            start_s=running.start_s,
            single=single,
            single_apart=single_apart,
            steady=steady,
            batch=batch,
            batch_apart=batch_apart,
            drain=drain,
            edge_mib=resident_mib(running.stack.pids.edge),
            worker_mib=resident_mib(running.stack.pids.worker),
        )

    async def _pipeline(self, session: Session) -> Pipeline:
        loads, events = session.loads, self._plan.backlog
        one_tenant = await session.drain(loads.backlog_of_one(events))
        stages = await session.stages(loads.backlog(events, "backlog-stages"))
        return Pipeline(one_tenant=one_tenant, stages=stages, latencies=await session.latencies())

    async def long_backlog(self) -> Backlog:
        async with self._stack("long backlog", LONG_BACKLOG_TENANTS) as (_, session):
            return await session.stand_before(session.loads.backlog(LONG_BACKLOG_TIMES * self._plan.backlog))

    async def _single_apart(self, session: Session) -> Edge:
        what = f"single events, {SINGLE_CONNECTIONS} connections, worker stopped"
        return await session.send_apart(what, session.loads.single_apart())

    async def _costs(self, running: RunningStack, session: Session) -> checks.Costs:
        self._say("contract, limits and signature, each by itself")
        stack = running.stack
        tenant_ids = [sender.tenant_id for sender in session.loads.senders]
        job = checks.Job(stack.redis_url, stack.postgres_dsn, tenant_ids, min(self._plan.seconds, CHECK_S_MAX))
        return await answered("ops.bench.checks", job, checks.Costs)

    async def _bare(self) -> Reference:
        self._say("reference: the bare limit, single events and batches")
        jobs = self._reference_jobs(Loads.single, Loads.batch)
        single, batch = await references.measure(references.BARE, self._home / "bare", jobs)
        self._say(f"  {single.events_per_s:,.0f} and {batch.events_per_s:,.0f} events/s accepted")
        return Reference(single=single, batch=batch)

    async def _framework(self) -> Reference:
        if not references.framework_installed():
            return Reference(not_measured=FRAMEWORK_MISSING)
        self._say("reference: FastAPI + FastStream, single events")
        jobs = self._reference_jobs(Loads.single)
        (single,) = await references.measure(references.FRAMEWORK, self._home / "framework", jobs)
        self._say(f"  {single.events_per_s:,.0f} events/s accepted")
        return Reference(single=single)

    def _reference_jobs(self, *wanted: Callable[[Loads], Job], tls: ClientTls | None = None) -> references.Jobs:
        """The warm-up and the wanted jobs. References check no credential, so their senders need none that is valid."""
        senders = [Sender(tenant_name(number), "none") for number in range(TENANTS)]

        def jobs(url: str) -> list[Job]:
            loads = Loads(url, senders, self._plan.seconds, tls, self._core)
            return [make(loads) for make in (Loads.warm_up, *wanted)]

        return jobs
