"""Kills processes of a running stack, -9, one at a time at random moments; its supervisor starts them again."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

VICTIMS = ("worker", "edge", "postgres", "nats")
PAUSE_S = (1.0, 5.0)


class Strike(NamedTuple):
    after_s: float
    victim: str


class _Running(msgspec.Struct):
    pids: dict[str, int]


def plan(seed: int, seconds: float) -> list[Strike]:
    """The strikes of a run: the same seed makes the same ones. Every victim is struck at least once."""
    chance = random.Random(seed)  # noqa: S311  (a run to repeat, not a secret)
    first = list(VICTIMS)
    chance.shuffle(first)
    strikes: list[Strike] = []
    after_s = chance.uniform(*PAUSE_S)
    while after_s < seconds:
        victim = first.pop() if first else chance.choice(VICTIMS)
        strikes.append(Strike(after_s, victim))
        after_s += chance.uniform(*PAUSE_S)
    return strikes


def pids(stack_file: Path) -> dict[str, int]:
    """The present processes of the stack: restarted ones have new ids."""
    return msgspec.json.decode(stack_file.read_bytes(), type=_Running).pids


def run(stack_file: Path, strikes: list[Strike], say: Callable[[str], None]) -> int:
    """Carry the strikes out; returns how many met a living process. One that is just being started is passed over."""
    began_s = time.monotonic()
    met = 0
    for strike in strikes:
        time.sleep(max(0.0, began_s + strike.after_s - time.monotonic()))
        pid = pids(stack_file)[strike.victim]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            say(f"{strike.after_s:5.1f} s {strike.victim} is down already")
        else:
            met += 1
            say(f"{strike.after_s:5.1f} s killed {strike.victim} (pid {pid})")
    return met
