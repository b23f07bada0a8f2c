"""The evidence of one event: its chain entries with their artifacts, each proven up to a signed note."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas.answers import NoAnswer
from schemas.checkpoint import SECRET_BYTES, hashes_of, leaf_name, tenant_key
from schemas.codes import Code
from schemas.event_evidence import Checkpoint, EventEvidence, Inclusion, ProvenEntry
from schemas.evidence import ChainEntry, seal
from schemas.merkle import root_from
from schemas.units import UnixMs, parse_rfc3339
from sinks import keyring, proofs
from sinks.keyring import Keyring, KeyringError, RingFile
from sinks.pg import Connection, Pool
from sinks.segments import EvidenceError, read_artifact
from sinks.signing import SignatureError
from sinks.worm import Worm

_ENTRIES = """
SELECT e.seq, e.entry, e.chain_hash, a.segment_id, a.segment_offset,
    (extract(epoch FROM now()) * 1000)::bigint AS now_ms
FROM chain_entries AS e
LEFT JOIN decision_evidence_artifacts AS a
    ON a.tenant_id = e.tenant_id AND a.event_id = e.event_id AND a.artifact_class = e.kind
WHERE e.tenant_id = $1 AND e.event_id = $2 ORDER BY e.seq
"""
# The decision stays when retention has taken the raw event; an event that died has no decision. The body lies in the
# partition of its day: with the key's moment the look-up touches one partition.
_AGENT = """
SELECT agent_id, NULL AS body FROM decisions WHERE tenant_id = $1 AND event_id = $2
UNION ALL SELECT NULL, body FROM ingest_events WHERE tenant_id = $1 AND event_id = $2
    AND ingest_ts = (SELECT ingest_ts FROM event_keys WHERE tenant_id = $1 AND event_id = $2)
"""


class _Sent(msgspec.Struct):
    agent_id: str | None = None


_entry = msgspec.json.Decoder(ChainEntry)
_sent = msgspec.json.Decoder(_Sent)


class ServedFiles(NamedTuple):
    """The files that evidence is served with."""

    keyring: Path
    checkpoint_secret: Path


class _Found(NamedTuple):
    row: Any
    inclusion: Inclusion | None
    checkpoint: Checkpoint | None


class EvidenceReader:
    """For `fg_edge`."""

    def __init__(self, pool: Pool, worm: Worm, files: ServedFiles) -> None:
        self._pool = pool
        self._worm = worm
        self._ring = RingFile(files.keyring)
        self._secret = files.checkpoint_secret

    async def evidence_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
        """The evidence as one JSON document, None when this tenant, or this agent, has no such event.

        Raises NoAnswer, with EVIDENCE_UNVERIFIED when what is stored is not what was signed: nothing of it is told.
        """
        try:
            async with self._pool.tenant_transaction([tenant_id]) as connection:
                rows = await connection.fetch(_ENTRIES, tenant_id, event_id)
                if not rows or not await _is_of(connection, tenant_id, event_id, agent_id):
                    return None
                ring, secret = await asyncio.to_thread(self._read)
                key = tenant_key(secret, tenant_id)
                name = leaf_name(key, tenant_id)
                found = [await _proven(connection, tenant_id, name, row, ring) for row in rows]
            entries = tuple([await self._entry(one) for one in found])
        except (EvidenceError, ValueError):
            raise NoAnswer(Code.EVIDENCE_UNVERIFIED) from None
        pending = any(one.artifact is None or one.inclusion is None for one in entries)
        return msgspec.json.encode(
            EventEvidence(tenant_id, event_id, pending, entries, key.hex(), ring.envelope.decode())
        )

    def _read(self) -> tuple[Keyring, bytes]:
        """The key ring and the checkpoint secret."""
        try:
            ring, secret = self._ring.now(), self._secret.read_bytes()
        except (KeyringError, OSError):
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        if len(secret) != SECRET_BYTES:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return ring, secret

    async def _entry(self, found: _Found) -> ProvenEntry:
        row = found.row
        entry = _entry.decode(row["entry"])
        if seal(entry) != (row["entry"].encode(), row["chain_hash"]):
            raise EvidenceError("an entry is not what its hash says")
        artifact = None
        if row["segment_id"] is not None:
            place = (row["segment_id"], row["segment_offset"], entry.artifact_bytes, entry.artifact_sha256)
            artifact = (await read_artifact(self._worm, *place)).decode()
        return ProvenEntry(row["entry"], row["chain_hash"], artifact, found.inclusion, found.checkpoint)


async def _is_of(connection: Connection, tenant_id: str, event_id: str, agent_id: str | None) -> bool:
    if agent_id is None:
        return True
    rows = await connection.fetch(_AGENT, tenant_id, event_id)
    return any(agent_id == (row["agent_id"] or _sent.decode(row["body"]).agent_id) for row in rows)


async def _proven(connection: Connection, tenant_id: str, name: str, row: Any, ring: Keyring) -> _Found:
    """By the first round that covers the entry; by the newest one where the first is not signed as the ring allows."""
    covered = await proofs.covering(connection, tenant_id, row["seq"])
    if covered is None:
        return _Found(row, None, None)
    checkpoint = await proofs.checkpoint(connection, covered, name)
    if not _is_signed(checkpoint, row, ring):
        covered = await proofs.newest(connection, tenant_id) or covered
        checkpoint = await proofs.checkpoint(connection, covered, name)
        if not _is_signed(checkpoint, row, ring):
            raise EvidenceError("no round that covers the entry is signed as the key ring allows")
    index = row["seq"] - 1
    path = await proofs.inclusion(connection, tenant_id, index, covered.size)
    if root_from(hashes_of(row["chain_hash"]), index, covered.size, path).hex() != covered.root:
        raise EvidenceError("the tree a checkpoint covers is another one")
    inclusion = Inclusion(index, covered.size, tuple(node.hex() for node in path), covered.root)
    return _Found(row, inclusion, checkpoint)


def _is_signed(checkpoint: Checkpoint, row: Any, ring: Keyring) -> bool:
    """Whether somebody who holds this entry alone will believe the note."""
    try:
        earliest_ms = parse_rfc3339(_entry.decode(row["entry"]).ingest_ts)
        keyring.verify_note(ring, checkpoint.note, earliest_ms, UnixMs(row["now_ms"]))
    except SignatureError:
        return False
    return True
