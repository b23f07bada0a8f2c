"""The three ends of a delivery. Every delivery in every stage ends in exactly one of them."""

from dataclasses import dataclass

from schemas.codes import DeadReason


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is committed; the message may go."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not now: the queue behind this stage is full for this tenant. Delivered again after `delay_ms`."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Dead:
    """Never: buried in FG_DLQ before the message goes."""

    reason: DeadReason


Fate = Done | Later | Dead
DONE = Done()
