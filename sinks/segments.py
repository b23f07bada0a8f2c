"""Sealed segments: up to 1,000 artifacts in one immutable file under one signature.

The first line is a DSSE envelope over the manifest, each further line one artifact as it was
hashed into the chain. The manifest tiles the body without gaps and binds every artifact's hash, so
no byte of the file can change, go or come unnoticed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from schemas.canonical import canonical_plain, sha256_hex
from schemas.units import UnixMs, format_rfc3339
from sinks.signing import SignatureError, Signer, verified_payload
from sinks.worm import Worm

ARTIFACTS_MAX = 1_000
SEGMENT_BYTES_MAX = 4 * 1024 * 1024
BODY_BYTES_MAX = 3 * 1024 * 1024
"""A manifest of 1,000 artifacts with the longest names stays below the rest of the 4 MiB."""
PAYLOAD_TYPE = "application/vnd.frostgate.segment+json"
_TYPE, _VERSION = "frostgate.segment", 1
_SEGMENT_ID = re.compile(r"(?:([a-z]{1,16})-)?(\d{4}-\d{2}-\d{2})-p(\d{2})-[0-9a-f]{32}", re.ASCII)
"""The first sealed segments, from before evidence was kept apart by plan, have no class."""
_RETENTION_CLASS = re.compile(r"[a-z]{1,16}")
_ARTIFACT_CLASS = re.compile(r"[a-z][a-z0-9_]{0,31}")


class EvidenceError(Exception):
    """Stored evidence is not what was sealed, or is gone."""


class SealedInput(NamedTuple):
    """One artifact to seal: the canonical record and the hash that its chain entry binds."""

    tenant_id: str
    event_id: str
    artifact_class: str
    seq: int
    record: bytes
    artifact_sha256: str


class Placement(NamedTuple):
    """Where an artifact lies: `length` bytes of the segment's file from `offset`."""

    tenant_id: str
    event_id: str
    artifact_class: str
    seq: int
    artifact_sha256: str
    offset: int
    length: int


class Segment(NamedTuple):
    """A sealed segment, ready to be put under `key`; one placement per artifact, in their order."""

    segment_id: str
    key: str
    data: bytes
    placements: tuple[Placement, ...]


class ManifestArtifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the body; `offset` counts from the body's first byte."""

    tenant_id: str
    event_id: str
    artifact_class: str
    seq: int
    artifact_sha256: str
    offset: int
    length: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    type: str
    version: int
    segment_id: str
    partition: int
    created_at: str
    body_sha256: str
    body_bytes: int
    artifacts: tuple[ManifestArtifact, ...]
    retention_class: str = ""


def portions(artifacts: Iterable[SealedInput]) -> Iterator[list[SealedInput]]:
    """Cut artifacts, in their order, into lists that `seal` takes."""
    portion: list[SealedInput] = []
    body_bytes = 0
    for artifact in artifacts:
        line_bytes = len(artifact.record) + 1
        if portion and (len(portion) == ARTIFACTS_MAX or body_bytes + line_bytes > BODY_BYTES_MAX):
            yield portion
            portion, body_bytes = [], 0
        portion.append(artifact)
        body_bytes += line_bytes
    if portion:
        yield portion


def seal(
    signer: Signer, partition: int, retention_class: str, artifacts: Sequence[SealedInput], now_ms: UnixMs
) -> Segment:
    """Make the segment of these artifacts, all of tenants of one retention class: an object has one lock.

    The same arguments make the same bytes under the same key, so a caller that takes `now_ms` from
    the artifacts themselves may seal and put again after a crash.

    Raises ValueError when a record is not what its hash says or no single line, when the artifacts
    are none, more than 1,000 or more than 3 MiB, and for what is no class.
    """
    if not 0 < len(artifacts) <= ARTIFACTS_MAX:
        raise ValueError(f"a segment holds 1 to {ARTIFACTS_MAX} artifacts")
    if _RETENTION_CLASS.fullmatch(retention_class) is None:
        raise ValueError("a retention class is a short lower-case word")
    entries = []
    offset = 0
    for artifact in artifacts:
        if sha256_hex(artifact.record) != artifact.artifact_sha256:
            raise ValueError("a record does not match its artifact_sha256")
        if b"\n" in artifact.record or _ARTIFACT_CLASS.fullmatch(artifact.artifact_class) is None:
            raise ValueError("a record must be one line, its class a short lower-case word")
        length = len(artifact.record)
        entries.append(ManifestArtifact(*artifact[:4], artifact.artifact_sha256, offset, length))
        offset += length + 1
    body = b"".join(artifact.record + b"\n" for artifact in artifacts)
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"the records of a segment are at most {BODY_BYTES_MAX} bytes")
    unnamed = Manifest(
        type=_TYPE,
        version=_VERSION,
        segment_id="",
        partition=partition,
        created_at=format_rfc3339(now_ms),
        body_sha256=sha256_hex(body),
        body_bytes=len(body),
        artifacts=tuple(entries),
        retention_class=retention_class,
    )
    manifest = msgspec.structs.replace(unnamed, segment_id=_segment_id(unnamed))
    first_line = signer.sign(PAYLOAD_TYPE, canonical_plain(manifest)) + b"\n"
    placements = tuple(_placed(entry, len(first_line)) for entry in entries)
    return Segment(manifest.segment_id, segment_key(manifest.segment_id), first_line + body, placements)


def segment_key(segment_id: str) -> str:
    """Where a segment lies in the WORM store. Raises ValueError for anything but a segment id."""
    found = _SEGMENT_ID.fullmatch(segment_id)
    if found is None:
        raise ValueError("not a segment id")
    retention_class, date, partition = found.groups()
    folder = f"segments/{retention_class}" if retention_class else "segments"
    return f"{folder}/{date}/p{partition}/{segment_id}.dsse"


async def read_artifact(worm: Worm, segment_id: str, offset: int, length: int, expected_sha256: str) -> bytes:
    """Return the artifact's bytes after hashing them.

    Raises EvidenceError when they are gone or do not match, NoAnswer when the store is away.
    """
    data = await read_part(worm, segment_id, offset, length)
    if sha256_hex(data) != expected_sha256:
        raise EvidenceError("the artifact does not match its hash")
    return data


async def read_part(worm: Worm, segment_id: str, offset: int, length: int) -> bytes:
    """Up to `length` bytes of the segment, which an index row names.

    Raises EvidenceError when the segment is gone, or no segment is named so and has such a part: a row that
    was altered says nothing else, and NoAnswer when the store is away.
    """
    if not 0 <= offset <= offset + length <= SEGMENT_BYTES_MAX:
        raise EvidenceError("no segment has such a part")
    try:
        key = segment_key(segment_id)
    except ValueError:
        raise EvidenceError("an artifact is indexed in what is no segment") from None
    data = await worm.get_range(key, offset, length)
    if data is None:
        raise EvidenceError("the segment is gone")
    return data


def verify_segment(data: bytes, public_keys: Mapping[str, Ed25519PublicKey]) -> Manifest:
    """Return the manifest once every byte of the segment is accounted for. Raises EvidenceError."""
    first_line, newline, body = data.partition(b"\n")
    try:
        payload = verified_payload(first_line, PAYLOAD_TYPE, public_keys)
        manifest = msgspec.json.decode(payload, type=Manifest)
    except (SignatureError, ValueError) as cause:
        raise EvidenceError(f"the manifest proves nothing: {cause}") from cause
    if (manifest.type, manifest.version) != (_TYPE, _VERSION) or canonical_plain(manifest) != payload:
        raise EvidenceError("not a manifest of a segment")
    if manifest.segment_id != _segment_id(msgspec.structs.replace(manifest, segment_id="")):
        raise EvidenceError("the segment id does not name this segment")
    if not newline or len(body) != manifest.body_bytes or sha256_hex(body) != manifest.body_sha256:
        raise EvidenceError("the body is not the one that was sealed")
    end = 0
    for entry in manifest.artifacts:
        record = body[end : end + entry.length]
        if entry.offset != end or sha256_hex(record) != entry.artifact_sha256:
            raise EvidenceError("an artifact is not the one that was sealed")
        end += entry.length + 1
    if end != len(body):
        raise EvidenceError("the body holds more than its artifacts")
    return manifest


def _segment_id(unnamed: Manifest) -> str:
    """Class, date, partition and the hash of the manifest without its name, which binds every artifact."""
    retention_class = f"{unnamed.retention_class}-" if unnamed.retention_class else ""
    place = f"{retention_class}{unnamed.created_at[:10]}-p{unnamed.partition:02d}"
    return f"{place}-{sha256_hex(canonical_plain(unnamed))[:32]}"


def _placed(entry: ManifestArtifact, body_offset: int) -> Placement:
    return Placement(
        entry.tenant_id,
        entry.event_id,
        entry.artifact_class,
        entry.seq,
        entry.artifact_sha256,
        body_offset + entry.offset,
        entry.length,
    )
