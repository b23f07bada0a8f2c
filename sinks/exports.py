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
from sinks.bundles import Wanted, Written
from sinks.life import EPOCH
from sinks.pg import Pool
from sinks.worm import Worm

PENDING_MAX = 2
"""Bundles of one tenant that may wait at once."""
PIECE_BYTES = 1024 * 1024
RETAIN_DAYS = 1
"""A bundle can be made again: its objects are locked no longer than it takes to fetch them."""

_KEEP = """
INSERT INTO evidence_bundles (tenant_id, bundle_id, bundle_json, status, requested_by, digest, bytes)
VALUES ($1, $2, $3, 'ready', $4, $5, $6)
"""
_ORDER = """
INSERT INTO evidence_bundles (tenant_id, bundle_id, bundle_json, status, requested_by)
SELECT $1, $2, $3, 'pending', $4
WHERE (SELECT count(*) FROM evidence_bundles WHERE tenant_id = $1 AND status = 'pending') < $5
RETURNING true
"""
_REQUEST = "INSERT INTO export_requests (tenant_id, bundle_id) VALUES ($1, $2)"
_ONE = """
SELECT status, bundle_json, digest, bytes, place, pieces, created_at, updated_at
FROM evidence_bundles WHERE tenant_id = $1 AND bundle_id = $2
"""
_TAKE = """
UPDATE export_requests SET taken_until = now() + $1
WHERE (tenant_id, bundle_id) = (
    SELECT tenant_id, bundle_id FROM export_requests WHERE taken_until <= now()
    ORDER BY requested_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING tenant_id, bundle_id
"""
_GIVE_BACK = "UPDATE export_requests SET taken_until = now() + $3 WHERE tenant_id = $1 AND bundle_id = $2"
_FORGET = "DELETE FROM export_requests WHERE tenant_id = $1 AND bundle_id = $2"
_END = """
UPDATE evidence_bundles
SET status = $3, bundle_json = $4, digest = $5, bytes = $6, place = $7, pieces = $8, updated_at = now()
WHERE tenant_id = $1 AND bundle_id = $2 AND status = 'pending'
"""


class Order(msgspec.Struct, frozen=True):
    """What a tenant asked for. The bounds are as `format_rfc3339` writes them, empty for none."""

    ingested_from: str
    ingested_to: str
    include_trace: bool


class Requested(NamedTuple):
    """An order a worker has taken."""

    tenant_id: str
    bundle_id: str
    order: Order


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
        """The oldest order that no worker has in hand, None when there is none. It is ours until the lease ends."""
        async with self._pool.connection() as connection:
            taken = await connection.fetchrow(_TAKE, lease)
        if taken is None:
            return None
        tenant_id, bundle_id = taken
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            row = await connection.fetchrow(_ONE, tenant_id, bundle_id)
        return Requested(tenant_id, bundle_id, msgspec.json.decode(row["bundle_json"], type=Order))

    async def give_back(self, taken: Requested, pause: timedelta) -> None:
        """The order waits on, for any worker, after the pause."""
        async with self._pool.connection() as connection:
            await connection.execute(_GIVE_BACK, taken.tenant_id, taken.bundle_id, pause)

    async def done(self, taken: Requested, written: Written, pieces: "Pieces") -> None:
        """The bundle is ready. One that another worker has ended before stays as it is."""
        place = (written.sha256, written.bytes, pieces.place, pieces.hashes)
        await self._end(taken, "ready", _json(written.predicate), place)

    async def failed(self, taken: Requested, reason: str) -> None:
        """The bundle will never be."""
        document = _json(msgspec.to_builtins(taken.order) | {"reason": reason})
        await self._end(taken, "failed", document, (None, None, None, []))

    async def _end(self, taken: Requested, status: str, document: str, place: tuple[Any, ...]) -> None:
        async with self._pool.tenant_transaction([taken.tenant_id]) as connection:
            await connection.execute(_END, taken.tenant_id, taken.bundle_id, status, document, *place)
            await connection.execute(_FORGET, taken.tenant_id, taken.bundle_id)


class Pieces:
    """A sink that puts a bundle into the WORM store as objects of one size."""

    def __init__(self, worm: Worm, place: str) -> None:
        self._worm = worm
        self._rest = bytearray()
        self.place = place
        self.hashes: list[str] = []

    async def write(self, data: bytes) -> None:
        """Raises NoAnswer, and Refusal when the place is taken."""
        self._rest += data
        while len(self._rest) >= PIECE_BYTES:
            await self._put(bytes(self._rest[:PIECE_BYTES]))
            del self._rest[:PIECE_BYTES]

    async def close(self) -> None:
        if self._rest:
            await self._put(bytes(self._rest))

    async def _put(self, piece: bytes) -> None:
        await self._worm.put(_key(self.place, len(self.hashes)), piece, retain_days=RETAIN_DAYS)
        self.hashes.append(sha256_hex(piece))


class ExportDesk:
    """For `fg_edge`: orders, and bundles that are ready."""

    def __init__(self, pool: Pool, worm: Worm) -> None:
        self._pool = pool
        self._worm = worm

    async def order(self, tenant_id: str, bundle_id: str, wanted: tuple[str, str, bool], requested_by: str) -> bool:
        """Commit an order: from, to, and whether with traces. False when the tenant has too many waiting."""
        document = _json(Order(*wanted))
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            taken = await connection.fetchval(_ORDER, tenant_id, bundle_id, document, requested_by, PENDING_MAX)
            if taken:
                await connection.execute(_REQUEST, tenant_id, bundle_id)
        return bool(taken)

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
        for number, expected in enumerate(hashes):
            piece = await self._worm.get(_key(place, number))
            if piece is None or sha256_hex(piece) != expected:
                raise NoAnswer(Code.EVIDENCE_UNVERIFIED)
            yield piece

    async def _row(self, tenant_id: str, bundle_id: str) -> Any:
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            return await connection.fetchrow(_ONE, tenant_id, bundle_id)


def _key(place: str, number: int) -> str:
    return f"{place}/{number:06d}"


def _json(document: Any) -> str:
    return msgspec.json.encode(document).decode()


def _moment(value: datetime) -> str:
    return format_rfc3339(UnixMs((value - EPOCH) // timedelta(milliseconds=1)))
