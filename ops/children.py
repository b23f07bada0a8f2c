"""Keeping a program running: when it ends, it is started again, ever more slowly while it keeps ending."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from ops.embedded.process import Child, StartError

DELAY_S_FIRST = 0.25
DELAY_S_MAX = 5.0
HEALTHY_S = 30.0

_CODE = Path(__file__).resolve().parents[1]
_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ops.cli import main; main()"

Say = Callable[[str], None]


def this_program(*arguments: str) -> tuple[str, ...]:
    """A command line of the very code this process runs, wherever it was started and whatever else is installed."""
    return (sys.executable, "-P", "-c", _RUN, str(_CODE), *arguments)


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
            log = f" (its log: {self.child.log_file})" if self.child.log_file else ""
            self._say(f"{self.child.command.name} ended with status {status}; starting it again in {delay_s} s{log}")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, DELAY_S_MAX)
            try:
                self.child = await self._start()
            except StartError as failure:
                self._say(str(failure))
            else:
                restarted()
