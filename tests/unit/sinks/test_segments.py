"""Sealed segments: every byte is accounted for, or the segment is refused."""

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.canonical import canonical_plain, sha256_hex
from schemas.units import UnixMs, parse_rfc3339
from sinks import segments
from sinks.segments import (
    ARTIFACTS_MAX,
    BODY_BYTES_MAX,
    PAYLOAD_TYPE,
    SEGMENT_BYTES_MAX,
    EvidenceError,
    Manifest,
    SealedInput,
    portions,
    read_artifact,
    seal,
    segment_key,
    verify_segment,
)
from sinks.signing import Signer, verified_payload
from sinks.worm import DirectoryWorm

NOW = parse_rfc3339("2026-01-01T12:00:00.000Z")


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture(scope="module")
def keys(signer: Signer) -> dict[str, Ed25519PublicKey]:
    return {signer.key_id: signer.public_key}


def artifact(number: int, record: bytes | None = None) -> SealedInput:
    record = canonical_plain({"event_id": f"e-{number}", "verdict": "allow"}) if record is None else record
    return SealedInput("acme", f"e-{number}", "decision", number, record, sha256_hex(record))


async def test_every_artifact_is_read_back_from_where_it_was_placed(tmp_path: Path, signer: Signer) -> None:
    inputs = [artifact(number) for number in range(20)]
    segment = seal(signer, 7, "free", inputs, NOW)
    worm = DirectoryWorm(tmp_path)
    await worm.put(segment.key, segment.data, retain_days=7)
    for sealed, placed in zip(inputs, segment.placements, strict=True):
        assert placed[:5] == (*sealed[:4], sealed.artifact_sha256)
        found = await read_artifact(worm, segment.segment_id, placed.offset, placed.length, placed.artifact_sha256)
        assert found == sealed.record


def test_a_segment_names_its_artifacts_and_reads_as_lines(signer: Signer, keys: dict[str, Ed25519PublicKey]) -> None:
    inputs = [artifact(1), artifact(2)]
    segment = seal(signer, 7, "free", inputs, NOW)
    manifest = verify_segment(segment.data, keys)
    assert (manifest.segment_id, manifest.partition, manifest.created_at) == (
        segment.segment_id,
        7,
        "2026-01-01T12:00:00.000Z",
    )
    assert [(one.tenant_id, one.event_id, one.seq) for one in manifest.artifacts] == [
        ("acme", "e-1", 1),
        ("acme", "e-2", 2),
    ]
    assert segment.key == segment_key(segment.segment_id) == f"segments/free/2026-01-01/p07/{segment.segment_id}.dsse"
    assert segment.data.splitlines()[1:] == [one.record for one in inputs]


def test_sealing_again_makes_the_same_bytes_and_anything_else_another_segment(signer: Signer) -> None:
    inputs = [artifact(1), artifact(2)]
    first = seal(signer, 7, "free", inputs, NOW)
    assert seal(signer, 7, "free", list(inputs), NOW) == first
    others = {
        seal(signer, 8, "free", inputs, NOW).key,
        seal(signer, 7, "free", inputs, UnixMs(NOW + 1)).key,
        seal(signer, 7, "free", inputs[::-1], NOW).key,
        seal(signer, 7, "free", inputs[:1], NOW).key,
        seal(signer, 7, "free", [inputs[0], inputs[1]._replace(seq=3)], NOW).key,
    }
    assert len(others | {first.key}) == 6


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [artifact(1)._replace(artifact_sha256="0" * 64)],
        [artifact(1)._replace(record=b"{}")],
        [artifact(1, b'{"a":1}\n{"b":2}')],
        [artifact(1)._replace(artifact_class="../x")],
        [artifact(1, b"x" * BODY_BYTES_MAX)],
        [artifact(number) for number in range(ARTIFACTS_MAX + 1)],
    ],
    ids=["none", "wrong hash", "wrong record", "two lines", "strange class", "too long", "too many"],
)
def test_what_cannot_be_sealed_is_refused(signer: Signer, inputs: list[SealedInput]) -> None:
    with pytest.raises(ValueError, match=r"record|artifacts"):
        seal(signer, 0, "free", inputs, NOW)


def test_every_flipped_bit_and_every_cut_is_found(signer: Signer, keys: dict[str, Ed25519PublicKey]) -> None:
    data = seal(signer, 7, "free", [artifact(1), artifact(2)], NOW).data
    verify_segment(data, keys)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(EvidenceError):
            verify_segment(bytes(changed), keys)
        with pytest.raises(EvidenceError):
            verify_segment(data[:position], keys)
    for more in (b"\n", b"{}\n"):
        with pytest.raises(EvidenceError):
            verify_segment(data + more, keys)


def test_a_manifest_that_was_signed_but_does_not_tile_its_body_is_refused(
    signer: Signer, keys: dict[str, Ed25519PublicKey]
) -> None:
    segment = seal(signer, 7, "free", [artifact(1), artifact(2)], NOW)
    first_line, _, body = segment.data.partition(b"\n")
    good = msgspec.json.decode(verified_payload(first_line, PAYLOAD_TYPE, keys), type=Manifest)
    one, two = good.artifacts
    replace = msgspec.structs.replace
    for manifest in (
        replace(good, artifacts=(one,)),
        replace(good, artifacts=(two, one)),
        replace(good, artifacts=(one, replace(two, offset=two.offset + 1))),
        replace(good, artifacts=(one, replace(two, artifact_sha256=one.artifact_sha256))),
        replace(good, type="frostgate.other"),
        replace(good, version=2),
        replace(good, body_bytes=good.body_bytes - 1),
        replace(good, body_sha256="0" * 64),
    ):
        named = replace(manifest, segment_id=segments._segment_id(replace(manifest, segment_id="")))
        signed = signer.sign(PAYLOAD_TYPE, canonical_plain(named))
        with pytest.raises(EvidenceError):
            verify_segment(signed + b"\n" + body, keys)
    renamed = signer.sign(PAYLOAD_TYPE, canonical_plain(replace(good, segment_id=segment.segment_id[:-1] + "x")))
    with pytest.raises(EvidenceError, match="segment id"):
        verify_segment(renamed + b"\n" + body, keys)


def test_a_stranger_cannot_seal(keys: dict[str, Ed25519PublicKey]) -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    with pytest.raises(EvidenceError, match="no known key"):
        verify_segment(seal(stranger, 7, "free", [artifact(1)], NOW).data, keys)


async def test_an_artifact_that_changed_on_disk_is_never_served(tmp_path: Path, signer: Signer) -> None:
    segment = seal(signer, 7, "free", [artifact(1), artifact(2)], NOW)
    worm = DirectoryWorm(tmp_path)
    await worm.put(segment.key, segment.data, retain_days=7)
    placed = segment.placements[1]
    path = tmp_path / segment.key
    changed = bytearray(segment.data)
    changed[placed.offset] ^= 1
    path.chmod(0o600)
    for on_disk in (bytes(changed), segment.data[:-2], b""):
        path.write_bytes(on_disk)
        with pytest.raises(EvidenceError, match="does not match"):
            await read_artifact(worm, segment.segment_id, placed.offset, placed.length, placed.artifact_sha256)
    path.unlink()
    with pytest.raises(EvidenceError, match="gone"):
        await read_artifact(worm, segment.segment_id, placed.offset, placed.length, placed.artifact_sha256)


def test_a_segment_from_before_the_retention_classes_is_still_found_and_verified(
    signer: Signer, keys: dict[str, Ed25519PublicKey]
) -> None:
    old_id = "2026-01-01-p07-" + "0" * 32
    assert segment_key(old_id) == f"segments/2026-01-01/p07/{old_id}.dsse"
    first_line, _, body = seal(signer, 7, "free", [artifact(1)], NOW).data.partition(b"\n")
    made = msgspec.json.decode(verified_payload(first_line, PAYLOAD_TYPE, keys))
    del made["retention_class"]
    made["segment_id"] = ""
    made["segment_id"] = f"2026-01-01-p07-{sha256_hex(canonical_plain(made))[:32]}"
    old = signer.sign(PAYLOAD_TYPE, canonical_plain(made)) + b"\n" + body
    assert verify_segment(old, keys).segment_id == made["segment_id"]


def test_a_segment_is_of_one_class(signer: Signer, keys: dict[str, Ed25519PublicKey]) -> None:
    segment = seal(signer, 7, "pro", [artifact(1)], NOW)
    assert verify_segment(segment.data, keys).retention_class == "pro"
    assert segment.segment_id.startswith("pro-2026-01-01-p07-")
    for wrong in ("", "Pro", "a/b", "x" * 17, "pro-2"):
        with pytest.raises(ValueError, match="retention class"):
            seal(signer, 7, wrong, [artifact(1)], NOW)


@pytest.mark.parametrize(
    "segment_id",
    [
        *("", "../x", "2026-01-01-p07-" + "g" * 32, "2026-01-01-p07-" + "0" * 31, "2026-01-01-p7-" + "0" * 32),
        *("-2026-01-01-p07-" + "0" * 32, "../-2026-01-01-p07-" + "0" * 32),
    ],
)
def test_what_is_no_segment_id_has_no_key(segment_id: str) -> None:
    with pytest.raises(ValueError, match="not a segment id"):
        segment_key(segment_id)


def test_portions_keep_every_artifact_in_order_and_each_can_be_sealed(signer: Signer) -> None:
    small = [artifact(number, b"x" * 40) for number in range(2_100)]
    large = [artifact(number, b"y" * 700_000) for number in range(9)]
    cut = list(portions([*small, *large]))
    assert [one for portion in cut for one in portion] == [*small, *large]
    assert [len(portion) for portion in cut] == [1000, 1000, 104, 4, 1]
    assert all(len(seal(signer, 0, "free", portion, NOW).data) <= SEGMENT_BYTES_MAX for portion in cut)
    assert list(portions([])) == []


def test_the_largest_segment_stays_below_its_limit(signer: Signer, keys: dict[str, Ed25519PublicKey]) -> None:
    record = b"x" * (BODY_BYTES_MAX // ARTIFACTS_MAX - 1)
    longest = SealedInput("t" * 63, "e" * 128, "c" * 32, 2**53 - 1, record, sha256_hex(record))
    segment = seal(signer, 15, "free", [longest] * ARTIFACTS_MAX, NOW)
    assert BODY_BYTES_MAX < len(segment.data) <= SEGMENT_BYTES_MAX
    assert len(verify_segment(segment.data, keys).artifacts) == ARTIFACTS_MAX
