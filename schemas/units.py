"""Time as the project counts it: integer milliseconds since the Unix epoch, printed as RFC 3339 UTC.

Both ways are remembered: the same moments are printed and read several times on an event's way.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import NewType, Protocol

UnixMs = NewType("UnixMs", int)


class Clock(Protocol):
    """The only source of the current time; the system clock lives in `ops/clock.py`."""

    def now_ms(self) -> UnixMs: ...


@lru_cache(maxsize=1_024)
def format_rfc3339(moment_ms: UnixMs) -> str:
    """Return `2026-01-01T00:00:00.000Z`: always UTC, always three digits of milliseconds."""
    seconds, millis = divmod(moment_ms, 1000)
    return f"{_to_the_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=256)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


@lru_cache(maxsize=4_096)
def parse_rfc3339(text: str) -> UnixMs:
    """Return the moment in milliseconds, rounded down.

    Raises ValueError for anything but an RFC 3339 date-time with a zone: a date alone,
    a missing zone, a week date, a comma, or a leap second.
    """
    if len(text) < 20 or text[4] != "-" or text[7] != "-" or text[10] not in "Tt" or "," in text:
        raise ValueError("not an RFC 3339 date-time")
    if text[13] != ":" or text[16] != ":" or not text.isascii():
        raise ValueError("not an RFC 3339 date-time")
    moment = datetime.fromisoformat(text.upper())
    if moment.tzinfo is None:
        raise ValueError("a zone is required")
    whole = moment.replace(microsecond=0)
    return UnixMs(int(whole.timestamp()) * 1000 + moment.microsecond // 1000)
