"""The three ends of a delivery. Every delivery in every stage ends in exactly one of them."""

from dataclasses import dataclass

from schemas.codes import Code, DeadReason


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is committed; the message may go."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not now, and why. Delivered again after `delay_ms`."""

    code: Code
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Dead:
    """Never: buried in FG_DLQ before the message goes."""

    reason: DeadReason


Fate = Done | Later | Dead
DONE = Done()
