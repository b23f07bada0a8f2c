"""What the product itself writes: a bundle across a key rotation, countersigned by the product's witness.

The verifier judges it, and somebody else's DSSE reads its envelopes.
"""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.evidence_files import EvidenceFiles
from schemas.canonical import sha256_hex
from schemas.subjects import partition_of
from schemas.units import UnixMs
from sinks import bundles, checkpoints, keyring
from sinks.bundle_source import Range
from sinks.bundles import Bundler, Keys, Wanted
from sinks.checkpoints import Checkpoints
from sinks.keyring import Keyring
from sinks.rotations import note_rotations
from sinks.signing import Signer, key_id_of, load_public_key, payload_of
from tests.evidence.loading import verifier
from tests.evidence.test_dsse_interoperability import library_accepts, sslib_key
from tests.integration.sinks import make
from tests.integration.sinks.rounds import own_postgres, permitted, pool_of
from tests.integration.sinks.sealed import Evidence, signer
from tests.integration.test_witness import Log

BEFORE, AFTER = 6, 5
"""Decisions before the rotation and after it; the rotation is an entry between them."""
ENTRIES = BEFORE + 1 + AFTER


class Exported(NamedTuple):
    """A bundle, the store and the ring it was made with, and the keys of both sides of the rotation."""

    file: bytes
    worm: Path
    ring: Keyring
    root: Signer
    old: Signer
    new: Signer
    witness: Ed25519PublicKey

    @property
    def members(self) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(self.file), mode="r:") as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    async with own_postgres(tmp_path_factory.mktemp("product") / "data") as embedded:
        yield embedded


@pytest.fixture(scope="module")
async def exported(database: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A checkpoint is kept of every few entries here, so that the bundle holds one from before the rotation."""
    home, tenant = tmp_path_factory.mktemp("log"), make.tenant_id()
    with pytest.MonkeyPatch.context() as patch:
        for module in (bundles, checkpoints):
            patch.setattr(module, "LEAF_EVERY", BEFORE)
        async with pool_of(database, "worker") as pool:
            log = Log(database, pool, home)
            async with log.witness():
                return await _exported(log, home, tenant)


async def _exported(log: Log, home: Path, tenant: str) -> Exported:
    """The keys began an hour ago, and the rotation was a minute ago: a witness tells the time in whole seconds."""
    kit, secret, now_ms = log.kit, EvidenceFiles.of(home).checkpoint_secret.read_bytes(), SystemClock().now_ms()
    hour_ms, minute_ms = 3_600_000, 60_000
    witness = load_public_key(log.witness_home / "witness-key.pub")
    first = keyring.first(kit.root, kit.signer.public_key, UnixMs(now_ms - hour_ms))
    kit.ring_file.chmod(0o600)
    kit.ring_file.write_bytes(first.envelope)
    await log.more(tenant, 0, 0)
    await Evidence(log.pool, kit.worm, kit.signer, first).decide(tenant, range(BEFORE))
    await _sealed_and_covered(log, first, tenant)
    new = signer()
    times = (UnixMs(now_ms - minute_ms), UnixMs(now_ms + minute_ms))
    rotated = keyring.rotated(first, kit.root, kit.signer, new, times)
    ring = keyring.with_witness(rotated, kit.root, witness, UnixMs(now_ms - minute_ms))
    kit.ring_file.write_bytes(ring.envelope)
    log.kit = kit._replace(signer=new, ring=ring, checkpoints=Checkpoints(log.pool, new, secret, witnessed=True))
    assert await note_rotations(log.pool, ring, [tenant]) == 1
    await Evidence(log.pool, kit.worm, new, ring).decide(tenant, range(BEFORE, BEFORE + AFTER))
    await _sealed_and_covered(log, ring, tenant)
    file = io.BytesIO()

    async def sink(data: bytes) -> None:
        file.write(data)

    bundler = Bundler(log.pool, kit.worm, Keys(new, ring, secret), SystemClock())
    await bundler.write(Wanted("bundle-1", Range(tenant, 1, ENTRIES), include_trace=True), sink, lambda *_: None)
    return Exported(file.getvalue(), home / "worm", ring, kit.root, kit.signer, new, witness)


async def _sealed_and_covered(log: Log, ring: Keyring, tenant: str) -> None:
    """As the worker does: sealed, and in a round that the witness process countersigned."""
    await Evidence(log.pool, log.kit.worm, log.kit.signer, ring).seal(tenant)
    await log.checkpointer().make_rounds([partition_of(tenant)], permitted)
    assert all(row["cosignature"] for row in await log.rounds(tenant))


def test_a_bundle_across_a_key_rotation_is_whole_and_seen_by_the_witness_to_its_end(exported: Exported) -> None:
    verdict = verifier.verify_file(io.BytesIO(exported.file), exported.ring.root_fingerprint)
    assert (verdict.status, verdict.text) == (0, "the bundle is whole")
    assert (verdict.facts["tree_size"], verdict.facts["witnessed_size"]) == (ENTRIES, ENTRIES)
    assert (verdict.facts["checkpoints"], verdict.facts["keyring_version"]) == (2, 3)
    members = exported.members
    kinds = [json.loads(line)["kind"] for line in members["entries.jsonl"].splitlines()]
    assert kinds == ["decision"] * BEFORE + ["key_rotation"] + ["decision"] * AFTER
    ((_rotation, envelope),) = exported.ring.rotations()
    assert members["artifacts.jsonl"].splitlines()[BEFORE] == envelope
    old, new = [json.loads(line)["note"] for line in members["checkpoints.jsonl"].splitlines()]
    assert f"frostgate+{exported.old.key_id}" in old
    assert f"frostgate+{exported.new.key_id}" in new
    assert all(f"frostgate-witness+{key_id_of(exported.witness)}" in note for note in (old, new))


def test_one_wrong_bit_in_the_witnesss_line_is_found(exported: Exported) -> None:
    """The manifest is signed over it again, so nothing but that line is wrong."""
    members = exported.members
    lines = [json.loads(line) for line in members["checkpoints.jsonl"].splitlines()]
    *signed, last, end = lines[-1]["note"].split("\n")
    lines[-1]["note"] = "\n".join([*signed, last[:-4] + ("A" if last[-4] != "A" else "B") + last[-3:], end])
    changed = b"".join(verifier.canonical(line) + b"\n" for line in lines)
    assert _judged(exported, {**members, "checkpoints.jsonl": changed}).status == verifier.BAD_SIGNATURE
    assert _judged(exported, members).status == verifier.OK


def _judged(exported: Exported, members: dict[str, bytes]) -> Any:
    """The verdict on these members under a manifest of the product's key."""
    statement = json.loads(payload_of(members["manifest.json"]))
    for subject in statement["subject"]:
        subject["digest"]["sha256"] = sha256_hex(members[subject["name"]])
    manifest = exported.new.sign(bundles.PAYLOAD_TYPE, verifier.canonical(statement))
    file = io.BytesIO()
    for name, data in {**members, "manifest.json": manifest}.items():
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o444
        file.write(info.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % 512))
    file.write(b"\0" * 1024)
    return verifier.verify_file(file, exported.ring.root_fingerprint)


def test_the_old_key_signs_nothing_after_its_end(exported: Exported) -> None:
    """A ring made later ends the old key before the entries came: its checkpoint is not signed then."""
    ring = exported.ring.ring
    ended = [
        {**_told(one), "not_after": "2026-01-31T00:00:00.000Z"} if one.key_id == exported.old.key_id else _told(one)
        for one in ring.keys
    ]
    told = {**json.loads(payload_of(exported.ring.envelope)), "keys": ended, "version": ring.version + 1}
    newer = exported.root.sign(keyring.KEYRING_TYPE, verifier.canonical(told))
    given = verifier.read_ring(newer, exported.ring.root_fingerprint)
    verdict = verifier.verify_file(io.BytesIO(exported.file), exported.ring.root_fingerprint, None, given)
    assert (verdict.status, verdict.text) == (
        verifier.UNKNOWN_KEY,
        f"the checkpoint of {BEFORE} entries is signed outside of its key's time",
    )


def _told(one: keyring.RingKey) -> dict[str, str]:
    return {name: getattr(one, name) for name in ("key_id", "not_after", "not_before", "public_key", "use")}


def test_the_library_verifies_every_envelope_of_an_exported_bundle(exported: Exported) -> None:
    members = exported.members
    ((_rotation, rotation),) = exported.ring.rotations()
    envelopes = (
        (members["manifest.json"], (exported.new,)),
        (members["keyring.json"], (exported.root,)),
        (rotation, (exported.old, exported.new)),
        (members["artifacts.jsonl"].splitlines()[BEFORE], (exported.old, exported.new)),
    )
    for envelope, signers in envelopes:
        keys = [sslib_key(one.public_key.public_bytes_raw(), one.key_id) for one in signers]
        assert library_accepts(envelope, *keys)
        for at in range(len(signers)):
            document = json.loads(envelope)
            signature = document["signatures"][at]
            signature["sig"] = ("B" if signature["sig"][0] == "A" else "A") + signature["sig"][1:]
            assert not library_accepts(verifier.canonical(document), *keys)


@pytest.mark.parametrize("role", ["admin", "operator"])
async def test_the_products_rows_say_what_its_artifacts_say(
    exported: Exported, database: EmbeddedServers, role: str
) -> None:
    """As a superuser, and as the operator's login, which sees one tenant after the other."""
    ring = verifier.read_ring(exported.ring.envelope, exported.ring.root_fingerprint)
    store = verifier.Store(exported.worm)
    connection = await asyncpg.connect(database.postgres_dsn(role), statement_cache_size=0)
    try:
        verdict = await verifier.verify_database(connection, None, ring, store)
    finally:
        store.close()
        await connection.close()
    assert (verdict.status, verdict.text) == (0, "the database is whole")
    told = {name: verdict.facts[name] for name in ("entries", "rounds", "artifacts_compared", "artifacts_waiting")}
    assert told == {"entries": ENTRIES, "rounds": 2, "artifacts_compared": ENTRIES, "artifacts_waiting": 0}
