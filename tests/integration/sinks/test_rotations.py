"""Rotations of the signing key stand in every chain, once, as records like every other."""

from pathlib import Path
from typing import Any

from ops.clock import SystemClock
from schemas.canonical import sha256_hex
from schemas.units import UnixMs
from sinks.keyring import Keyring, rotated
from sinks.pg import Pool
from sinks.rotations import note_rotations
from sinks.signing import Signer, create_key
from tests.integration.sinks import make
from tests.integration.sinks.rounds import grow, kit, know


def _rotated(pool: Pool, home: Path) -> Keyring:
    made = kit(pool, home)
    create_key(home / "new.pem")
    now_ms = SystemClock().now_ms()
    times = (now_ms, UnixMs(now_ms + 1_000))
    return rotated(made.ring, made.root, made.signer, Signer.load(home / "new.pem"), times)


async def test_a_rotation_is_chained_once_with_its_envelope_as_the_artifact(
    worker: Pool, operator: Pool, superuser: Any, tmp_path: Path
) -> None:
    ring = _rotated(worker, tmp_path)
    chained, empty = make.tenant_id(), make.tenant_id()
    for tenant in (chained, empty):
        await know(operator, tenant)
    await grow(worker, chained, 2)
    assert await note_rotations(worker, ring, [chained, empty]) == 1
    assert await note_rotations(worker, ring, [chained, empty]) == 0
    rows = await superuser.fetch(
        "SELECT tenant_id, seq, kind, event_id, record, entry FROM evidence_outbox"
        " WHERE tenant_id = ANY ($1) AND kind = 'key_rotation'",
        [chained, empty],
    )
    ((_rotation, envelope),) = ring.rotations()
    assert [tuple(row)[:5] for row in rows] == [(chained, 3, "key_rotation", "key-rotation:2", envelope.decode())]
    assert sha256_hex(envelope) in rows[0]["entry"]
