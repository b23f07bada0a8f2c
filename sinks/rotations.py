"""Rotations of the signing key, written into every chain."""

from collections.abc import Sequence

from schemas.canonical import sha256_hex
from schemas.evidence import EntryKind
from sinks.chain import Draft, append
from sinks.keyring import Keyring
from sinks.pg import Pool

_CHAINED = "SELECT tenant_id FROM chain_heads WHERE tenant_id = ANY ($1::text[]) AND seq > 0 ORDER BY tenant_id"


async def note_rotations(pool: Pool, keyring: Keyring, tenant_ids: Sequence[str]) -> int:
    """On return the chains of those tenants have an entry for each rotation; returns how many are new.

    Raises NoAnswer; noting again has the effect of once.
    """
    rotations = keyring.rotations()
    if not rotations or not tenant_ids:
        return 0
    async with pool.tenant_transaction(tenant_ids) as connection:
        chained = [row[0] for row in await connection.fetch(_CHAINED, tenant_ids)]
        drafts = [
            Draft(
                tenant_id=tenant_id,
                event_id=f"key-rotation:{rotation.version}",
                ingest_ts=rotation.rotated_at,
                trace_id="",
                request_id="",
                policy_hash="",
                config_hash="",
                body_sha256=sha256_hex(envelope),
                body_bytes=len(envelope),
                artifact=envelope,
            )
            for tenant_id in chained
            for rotation, envelope in rotations
        ]
        links = await append(connection, EntryKind.KEY_ROTATION, drafts, looking=True) if drafts else []
    return sum(link is not None for link in links)
