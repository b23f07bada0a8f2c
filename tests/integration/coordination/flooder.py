"""One of many edges in a flood: reads one JSON line, says `ready`, and on the next line asks without pause.

In: {url, tenant, rate, burst, asks, ids_max, seed}. Out: how many events were admitted.
"""

import asyncio
import json
import random
import sys

from edge.coordination import RedisCoordination
from edge.ports import Ask, Budget
from edge.redis_store import redis_client
from edge.settings import EdgeSettings

PATIENT = EdgeSettings(integrity_required=False, event_age_ms_max=1_000, redis_timeout_ms=10_000)
"""Every charge shall be counted, so no answer is given up, however busy the machine."""


async def main() -> None:
    task = json.loads(sys.stdin.readline())
    chance = random.Random(task["seed"])
    coordination = RedisCoordination(redis_client(task["url"]), PATIENT)
    budget = Budget(task["rate"], task["burst"])
    await coordination.admit(Ask(task["tenant"], [], budget))
    print("ready", flush=True)
    sys.stdin.readline()
    admitted = 0
    for number in range(task["asks"]):
        ids = [f"{task['seed']}-{number}-{event}" for event in range(chance.randint(1, task["ids_max"]))]
        admitted += sum((await coordination.admit(Ask(task["tenant"], ids, budget))).admitted)
    await coordination.close()
    print(admitted, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
