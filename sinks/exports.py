"""`evidence_bundles`: which bundles were made or asked for, by whom, and what became of them.

A bundle asked for over HTTP lies in the WORM store in pieces, so that neither who builds nor who serves
it ever holds all of it.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from schemas.answers import NoAnswer
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.units import UnixMs, format_rfc3339
from sinks.bundle_source import Range
from sinks.bundles import Wanted, Written
from sinks.life import EPOCH
from sinks.pg import Pool
from sinks.worm import Worm

PENDING_MAX = 2
"""Bundles of one tenant that may wait at once."""
DAY = timedelta(days=1)
DAY_MAX = 24
"""Bundles that one tenant may order in a day: each is a copy of evidence in a store that lets go of nothing."""
PENDING_WAIT_MS = 5_000
"""When to order again while too many wait."""
ATTEMPTS_MAX = 5
"""After so many an order has failed."""
LOCK_CLASS = 0x464A
"""First half of the advisory lock's key; the tenant's hash is the other."""
PIECE_BYTES = 1024 * 1024
RETAIN_DAYS = 1
"""A bundle can be made again: its objects are locked no longer than it takes to fetch them."""

_KEEP = """
INSERT INTO evidence_bundles (tenant_id, bundle_id, bundle_json, status, requested_by, digest, bytes)
VALUES ($1, $2, $3, 'ready', $4, $5, $6)
"""
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock($1, hashtext($2))"
# A bundle that `frostgate export` wrote is ready and lies nowhere here.
_STANDING = """
SELECT count(*) FILTER (WHERE status = 'pending') AS waiting,
    count(*) FILTER (WHERE created_at > now() - $2::interval) AS ordered,
    min(created_at) FILTER (WHERE created_at > now() - $2::interval) + $2::interval - now() AS one_less
FROM evidence_bundles
WHERE tenant_id = $1 AND (status = 'pending' OR created_at > now() - $2::interval)
    AND NOT (status = 'ready' AND place IS NULL)
"""
_ORDER = """
INSERT INTO evidence_bundles (tenant_id, bundle_id, bundle_json, status, requested_by)
VALUES ($1, $2, $3, 'pending', $4)
"""
_REQUEST = "INSERT INTO export_requests (tenant_id, bundle_id) VALUES ($1, $2)"
_ONE = """
SELECT status, bundle_json, digest, bytes, place, pieces, created_at, updated_at, first_seq, last_seq
FROM evidence_bundles WHERE tenant_id = $1 AND bundle_id = $2
"""
_TAKE = """
UPDATE export_requests SET taken_until = now() + $1, attempts = attempts + 1
WHERE (tenant_id, bundle_id) = (
    SELECT tenant_id, bundle_id FROM export_requests WHERE taken_until <= now()
    ORDER BY taken_until LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING tenant_id, bundle_id, attempts
"""
# Whoever took the order after us counted one attempt more: it is theirs now.
_HOLD = "UPDATE export_requests SET taken_until = now() + $4 WHERE tenant_id = $1 AND bundle_id = $2 AND attempts = $3"
_CHOSEN = """
UPDATE evidence_bundles SET first_seq = $3, last_seq = $4
WHERE tenant_id = $1 AND bundle_id = $2 AND status = 'pending'
"""
_FORGET = "DELETE FROM export_requests WHERE tenant_id = $1 AND bundle_id = $2"
_END = """
UPDATE evidence_bundles
SET status = $3, bundle_json = $4, digest = $5, bytes = $6, place = $7, pieces = $8, updated_at = now()
WHERE tenant_id = $1 AND bundle_id = $2 AND status = 'pending'
"""
_NOWHERE: tuple[Any, ...] = (None, None, None, [])
"""Digest, bytes, place and pieces of a bundle that will never be."""


class Order(msgspec.Struct, frozen=True):
    """What a tenant asked for. The bounds are as `format_rfc3339` writes them, empty for none."""

    ingested_from: str
    ingested_to: str
    include_trace: bool


class Requested(NamedTuple):
    """An order a worker has taken. `range` holds the entries that an earlier attempt has chosen."""

    tenant_id: str
    bundle_id: str
    order: Order
    attempt: int
    range: Range | None


class Exports:
    """Every method raises NoAnswer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep(self, wanted: Wanted, written: Written, requested_by: str) -> None:
        """Note a bundle that was written elsewhere. For `fg_admin`."""
        tenant_id = wanted.range.tenant_id
        document = _json(written.predicate)
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            await connection.execute(
                _KEEP, tenant_id, wanted.bundle_id, document, requested_by, written.sha256, written.bytes
            )

    async def take(self, lease: timedelta) -> Requested | None:
        """An order that no worker has in hand, None when there is none. It is ours until the lease ends.

        Of all orders the one whose turn was longest ago. On the way those end that nobody can work on.
        """
        while True:
            async with self._pool.connection() as connection:
                taken = await connection.fetchrow(_TAKE, lease)
            if taken is None:
                return None
            if found := await self._requested(*taken):
                return found

    async def _requested(self, tenant_id: str, bundle_id: str, attempt: int) -> Requested | None:
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            row = await connection.fetchrow(_ONE, tenant_id, bundle_id)
            if row is None or row["status"] != "pending":
                await connection.execute(_FORGET, tenant_id, bundle_id)
                return None
        try:
            order = msgspec.json.decode(row["bundle_json"], type=Order)
        except msgspec.DecodeError:
            await self._end(tenant_id, bundle_id, "failed", _json({"reason": "this is no order"}), _NOWHERE)
            return None
        chosen = None if row["first_seq"] is None else Range(tenant_id, row["first_seq"], row["last_seq"])
        found = Requested(tenant_id, bundle_id, order, attempt, chosen)
        if attempt > ATTEMPTS_MAX:
            await self.failed(found, f"given up: {ATTEMPTS_MAX} workers have ended while they built it")
            return None
        return found

    async def chosen(self, taken: Requested, entries: Range) -> None:
        """Whoever takes this order after us builds the same entries."""
        tenant_id, first, last = entries
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            await connection.execute(_CHOSEN, tenant_id, taken.bundle_id, first, last)

    async def hold(self, taken: Requested, lease: timedelta) -> None:
        """No other worker takes the order within the lease, unless one has taken it already."""
        async with self._pool.connection() as connection:
            await connection.execute(_HOLD, taken.tenant_id, taken.bundle_id, taken.attempt, lease)

    async def give_back(self, taken: Requested, pause: timedelta) -> None:
        """The order waits on, for any worker, after the pause."""
        await self.hold(taken, pause)

    async def done(self, taken: Requested, written: Written, pieces: "Pieces") -> None:
        """The bundle is ready. One that another worker has ended before stays as it is."""
        place = (written.sha256, written.bytes, pieces.place, pieces.hashes)
        await self._end(taken.tenant_id, taken.bundle_id, "ready", _json(written.predicate), place)

    async def failed(self, taken: Requested, reason: str) -> None:
        """The bundle will never be."""
        document = _json(msgspec.to_builtins(taken.order) | {"reason": reason})
        await self._end(taken.tenant_id, taken.bundle_id, "failed", document, _NOWHERE)

    async def _end(self, tenant_id: str, bundle_id: str, status: str, document: str, place: tuple[Any, ...]) -> None:
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            await connection.execute(_END, tenant_id, bundle_id, status, document, *place)
            await connection.execute(_FORGET, tenant_id, bundle_id)


class Pieces:
    """A sink that puts a bundle into the WORM store as objects of one size, each named after its hash.

    So an attempt that builds what an earlier one of the same order has built adds nothing to the store.
    """

    def __init__(self, worm: Worm, place: str) -> None:
        self._worm = worm
        self._rest = bytearray()
        self.place = place
        self.hashes: list[str] = []

    async def write(self, data: bytes) -> None:
        """Raises NoAnswer, and Refusal when a piece of an earlier attempt was altered."""
        self._rest += data
        while len(self._rest) >= PIECE_BYTES:
            await self._put(bytes(self._rest[:PIECE_BYTES]))
            del self._rest[:PIECE_BYTES]

    async def close(self) -> None:
        if self._rest:
            await self._put(bytes(self._rest))

    async def _put(self, piece: bytes) -> None:
        name = sha256_hex(piece)
        await self._worm.put(_key(self.place, name), piece, retain_days=RETAIN_DAYS)
        self.hashes.append(name)


class ExportDesk:
    """For `fg_edge`: orders, and bundles that are ready."""

    def __init__(self, pool: Pool, worm: Worm) -> None:
        self._pool = pool
        self._worm = worm

    async def order(self, tenant_id: str, bundle_id: str, wanted: tuple[str, str, bool], requested_by: str) -> int:
        """Commit an order: from, to, and whether with traces.

        Returns 0, or, when the tenant has too many, the milliseconds after which it may order again.
        """
        document = _json(Order(*wanted))
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            await connection.execute(_ONE_AT_A_TIME, LOCK_CLASS, tenant_id)
            standing = await connection.fetchrow(_STANDING, tenant_id, DAY)
            if standing["ordered"] >= DAY_MAX:
                return int(standing["one_less"] / timedelta(milliseconds=1)) + 1
            if standing["waiting"] >= PENDING_MAX:
                return PENDING_WAIT_MS
            await connection.execute(_ORDER, tenant_id, bundle_id, document, requested_by)
            await connection.execute(_REQUEST, tenant_id, bundle_id)
        return 0

    async def status(self, tenant_id: str, bundle_id: str) -> bytes | None:
        """How the bundle stands as a JSON document, None when this tenant has none of that id."""
        row = await self._row(tenant_id, bundle_id)
        if row is None:
            return None
        return msgspec.json.encode(
            {
                "tenant_id": tenant_id,
                "bundle_id": bundle_id,
                "status": row["status"],
                "created_at": _moment(row["created_at"]),
                "updated_at": _moment(row["updated_at"]),
                "sha256": row["digest"],
                "bytes": row["bytes"],
                "bundle": msgspec.Raw(row["bundle_json"].encode()),
            }
        )

    async def content(self, tenant_id: str, bundle_id: str) -> tuple[int, AsyncIterator[bytes]] | None:
        """Size and bytes of a bundle that is ready here, None when there is none."""
        row = await self._row(tenant_id, bundle_id)
        if row is None or row["status"] != "ready" or row["place"] is None:
            return None
        return row["bytes"], self._pieces(row["place"], row["pieces"])

    async def _pieces(self, place: str, hashes: list[str]) -> AsyncIterator[bytes]:
        """Each piece after it was hashed. Raises NoAnswer, with EVIDENCE_UNVERIFIED for one that is altered or gone."""
        for expected in hashes:
            piece = await self._worm.get(_key(place, expected))
            if piece is None or sha256_hex(piece) != expected:
                raise NoAnswer(Code.EVIDENCE_UNVERIFIED)
            yield piece

    async def _row(self, tenant_id: str, bundle_id: str) -> Any:
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            return await connection.fetchrow(_ONE, tenant_id, bundle_id)


def _key(place: str, name: str) -> str:
    return f"{place}/{name}"


def _json(document: Any) -> str:
    return msgspec.json.encode(document).decode()


def _moment(value: datetime) -> str:
    return format_rfc3339(UnixMs((value - EPOCH) // timedelta(milliseconds=1)))
