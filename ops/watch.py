"""Standing checks of what the sinks promise: row-level security binds this very login."""

import asyncio
import logging

from schemas.answers import NoAnswer
from sinks.attest import findings
from sinks.pg import Pool

log = logging.getLogger("ops")

INTERVAL_S = 55.0
RETRY_S = 1.0


class IsolationWatch:
    """Attests row-level security at start-up and every 55 s; any finding means not ready."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.findings: list[str] = ["row-level security was not attested yet"]
        self.store_answers = False

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            done = self.store_answers and not self.findings
            try:
                async with asyncio.timeout(INTERVAL_S if done else RETRY_S):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def check(self) -> None:
        """Attest now. A database that does not answer leaves the last attestation standing."""
        try:
            found = await findings(self._pool)
        except NoAnswer:
            self.store_answers = False
            return
        if found and found != self.findings:
            log.error("row-level security is not attested: %s", "; ".join(found))
        self.store_answers = True
        self.findings = found
