"""A service told to stop ends within a bound, and says what it waited for when it did not end by itself."""

import asyncio
import faulthandler
import logging
import signal
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("ops")

STOP_S_MAX = 30.0
"""A worker stopped at a random moment under load took 4 s at most (34 stops); orchestrators kill after about 30."""
SAYING_S = 1.0


def heed_signals(told: Callable[[int], None], stop_s_max: float = STOP_S_MAX) -> None:
    """From now on SIGTERM and SIGINT call `told` with their number, from the event loop that runs.

    A process that has not ended `stop_s_max` after the first of them logs every task that is left, writes the
    stacks of its threads to standard error and exits with status 1. That is as safe as a kill: nothing that
    was not committed was acknowledged. It holds for a loop that is blocked, too, which then logs no tasks.
    """
    loop = asyncio.get_running_loop()
    armed = False

    def on_signal(number: int) -> None:
        nonlocal armed
        told(number)
        if not armed:
            armed = True
            loop.call_later(stop_s_max, _say_what_is_left)
            faulthandler.dump_traceback_later(stop_s_max + SAYING_S, exit=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _say_what_is_left() -> None:
    for task in asyncio.all_tasks():
        frames = task.get_stack()
        at = ", ".join(f"{Path(one.f_code.co_filename).name}:{one.f_lineno} {one.f_code.co_name}" for one in frames)
        log.error("told to stop, and still waiting: %s at %s", task.get_name(), at or "no line")
