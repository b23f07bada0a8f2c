"""The truth about duplicates: one row per accepted event, naming the first stored message."""

from collections.abc import Sequence

from schemas.envelope import EventKey
from schemas.rows import Claim, ClaimOutcome
from sinks.columns import column
from sinks.pg import Connection, Pool

_STORED = """
SELECT tenant_id, event_id, trace_id, request_id, ingest_ts, stream, seq, body_sha256
FROM app.stored_keys($1::text[], $2::text[])
"""
_ENSURE_PARTITIONS = "SELECT app.ensure_ingest_partition(day::date) FROM unnest($1::text[]) AS d (day)"
# The rows come sorted by tenant and event, so transactions that claim the same events wait for each other in one order.
_CLAIM = """
INSERT INTO event_keys (tenant_id, event_id, trace_id, request_id, ingest_ts, stream, seq, body_sha256)
SELECT * FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, E'\\x1f'), string_to_array($3, E'\\x1f'),
    string_to_array($4, E'\\x1f'), string_to_array($5, E'\\x1f')::timestamptz[], string_to_array($6, E'\\x1f'),
    string_to_array($7, E'\\x1f')::bigint[], string_to_array($8, E'\\x1f')
)
ON CONFLICT DO NOTHING
RETURNING tenant_id, event_id
"""
# LATERAL with LIMIT is a look-up per key. A plain join is free to read a whole tenant when the statistics are stale.
_FIRST = """
SELECT a.tenant_id, a.event_id, found.stream, found.seq, found.body_sha256
FROM unnest($1::text[], $2::text[]) AS a (tenant_id, event_id)
CROSS JOIN LATERAL (
    SELECT k.stream, k.seq, k.body_sha256 FROM event_keys AS k
    WHERE k.tenant_id = a.tenant_id AND k.event_id = a.event_id LIMIT 1
) AS found
"""
_KEEP_BODIES = """
INSERT INTO ingest_events (tenant_id, event_id, ingest_ts, agent_id, source, body, body_bytes)
SELECT e.*, octet_length(e.body)
FROM unnest(
    string_to_array($1, E'\\x1f'), string_to_array($2, E'\\x1f'), string_to_array($3, E'\\x1f')::timestamptz[],
    string_to_array($4, E'\\x1f'), $5::text[], $6::bytea[]
) AS e (tenant_id, event_id, ingest_ts, agent_id, source, body)
"""

_Identity = tuple[str, str]
_Position = tuple[str, int, str]


class EventKeys:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @property
    def at_once(self) -> int:
        """How many calls there is a connection for."""
        return self._pool.size

    async def stored(self, identities: Sequence[_Identity]) -> dict[_Identity, EventKey]:
        """The keys of those events that have one, by (tenant_id, event_id). Raises NoAnswer."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_STORED, *zip(*identities, strict=True))
        return {(row["tenant_id"], row["event_id"]): EventKey(*row) for row in rows}

    async def claim(self, claims: Sequence[Claim]) -> list[ClaimOutcome]:
        """One outcome per claim, in order; the keys and bodies of the claimed are committed.

        Within one call the earliest message of an event is the first. Raises NoAnswer when the
        database is away: the commit may have taken effect, and claiming again then answers RESUMED.
        Raises Refusal when a claim can never be stored: none was.
        """
        first: dict[_Identity, Claim] = {}
        for claim in sorted(claims, key=lambda claim: (*_identity(claim), claim.key.stream, claim.key.seq)):
            first.setdefault(_identity(claim), claim)
        tenant_ids = sorted({tenant_id for tenant_id, _ in first})
        async with self._pool.writing(tenant_ids, "event_keys", "insert") as connection:
            claimed = await _claim(connection, list(first.values()))
            positions = {identity: _position(first[identity].key) for identity in claimed}
            known = [identity for identity in first if identity not in claimed]
            if known:
                positions |= await _first_positions(connection, known)
        return [_outcome(claim, first, claimed, positions) for claim in claims]


async def _claim(connection: Connection, claims: Sequence[Claim]) -> set[_Identity]:
    """Store the keys no other message has, with their bodies; return whose they are."""
    rows = await connection.fetch(_CLAIM, *map(column, zip(*(claim.key for claim in claims), strict=True)))
    claimed = {(row["tenant_id"], row["event_id"]) for row in rows}
    fresh = [claim for claim in claims if _identity(claim) in claimed]
    if fresh:
        await connection.execute(_ENSURE_PARTITIONS, sorted({claim.key.ingest_ts[:10] for claim in fresh}))
        named = zip(*(_body_row(claim) for claim in fresh), strict=True)
        sources, bodies = [claim.source for claim in fresh], [claim.body for claim in fresh]
        await connection.execute(_KEEP_BODIES, *map(column, named), sources, bodies)
    return claimed


async def _first_positions(connection: Connection, identities: Sequence[_Identity]) -> dict[_Identity, _Position]:
    rows = await connection.fetch(_FIRST, *zip(*identities, strict=True))
    return {(row["tenant_id"], row["event_id"]): (row["stream"], row["seq"], row["body_sha256"]) for row in rows}


def _outcome(
    claim: Claim, first: dict[_Identity, Claim], claimed: set[_Identity], positions: dict[_Identity, _Position]
) -> ClaimOutcome:
    identity = _identity(claim)
    stream, seq, body_sha256 = positions[identity]
    if (claim.key.stream, claim.key.seq) == (stream, seq):
        new = identity in claimed and claim is first[identity]
        return ClaimOutcome.CLAIMED if new else ClaimOutcome.RESUMED
    return ClaimOutcome.DUPLICATE if claim.key.body_sha256 == body_sha256 else ClaimOutcome.CONFLICT


def _identity(claim: Claim) -> _Identity:
    return claim.key.tenant_id, claim.key.event_id


def _position(key: EventKey) -> _Position:
    return key.stream, key.seq, key.body_sha256


def _body_row(claim: Claim) -> tuple[str, str, str, str]:
    """All but what the agent wrote."""
    key = claim.key
    return key.tenant_id, key.event_id, key.ingest_ts, claim.agent_id
