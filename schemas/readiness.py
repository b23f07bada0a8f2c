"""What a service says when asked whether it serves."""

from typing import NamedTuple


class Readiness(NamedTuple):
    """Why this service should get no traffic, and what it does without. Empty reasons mean ready."""

    reasons: tuple[str, ...]
    degraded: tuple[str, ...] = ()
