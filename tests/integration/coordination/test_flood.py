"""Eight edge processes together admit no more of one tenant than its burst and its rate."""

import asyncio
import json
import secrets
import sys
from asyncio.subprocess import PIPE, Process

import pytest
from redis.asyncio import Redis

from ops.embedded import EmbeddedServers
from tests.integration.coordination.test_budgets import now_us

PROCESSES = 8
BOUND_S = 60


async def start(task: dict[str, object]) -> Process:
    """A process that is connected and waits for the word."""
    flooder = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.coordination.flooder", stdin=PIPE, stdout=PIPE
    )
    assert flooder.stdin is not None
    assert flooder.stdout is not None
    flooder.stdin.write(json.dumps(task).encode() + b"\n")
    assert await flooder.stdout.readline() == b"ready\n"
    return flooder


@pytest.mark.parametrize(("rate", "burst"), [(200.0, 120), (7.5, 1)])
async def test_a_flood_from_eight_processes_gets_the_burst_and_the_rate(
    store: EmbeddedServers, admin: "Redis", tenant: str, rate: float, burst: int
) -> None:
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    task = {"url": store.redis_url, "tenant": tenant, "rate": rate, "burst": burst, "asks": 200, "ids_max": 5}
    async with asyncio.timeout(BOUND_S):
        flooders = await asyncio.gather(*(start(task | {"seed": seed + number}) for number in range(PROCESSES)))
        begun_us = await now_us(admin)
        counts = [said for said, _ in await asyncio.gather(*(one.communicate(b"go\n") for one in flooders))]
        passed_s = (await now_us(admin) - begun_us) / 1e6
    admitted = sum(map(int, counts))
    assert burst <= admitted <= burst + rate * passed_s + 1
