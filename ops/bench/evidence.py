"""A bundle of any length as `frostgate export` writes it: real artifacts, and countersigned checkpoints.

A process of its own, one job in on stdin, what was written out on stdout, both JSON.

    python -m ops.bench.evidence < job.json
"""

import asyncio
import base64
import os
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.canonical import canonical_plain, sha256_hex
from schemas.checkpoint import (
    LEAF_EVERY,
    Leaf,
    Round,
    first_link,
    leaf_name,
    link_to,
    note_text,
    round_root,
    tenant_key,
)
from schemas.codes import PolicyCode
from schemas.decision import DecisionRecord, Span
from schemas.evidence import ChainEntry, EntryKind, genesis_hash, seal
from schemas.merkle import Frontier
from schemas.units import UnixMs, format_rfc3339
from sinks import keyring, notes
from sinks.bundle_source import Kept
from sinks.bundle_tar import TarWriter
from sinks.bundle_traces import Traces
from sinks.bundles import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from sinks.keyring import Keyring
from sinks.signing import Signer
from streams.features import features_of
from streams.scoring import score
from streams.spans import DEDUPE_PLACE, PHASES

TENANT_ID = "bench"
PARTITION = 7
BEGIN_MS = 1_767_225_600_000
"""2026-01-01: the keys are of then. Each entry came a millisecond after the one before it."""
_COPY_BYTES = 1024 * 1024
_SECRET = bytes(32)
_SHA256 = sha256_hex(b"")
_STEP_US = 150
_EVENT = {
    "source": "sshd",
    "payload": {"kind": "auth.login", "outcome": "failure", "user": "root", "source_ip": "192.0.2.7"},
}


class Job(msgspec.Struct, frozen=True):
    """Write a bundle of so many entries, at least one, to this file."""

    file: str
    entries: int


class Made(msgspec.Struct, frozen=True):
    """What was written, and the fingerprint of the root key to verify it with."""

    root_fingerprint: str
    bytes: int


class _Line(msgspec.Struct, frozen=True):
    """A line of `checkpoints.jsonl`, of a round with this leaf alone."""

    index: int
    leaf: Leaf
    note: str
    path: list[str]
    tree_size: int


class _Keys(NamedTuple):
    ring: Keyring
    signer: Signer
    witness: Signer


def _new_keys() -> _Keys:
    root, signer, witness = (Signer(Ed25519PrivateKey.generate()) for _ in range(3))
    ring = keyring.first(root, signer.public_key, UnixMs(BEGIN_MS))
    return _Keys(keyring.with_witness(ring, root, witness.public_key, UnixMs(BEGIN_MS)), signer, witness)


class _Chain:
    """Writes a chain's lines, and makes the checkpoints on its way."""

    def __init__(self, keys: _Keys) -> None:
        self.keys = keys
        self._tree = Frontier()
        self._prev_hash = genesis_hash(TENANT_ID)
        self._link = first_link(PARTITION)
        self.traces = Traces()
        self.checkpoints: list[bytes] = []

    def write(self, count: int, entries: IO[bytes], artifacts: IO[bytes]) -> None:
        for seq in range(1, count + 1):
            record = _record(seq)
            artifact = canonical_plain(record)
            entry = _entry(seq, record, artifact, self._prev_hash)
            data, self._prev_hash = seal(entry)
            self._tree.append(bytes.fromhex(self._prev_hash))
            self.traces.line(Kept(entry, artifact))
            entries.write(data + b"\n")
            artifacts.write(artifact + b"\n")
            if seq % LEAF_EVERY == 0 or seq == count:
                self.checkpoints.append(self._checkpoint(seq) + b"\n")

    def _checkpoint(self, size: int) -> bytes:
        leaf = Leaf(leaf_name(tenant_key(_SECRET, TENANT_ID), TENANT_ID), self._tree.root().hex(), size)
        number = len(self.checkpoints) + 1
        text = note_text(Round(PARTITION, number, round_root(self._link, [leaf])))
        note = notes.sign(text, self.keys.signer) + notes.cosign(text, _came_ms(size) // 1_000, self.keys.witness)
        line = canonical_plain(_Line(1, leaf, note, [self._link.hex()], 2))
        self._link = link_to(text)
        return line

    def head(self, count: int) -> bytes:
        root = base64.b64encode(self._tree.root()).decode()
        return notes.sign(f"frostgate/tenant/{TENANT_ID}/main\n{count}\n{root}\n", self.keys.signer).encode()


def _came_ms(seq: int) -> UnixMs:
    return UnixMs(BEGIN_MS + seq)


def _record(seq: int) -> DecisionRecord:
    """A decision as the stage makes it. Every id has the width it has there."""
    features = features_of(_EVENT)
    points = score(features)
    return DecisionRecord(
        v=2,
        tenant_id=TENANT_ID,
        event_id=f"01985c1e-{seq >> 16:04x}-7000-8000-{seq:012x}",
        trace_id=f"{seq:032x}",
        request_id=f"01985c1f-{seq >> 16:04x}-7000-8000-{seq:012x}",
        agent_id="bench-agent",
        source="sshd",
        schema_version="1.0",
        created_at="2026-01-01T00:00:00Z",
        ingest_ts=format_rfc3339(_came_ms(seq)),
        decided_at=format_rfc3339(UnixMs(_came_ms(seq) + 20)),
        stream=f"FG_INGEST_{PARTITION}",
        seq=seq,
        body_sha256=_SHA256,
        body_bytes=512,
        verdict="deny",
        policy_code=PolicyCode.POLICY_DENY.value,
        policy_reasons=("failed_login",),
        policy_hash=_SHA256,
        config_hash=_SHA256,
        score=points.value,
        features=features,
        contributions=points.contributions,
        spans=_spans(seq),
    )


def _spans(seq: int) -> tuple[Span, ...]:
    digits, start_us, parent = sha256_hex(b"%d" % seq), _came_ms(seq) * 1_000, f"{seq:016x}"
    found = [Span(start_us + _STEP_US, "ingest", "", parent, start_us)]
    for name, place in (("dedupe", DEDUPE_PLACE), *PHASES):
        start_us = found[-1].end_us
        found.append(Span(start_us + _STEP_US, name, parent, digits[place], start_us))
        parent = digits[place]
    return tuple(found)


def _entry(seq: int, record: DecisionRecord, artifact: bytes, prev_hash: str) -> ChainEntry:
    return ChainEntry(
        v=1,
        tenant_id=TENANT_ID,
        seq=seq,
        kind=EntryKind.DECISION,
        event_id=record.event_id,
        ingest_ts=record.ingest_ts,
        trace_id=record.trace_id,
        request_id=record.request_id,
        policy_hash=record.policy_hash,
        config_hash=record.config_hash,
        body_sha256=record.body_sha256,
        body_bytes=record.body_bytes,
        artifact_sha256=sha256_hex(artifact),
        artifact_bytes=len(artifact),
        prev_hash=prev_hash,
    )


def _write(job: Job) -> Made:
    """Return once the bundle is written. Two of its members grow at once, so they are spooled."""
    keys, file = _new_keys(), Path(job.file)
    chain = _Chain(keys)
    with TemporaryFile(dir=file.parent) as entries, TemporaryFile(dir=file.parent) as artifacts:
        chain.write(job.entries, entries, artifacts)
        with file.open("wb") as output:

            async def sink(data: bytes) -> None:
                output.write(data)

            archive = TarWriter(sink)
            asyncio.run(
                _archived(archive, chain, job.entries, {"entries.jsonl": entries, "artifacts.jsonl": artifacts})
            )
    return Made(keys.ring.root_fingerprint, archive.bytes)


async def _archived(archive: TarWriter, chain: _Chain, count: int, spools: dict[str, IO[bytes]]) -> None:
    """Return once everything is in the archive, in the order of `sinks.bundles`."""
    for name, spool in spools.items():
        await archive.begin(name, spool.seek(0, os.SEEK_END))
        spool.seek(0)
        while data := spool.read(_COPY_BYTES):
            await archive.write(data)
        await archive.end()
    await archive.add("proof.json", canonical_plain({"after": [], "before": [], "size": count}))
    await archive.add("checkpoints.jsonl", b"".join(chain.checkpoints))
    await archive.add("head.note", chain.head(count))
    await archive.add("keyring.json", chain.keys.ring.envelope)
    statement = canonical_plain(_statement(count, chain, archive))
    await archive.add("manifest.json", chain.keys.signer.sign(PAYLOAD_TYPE, statement))
    await archive.close()


def _statement(count: int, chain: _Chain, archive: TarWriter) -> dict[str, object]:
    predicate = {
        "bundle_id": "bench",
        "chain": "main",
        "created_at": format_rfc3339(UnixMs(_came_ms(count) + 60_000)),
        "first_seq": 1,
        "last_seq": count,
        "include_trace": False,
        "partition": PARTITION,
        "tenant_id": TENANT_ID,
        "tenant_key": tenant_key(_SECRET, TENANT_ID).hex(),
        "tree_size": count,
        "trace_bundle": chain.traces.bundle,
    }
    subject = [{"digest": {"sha256": member.sha256}, "name": member.name} for member in archive.members]
    return {"_type": STATEMENT_TYPE, "predicate": predicate, "predicateType": PREDICATE_TYPE, "subject": subject}


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(_write(job)))


if __name__ == "__main__":
    main()
