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

from ops.bench import checks, references
from ops.bench.certificates import make_certificates
from ops.bench.figures import figures
from ops.bench.job import ClientTls, Job
from ops.bench.loads import BATCH_CONNECTIONS, BATCH_LINES, SINGLE_CONNECTIONS, STEADY_RATE, TENANTS, Loads
from ops.bench.processes import answered, resident_mib, spared_core
from ops.bench.report import Accounts, Checks, Connections, Edge, FrostGate, Reference, Report, Workers
from ops.bench.requests import AGENT_ID, Sender
from ops.bench.session import Say, Session
from ops.bench.stack import RunningStack, running_stack, tenant_name
from ops.clock import SystemClock

EDGES = 2
CHECK_S_MAX = 1.0
FRAMEWORK_MISSING = (
    "FastAPI and FastStream are not installed; `make bench` or `pip install --group bench` installs them"
)


class Part(StrEnum):
    LOADS = "loads"
    CHECKS = "checks"
    CONNECTIONS = "connections"
    WORKERS = "workers"
    REFERENCES = "references"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, how long each load lasts, and the size of the backlog, a multiple of BATCH_LINES."""

    parts: frozenset[Part]
    seconds: float
    backlog: int


async def run(plan: Plan, say: Say) -> Report:
    """Measure everything. Raises StartError or BenchError; on return and on failure nothing of it is left."""
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="frostgate-bench-") as scratch:
        measuring = _Run(plan, Path(scratch), say, spared_core())
        if plan.parts != {Part.REFERENCES}:
            await measuring.one_edge()
        if Part.CHECKS in plan.parts:
            await measuring.mutual_tls()
        if Part.WORKERS in plan.parts:
            await measuring.more_edges()
        if Part.REFERENCES in plan.parts:
            await measuring.references()
    return measuring.report(load_average)


class _Run:
    """Stacks one after the other, never two at once; each measurement is kept as it is found."""

    def __init__(self, plan: Plan, home: Path, say: Say, core: int | None) -> None:
        self._plan = plan
        self._home = home
        self._say = say
        self._core = core
        self._accounts: dict[str, Accounts] = {}
        self._frostgate: FrostGate | None = None
        self._single_apart: Edge | None = None
        self._two: Edge | None = None
        self._costs: checks.Costs | None = None
        self._plain: Edge | None = None
        self._mutual_tls: Edge | None = None
        self._handshake_us = 0.0
        self._connections: Connections | None = None
        self._bare = Reference(not_measured="not asked for")
        self._framework = Reference(not_measured="not asked for")
