"""Letting go of raw events, event keys and dead letters that no plan keeps any longer.

The chain, the decisions and the sealed artifacts are never touched: an entry still proves what
happened after the raw event has gone. All deletes run as the role `fg_retention`, which may read and
delete in three tables, one tenant at a time, and nothing else. What is old, the database's clock says.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from sinks.pg import Connection, Pool
from sinks.tenants import UnknownTenantError

BATCH_ROWS = 10_000
STATEMENT_TIMEOUT_MS = 60_000
"""What the pool has to allow: counting a day of one large tenant, and taking a batch of it, may take this long."""

_PARTITIONS = """
SELECT day FROM (
    SELECT to_date(substr(inhrelid::regclass::text, length('ingest_events_') + 1), 'YYYYMMDD') AS day
    FROM pg_inherits WHERE inhparent = 'ingest_events'::regclass
) AS partitions
"""
_DAYS = f"{_PARTITIONS} WHERE day < (now() AT TIME ZONE 'UTC')::date - greatest($1::integer, 7) ORDER BY day"
_DAYS_BEFORE = f"{_PARTITIONS} WHERE day < ($1 AT TIME ZONE 'UTC')::date ORDER BY day"
_TIERS = "SELECT DISTINCT plan_tier FROM tenants"
_LIMITS = """
SELECT set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', '30000', true)
"""
# Two runs that count the same day would each wait for the other's look at it to end: whoever comes second waits here.
_TURN = "SELECT pg_advisory_xact_lock('ingest_events'::regclass::integer, 1)"
_BRIEFLY = "SELECT set_config('lock_timeout', '2000', true)"
_NOTE_DAY = "SELECT events FROM app.note_dropped_day(ARRAY[$1::text], $2, $3)"
_DROP_DAY = "SELECT app.drop_ingest_partition($1, $2::jsonb)"

# The bounds are whole UTC days for the plan, as the partitions are; keys and letters have a least age besides.
_BOUNDS = """
SELECT plan_until, least(plan_until, now() - make_interval(secs => $3)),
    least(plan_until, now() - make_interval(secs => $4))
FROM tenants, LATERAL (
    SELECT ((now() AT TIME ZONE 'UTC')::date - ($2::jsonb ->> plan_tier)::integer)::timestamp AT TIME ZONE 'UTC'
) AS of_plan (plan_until)
WHERE tenant_id = $1
"""
# A page of one index at a time, as they are taken: no index leads to what is old, and a tenant may have any number.
_EVENTS_PAGE = """
SELECT count(*), max(event_id) FROM (
    SELECT event_id FROM ingest_events
    WHERE tenant_id = $1 AND event_id > $4 AND ingest_ts >= $2::date::timestamp AT TIME ZONE 'UTC'
        AND ingest_ts < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
    ORDER BY event_id LIMIT $3
) AS page
"""
_KEYS_PAGE = """
SELECT count(*) FILTER (WHERE ingest_ts < $2), max(event_id) FROM (
    SELECT event_id, ingest_ts FROM event_keys WHERE tenant_id = $1 AND event_id > $4 ORDER BY event_id LIMIT $3
) AS page
"""
# An event may have a letter for each of several reasons, all of them on one page.
_LETTERS_PAGE = """
SELECT count(*) FILTER (WHERE last_seen_at < $2), max(event_id) FROM ingest_dlq
WHERE tenant_id = $1 AND event_id > $4 AND event_id <= (
    SELECT max(event_id) FROM (
        SELECT event_id FROM ingest_dlq WHERE tenant_id = $1 AND event_id > $4 ORDER BY event_id LIMIT $3
    ) AS page
)
"""
_AN_OLD_DAY = """
SELECT (ingest_ts AT TIME ZONE 'UTC')::date FROM ingest_events WHERE tenant_id = $1 AND ingest_ts < $2 LIMIT 1
"""
# Each delete is one range of an index, up to the last id of a batch: a join of the table with the batch would be at the
# mercy of statistics. Events are of one day, so that the plan is over one partition.
_DELETE_EVENTS = """
WITH gone AS (
    DELETE FROM ingest_events
    WHERE tenant_id = $1 AND ingest_ts >= $2::date::timestamp AT TIME ZONE 'UTC'
        AND ingest_ts < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
        AND event_id <= (
            SELECT max(event_id) FROM (
                SELECT event_id FROM ingest_events
                WHERE tenant_id = $1 AND ingest_ts >= $2::date::timestamp AT TIME ZONE 'UTC'
                    AND ingest_ts < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
                ORDER BY event_id LIMIT $3
            ) AS batch
        )
    RETURNING true
) SELECT count(*) FROM gone
"""
# No index leads to old keys, so the tenant's are walked once, a page at a time.
_LAST_KEY = """
SELECT max(event_id) FROM (
    SELECT event_id FROM event_keys WHERE tenant_id = $1 AND event_id > $2 ORDER BY event_id LIMIT $3
) AS page
"""
_DELETE_KEYS = """
WITH gone AS (
    DELETE FROM event_keys WHERE tenant_id = $1 AND event_id > $2 AND event_id <= $3 AND ingest_ts < $4 RETURNING true
) SELECT count(*) FROM gone
"""
_DELETE_LETTERS = """
WITH gone AS (
    DELETE FROM ingest_dlq
    WHERE tenant_id = $1 AND last_seen_at < $2 AND event_id <= (
        SELECT max(event_id) FROM (
            SELECT event_id FROM ingest_dlq WHERE tenant_id = $1 AND last_seen_at < $2 ORDER BY event_id LIMIT $3
        ) AS batch
    )
    RETURNING true
) SELECT count(*) FROM gone
"""
_NOTE = """
INSERT INTO operator_actions (tenant_id, action_id, operator, action, details) VALUES (
    $1, gen_random_uuid()::text, $2, 'retention.run',
    jsonb_build_object('events', $3::bigint, 'keys', $4::bigint, 'letters', $5::bigint)
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRules:
    """Days of each plan, and how old a key and a dead letter must be whatever the plan says."""

    days_by_tier: Mapping[str, int]
    key_age_seconds_min: int
    letter_age_seconds_min: int


class Overdue(NamedTuple):
    """Rows of one tenant that its plan no longer keeps."""

    events: int
    keys: int
    letters: int

    def plus(self, other: "Overdue") -> "Overdue":
        return Overdue(self.events + other.events, self.keys + other.keys, self.letters + other.letters)


class _Bounds(NamedTuple):
    """Rows from before these moments may go."""

    events: object
    keys: object
    letters: object


class Retention:
    """For `fg_admin`, over a pool that allows STATEMENT_TIMEOUT_MS.

    Every method raises NoAnswer when the database is away: what was committed is gone.
    """

    def __init__(self, pool: Pool, rules: RetentionRules, operator: str, batch_rows: int = BATCH_ROWS) -> None:
        self._pool = pool
        self._rules = rules
        self._days_json = json.dumps(dict(rules.days_by_tier))
        self._operator = operator
        self._batch_rows = batch_rows

    async def days_over(self) -> list[date]:
        """The days of partitions in which no plan that any tenant has still needs a row, the oldest first."""
        days_by_tier = self._rules.days_by_tier
        async with self._pool.connection() as connection:
            tiers = [row[0] for row in await connection.fetch(_TIERS)]
            longest = max(days_by_tier[tier] for tier in tiers or days_by_tier)
            return [row[0] for row in await connection.fetch(_DAYS, longest)]

    async def drop(self, day: date, tenant_ids: Sequence[str]) -> dict[str, int]:
        """On return the day's partition is gone; how many events each of those tenants had in it.

        Each has been told so among its operator actions, in the same commit. Two calls at once follow
        each other, but the second waits for STATEMENT_TIMEOUT_MS at most: when the first takes longer,
        the second raises NoAnswer, and what becomes of the day the first one says. The database works
        out once more, by these rules' days and its own clock, that the day is over, and refuses
        (UnexpectedAnswerError) when it is not.
        """
        dropped: dict[str, int] = {}
        async with self._pool.lent() as connection, connection.transaction():
            await connection.execute(_LIMITS, str(STATEMENT_TIMEOUT_MS))
            await connection.execute(_TURN)
            await connection.execute(_BRIEFLY)
            for tenant_id in tenant_ids:
                events = await connection.fetchval(_NOTE_DAY, tenant_id, day, self._operator)
                if events is not None:
                    dropped[tenant_id] = events
            async with _as_retention(connection):
                await connection.execute(_DROP_DAY, day, self._days_json)
        return dropped

    async def overdue(self, tenant_id: str) -> Overdue:
        """What `take` would take, in partitions to be dropped too. Changes nothing. Raises UnknownTenantError."""
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            bounds = await self._bounds(connection, tenant_id)
            days = [row[0] for row in await connection.fetch(_DAYS_BEFORE, bounds.events)]
            events = [await self._counted(connection, _EVENTS_PAGE, tenant_id, day) for day in days]
            keys = await self._counted(connection, _KEYS_PAGE, tenant_id, bounds.keys)
            letters = await self._counted(connection, _LETTERS_PAGE, tenant_id, bounds.letters)
            return Overdue(sum(events), keys, letters)

    async def _counted(self, connection: Connection, page: str, tenant_id: str, old: object) -> int:
        """What the pages of one table count together: of a day, or from before a moment."""
        counted, last = 0, ""
        while last is not None:
            found, last = await connection.fetchrow(page, tenant_id, old, self._batch_rows, last)
            counted += found
        return counted

    async def take(self, tenant_id: str) -> Overdue:
        """On return the tenant has no overdue row left; how many were taken.

        In commits of about 10,000 rows of each table, each with its operator action. Raises
        UnknownTenantError.
        """
        taken, after = Overdue(0, 0, 0), ""
        while True:
            part, after, more = await self._take_some(tenant_id, after)
            taken = taken.plus(part)
            if not more:
                return taken

    async def _take_some(self, tenant_id: str, after: str) -> tuple[Overdue, str, bool]:
        """What one commit took, the last event id whose key was looked at, and whether there may be more."""
        most = self._batch_rows
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            bounds = await self._bounds(connection, tenant_id)
            async with _as_retention(connection):
                events = await _delete_events(connection, tenant_id, bounds, most)
                last = await connection.fetchval(_LAST_KEY, tenant_id, after, most)
                keys = await connection.fetchval(_DELETE_KEYS, tenant_id, after, last, bounds.keys)
                letters = await connection.fetchval(_DELETE_LETTERS, tenant_id, bounds.letters, most)
            part = Overdue(events, keys, letters)
            if any(part):
                await connection.execute(_NOTE, tenant_id, self._operator, *part)
        more = last is not None or max(events, letters) >= most
        return part, after if last is None else last, more

    async def _bounds(self, connection: Connection, tenant_id: str) -> _Bounds:
        """By the tenant's plan at this moment: it may have changed since the last commit."""
        rules = self._rules
        row = await connection.fetchrow(
            _BOUNDS, tenant_id, self._days_json, rules.key_age_seconds_min, rules.letter_age_seconds_min
        )
        if row is None:
            raise UnknownTenantError(tenant_id)
        return _Bounds(*row)


async def _delete_events(connection: Connection, tenant_id: str, bounds: _Bounds, most: int) -> int:
    """Delete up to `most` of the tenant's old events, day after day, and return how many it were."""
    deleted = 0
    while deleted < most:
        day = await connection.fetchval(_AN_OLD_DAY, tenant_id, bounds.events)
        if day is None:
            break
        deleted += await connection.fetchval(_DELETE_EVENTS, tenant_id, day, most - deleted)
    return deleted


@asynccontextmanager
async def _as_retention(connection: Connection) -> AsyncIterator[None]:
    """Inside a transaction: as the role that may delete, and back. A transaction that fails takes the role along."""
    await connection.execute("SET LOCAL ROLE fg_retention")
    yield
    await connection.execute("SET LOCAL ROLE NONE")
