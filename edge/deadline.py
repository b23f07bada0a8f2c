"""A deadline that counts the other side's time, not our own.

A timer that fires after this process was kept from running would refuse an answer that lies in the
socket already: under load that turned a healthy store into a failing one.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")

TURNS = 5
"""The time is counted in so many equal turns; one that ends late, because we were late, counts as one."""


async def within(timeout_ms: int, call: Coroutine[Any, Any, Answer]) -> Answer:
    """The call's answer. Raises TimeoutError once it has not come for `timeout_ms`; the call is cancelled then."""
    task = asyncio.get_running_loop().create_task(call)
    try:
        for _ in range(TURNS):
            if (await asyncio.wait({task}, timeout=timeout_ms / TURNS / 1000))[0]:
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen, so that nobody reports it as forgotten; the deadline is the answer
