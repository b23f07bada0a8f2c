"""Keeping a program running: when it ends, it is started again, ever more slowly while it keeps ending."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from ops.embedded.process import Child, StartError

DELAY_S_FIRST = 0.25
DELAY_S_MAX = 5.0
HEALTHY_S = 30.0

Say = Callable[[str], None]


class Kept:
    """A started program that is kept running. Only `keep` starts it again, and it never gives up."""

    def __init__(self, child: Child, start: Callable[[], Awaitable[Child]], say: Say) -> None:
        self.child = child
        self._start = start
        self._say = say

    async def keep(self, restarted: Callable[[], None]) -> NoReturn:
        """Whenever it ends, start it again and call `restarted`."""
        clock = asyncio.get_running_loop().time
        delay_s = DELAY_S_FIRST
        while True:
            began = clock()
            status = await self.child.wait()
            if clock() - began >= HEALTHY_S:
                delay_s = DELAY_S_FIRST
            name, log_file = self.child.command.name, self.child.log_file
            self._say(f"{name} ended with status {status}; starting it again in {delay_s} s (its log: {log_file})")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, DELAY_S_MAX)
            try:
                self.child = await self._start()
            except StartError as failure:
                self._say(str(failure))
            else:
                restarted()
