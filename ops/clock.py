"""The system's time and the identifiers made of it: the one place that asks the machine for either."""

import secrets
import time

import uuid_utils

from schemas.units import UnixMs


class SystemClock:
    """The machine's wall clock. Implements `schemas.units.Clock`."""

    def now_ms(self) -> UnixMs:
        return UnixMs(time.time_ns() // 1_000_000)  # noqa: TID251  (this is the Clock everyone else takes)


def new_uuid7() -> str:
    """Return a fresh lower-case UUIDv7: 48 bits of time in milliseconds, the rest random."""
    return str(uuid_utils.uuid7())


def new_span_id() -> str:
    """Return a fresh span id: 16 lower-case hex digits."""
    return secrets.token_hex(8)
