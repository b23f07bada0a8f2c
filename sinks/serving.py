"""The pools of an edge: a share of the connections for each kind of question, so that none takes another's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from schemas.answers import NoAnswer, Refusal
from schemas.codes import Code
from sinks.faults import UnexpectedAnswerError
from sinks.pg import Connection, Pool, Wrote, uncounted
from sinks.settings import PostgresSettings, edge_shares

log = logging.getLogger("sinks")

REFUSED_S = 10.0
"""So long after it refused a call the database counts as one that refuses this edge."""
STATEMENT_TIMEOUT_MS = 1_500
LOCK_TIMEOUT_MS = 1_000


class ServingPool(Pool):
    """For the reads of requests: a database that refuses us, or is not laid out, is as good as away."""

    def __init__(self, pool: Any, settings: PostgresSettings, denied: Callable[[], None], wrote: Wrote) -> None:
        super().__init__(pool, settings, denied, wrote)
        self._refusal = ""
        self._refused_s = 0.0

    @property
    def findings(self) -> list[str]:
        """What the database refused us lately."""
        recent = self._refusal and asyncio.get_running_loop().time() - self._refused_s < REFUSED_S
        return [f"the database refuses this edge: {self._refusal}"] if recent else []

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Connection]:
        """As the other pools' `lent`; whatever is no answer raises NoAnswer(STORE_UNAVAILABLE)."""
        try:
            async with super().lent() as connection:
                yield connection
        except Refusal:
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        except UnexpectedAnswerError as problem:
            self._refused(str(problem))
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None

    def _refused(self, refusal: str) -> None:
        """Every refused call is counted; what is said again and again is logged once."""
        if not self.findings or refusal != self._refusal:
            log.error("the database refuses what requests read: %s", refusal)
        self._refusal, self._refused_s = refusal, asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePools:
    """One edge's connections by what they are for."""

    lookups: ServingPool
    limits: ServingPool
    credentials: ServingPool
    reads: ServingPool
    checks: Pool
    """For the standing checks, which judge what the database answers."""

    @classmethod
    async def open(cls, settings: PostgresSettings, denied: Callable[[], None] = uncounted) -> Self:
        """Pools that connect on first use; a statement of an edge gets less time than the worker's."""
        shares = edge_shares(settings.pool_size)
        quick = replace(settings, statement_timeout_ms=STATEMENT_TIMEOUT_MS, lock_timeout_ms=LOCK_TIMEOUT_MS)
        return cls(
            lookups=await ServingPool.open(replace(quick, pool_size=shares.lookups), denied),
            limits=await ServingPool.open(replace(quick, pool_size=shares.limits), denied),
            credentials=await ServingPool.open(replace(quick, pool_size=shares.credentials), denied),
            reads=await ServingPool.open(replace(quick, pool_size=shares.reads), denied),
            checks=await Pool.open(replace(quick, pool_size=shares.checks), denied),
        )

    @property
    def findings(self) -> list[str]:
        """What the database lately refused to requests."""
        serving = (self.lookups, self.limits, self.credentials, self.reads)
        return list(dict.fromkeys(finding for pool in serving for finding in pool.findings))

    async def close(self) -> None:
        """As `Pool.close`, for all of them at once."""
        pools = (self.lookups, self.limits, self.credentials, self.reads, self.checks)
        await asyncio.gather(*(pool.close() for pool in pools))
