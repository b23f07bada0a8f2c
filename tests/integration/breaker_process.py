"""An edge process reduced to its breakers: does what its standard input says, a line each, and answers with a line."""

import asyncio
import json
import sys

from edge import probes as counting
from edge.breaker import Breakers
from edge.circuit import SAMPLES_MIN
from edge.ports import NO_PROBE, CircuitOpen, Component, Ticket
from edge.redis_store import redis_client
from edge.settings import BreakerSettings
from ops.clock import SystemClock
from ops.telemetry import PrometheusMeter


async def main(url: str, tenant_id: str, probes: int) -> None:
    counting.ANSWER_MS_MAX = 30_000  # who has no answer counts for itself, and on a busy machine 50 ms are short
    settings = BreakerSettings(
        error_rate_threshold=0.08, latency_p95_ms=60_000, open_seconds=1, half_open_probes=probes
    )
    client = redis_client(url)
    breakers = Breakers(client, settings, SystemClock(), PrometheusMeter("edge"), lambda: None)
    tickets: list[Ticket] = []

    async def passes() -> bool:
        try:
            tickets.append(await breakers.enter(Component.STREAM, tenant_id))
        except CircuitOpen:
            return False
        return True

    def record(*, failed: bool, calls: int = 1, ticket: Ticket = NO_PROBE, of: str | None = tenant_id) -> None:
        for _ in range(calls):
            breakers.record(Component.STREAM, of, ticket, failed=failed, elapsed_ms=1.0)

    async def did(word: str) -> object:
        match word:
            case "trip":  # the others' calls went well, so that it is this tenant's circuit alone
                record(failed=False, calls=20 * SAMPLES_MIN, of=None)
                record(failed=True, calls=SAMPLES_MIN)
            case "enter":
                return sum(await asyncio.gather(*(passes() for _ in range(50))))
            case "fail" | "pass":
                record(failed=word == "fail", ticket=tickets.pop())
                await breakers.close()
        return breakers.states()

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        sys.stdout.write(json.dumps(await did(line.strip())) + "\n")
        sys.stdout.flush()
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.stdin.readline().strip(), sys.argv[1], int(sys.argv[2])))
