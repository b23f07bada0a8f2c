"""Standing checks: the topology is the declared one, and row-level security binds this very login."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from schemas.answers import NoAnswer
from sinks.attest import Attestation, attestation
from sinks.pg import Pool
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings
from streams.stopping import set_within
from streams.topology import consumer_drift, stream_drift

log = logging.getLogger("ops")

INTERVAL_S = 55.0
RETRY_S = 1.0

Publish = Callable[[Attestation], Awaitable[list[str]]]
"""Makes an attestation known; what it returns keeps the service from being ready."""


async def unpublished(_attestation: Attestation) -> list[str]:
    """For services that keep no reports."""
    return []


class TopologyWatch:
    """Compares the live streams and consumers with the declared ones at start-up and every 55 s."""

    def __init__(self, jetstream: JetStream, settings: StreamSettings) -> None:
        self._jetstream = jetstream
        self._settings = settings
        self.findings: list[str] = ["the streams and consumers were not checked yet"]

    async def run(self, stopping: asyncio.Event) -> None:
        """Check until `stopping` is set; a broker that does not answer leaves the last check standing."""
        while not stopping.is_set():
            with suppress(NoAnswer):
                found = await self._drift()
                if found and found != self.findings:
                    log.error("the topology is not the declared one: %s", "; ".join(found))
                self.findings = found
            await set_within(stopping, RETRY_S if self.findings else INTERVAL_S)

    async def _drift(self) -> list[str]:
        try:
            streams = await stream_drift(self._jetstream, self._settings)
            return streams + await consumer_drift(self._jetstream, self._settings)
        except ApiError as failure:
            return [f"the broker refused to describe its streams ({failure.error.err_code})"]


class IsolationWatch:
    """Attests row-level security at start-up and every 55 s; any finding means not ready."""

    def __init__(self, pool: Pool, publish: Publish) -> None:
        self._pool = pool
        self._publish = publish
        self.findings: list[str] = ["row-level security was not attested yet"]
        self.store_answers = False

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            done = self.store_answers and not self.findings
            await set_within(stopping, INTERVAL_S if done else RETRY_S)

    async def check(self) -> None:
        """Attest now, and publish it. A database that does not answer leaves the last attestation standing."""
        try:
            attested = await attestation(self._pool)
        except NoAnswer:
            self.store_answers = False
            return
        found = [str(finding) for finding in attested.findings] + await self._publish(attested)
        if found and found != self.findings:
            log.error("row-level security is not attested, or nobody is told: %s", "; ".join(found))
        self.store_answers = True
        self.findings = found
