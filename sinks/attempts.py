"""How often each event was tried in a stage because of its own failures."""

from collections.abc import Sequence

from schemas.units import Clock, UnixMs, format_rfc3339
from sinks.dead_letters import EVENT_ID_CHARACTERS_MAX, fitting
from sinks.pg import Pool
from sinks.waiting_letters import TENANTS_AT_ONCE

MS_PER_S = 1_000
Identity = tuple[str, str]

_MADE = """
SELECT a.tenant_id, a.event_id, a.attempt
FROM attempts AS a
JOIN unnest($1::text[], $2::text[]) AS e (tenant_id, event_id) USING (tenant_id, event_id)
WHERE a.stage = $3 AND a.first_attempt_at > $4::text::timestamptz
"""
_DROP_OLD = """
DELETE FROM attempts AS a USING unnest($1::text[], $2::text[]) AS e (tenant_id, event_id)
WHERE (a.tenant_id, a.event_id, a.stage) = (e.tenant_id, e.event_id, $3)
    AND a.first_attempt_at <= $4::text::timestamptz
"""
_BEGIN = """
INSERT INTO attempts AS old (tenant_id, event_id, stage, attempt, first_attempt_at, last_attempt_at)
SELECT e.tenant_id, e.event_id, $3, 1, $4::text::timestamptz, $4::text::timestamptz
FROM unnest($1::text[], $2::text[]) AS e (tenant_id, event_id)
ON CONFLICT (tenant_id, event_id, stage) DO UPDATE SET
    attempt = old.attempt + 1, last_attempt_at = greatest(old.last_attempt_at, EXCLUDED.last_attempt_at)
RETURNING tenant_id, event_id, attempt
"""
# Locked first, so that what counts an attempt meanwhile is seen by both halves of what follows.
_HOLD = """
SELECT FROM attempts AS a JOIN unnest($1::text[], $2::text[]) AS e (tenant_id, event_id) USING (tenant_id, event_id)
WHERE a.stage = $3 ORDER BY a.tenant_id, a.event_id FOR UPDATE OF a
"""
_GIVE_BACK = """
WITH event AS (
    SELECT * FROM unnest($1::text[], $2::text[], $4::integer[]) AS e (tenant_id, event_id, counted)
), counted_once AS (
    DELETE FROM attempts AS a USING event AS e
    WHERE (a.tenant_id, a.event_id, a.stage) = (e.tenant_id, e.event_id, $3) AND a.attempt = e.counted AND a.attempt = 1
)
UPDATE attempts AS a SET attempt = a.attempt - 1 FROM event AS e
WHERE (a.tenant_id, a.event_id, a.stage) = (e.tenant_id, e.event_id, $3) AND a.attempt = e.counted AND a.attempt > 1
"""
_FORGET = """
DELETE FROM attempts AS a USING unnest($1::text[], $2::text[]) AS e (tenant_id, event_id)
WHERE (a.tenant_id, a.event_id, a.stage) = (e.tenant_id, e.event_id, $3)
"""
_TENANTS = "SELECT tenant_id FROM tenants ORDER BY tenant_id"
_DROP_ALL_OLD = """
DELETE FROM attempts WHERE (tenant_id, event_id, stage) IN (
    SELECT tenant_id, event_id, stage FROM attempts WHERE first_attempt_at <= $1::text::timestamptz
    FOR UPDATE SKIP LOCKED
)
"""


class Attempts:
    """Counts within a window that begins with an event's first attempt in a stage; after it, counting starts anew."""

    def __init__(self, pool: Pool, window_s: int, clock: Clock) -> None:
        self._pool = pool
        self._window_ms = window_s * MS_PER_S
        self._clock = clock

    async def made(self, stage: str, events: Sequence[Identity]) -> list[int]:
        """How many attempts each event has had. Raises NoAnswer."""
        stored = [_storable(event) for event in events]
        async with self._pool.tenant_transaction(_tenants(stored)) as connection:
            rows = await connection.fetch(_MADE, *_columns(stored), stage, self._window_start(self._clock.now_ms()))
        made = {(row["tenant_id"], row["event_id"]): row["attempt"] for row in rows}
        return [made.get(event, 0) for event in stored]

    async def begin(self, stage: str, events: Sequence[Identity]) -> list[int]:
        """Count one more attempt for each event, committed on return; an event named twice is counted once.

        Returns the number of each one's attempt, the first being 1. Raises NoAnswer: the attempt may
        or may not have been counted.
        """
        stored = [_storable(event) for event in events]
        now_ms = self._clock.now_ms()
        async with self._pool.tenant_transaction(_tenants(stored)) as connection:
            columns = _columns(stored)
            await connection.execute(_DROP_OLD, *columns, stage, self._window_start(now_ms))
            rows = await connection.fetch(_BEGIN, *columns, stage, format_rfc3339(now_ms))
        begun = {(row["tenant_id"], row["event_id"]): row["attempt"] for row in rows}
        return [begun[event] for event in stored]

    async def give_back(self, stage: str, events: Sequence[Identity], counted: Sequence[int]) -> None:
        """Take the attempt with the number `counted` off each event whose latest it is; those before it stay.

        Raises NoAnswer: it may or may not have been taken off. Giving back again takes off nothing more.
        """
        stored = [_storable(event) for event in events]
        latest = dict(sorted(zip(stored, counted, strict=True)))
        async with self._pool.tenant_transaction(_tenants(stored)) as connection:
            columns = _columns(stored)
            await connection.execute(_HOLD, *columns, stage)
            await connection.execute(_GIVE_BACK, *columns, stage, list(latest.values()))

    async def forget(self, stage: str, events: Sequence[Identity]) -> None:
        """The events are through: their next failure is their first. Raises NoAnswer."""
        stored = [_storable(event) for event in events]
        async with self._pool.tenant_transaction(_tenants(stored)) as connection:
            await connection.execute(_FORGET, *_columns(stored), stage)

    async def drop_old(self) -> None:
        """Drop what no window holds any more, of every tenant: nobody forgets a count whose event got through unseen.

        Raises NoAnswer.
        """
        until = self._window_start(self._clock.now_ms())
        async with self._pool.connection() as connection:
            tenant_ids = [row[0] for row in await connection.fetch(_TENANTS)]
        for begin in range(0, len(tenant_ids), TENANTS_AT_ONCE):
            async with self._pool.tenant_transaction(tenant_ids[begin : begin + TENANTS_AT_ONCE]) as connection:
                await connection.execute(_DROP_ALL_OLD, until)

    def _window_start(self, now_ms: UnixMs) -> str:
        """What began by then is over."""
        return format_rfc3339(UnixMs(now_ms - self._window_ms))


def _storable(event: Identity) -> Identity:
    """The event under the id its dead letter would have: it may have been read out of a broken message."""
    return event[0], fitting(event[1], EVENT_ID_CHARACTERS_MAX)


def _tenants(events: Sequence[Identity]) -> list[str]:
    return sorted({tenant_id for tenant_id, _ in events})


def _columns(events: Sequence[Identity]) -> tuple[list[str], list[str]]:
    """Each event once, always in the same order, in which their rows are locked."""
    ordered = sorted(set(events))
    return [tenant_id for tenant_id, _ in ordered], [event_id for _, event_id in ordered]
