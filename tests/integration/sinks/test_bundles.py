"""Bundles: what is written verifies offline, what cannot verify is not written."""

import errno
import io
import tracemalloc
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from ops.commands import export
from ops.settings import load
from schemas.canonical import canonical_plain, sha256_hex
from schemas.subjects import partition_of
from schemas.units import UnixMs
from sinks import bundle_tar
from sinks.bundle_range import NothingToExportError, RangeWatch, range_of
from sinks.bundle_source import Range
from sinks.bundle_tar import TooLargeError
from sinks.bundles import BundleError, Bundler, Keys, Wanted
from sinks.checkpoints import Checkpoints
from sinks.notes import sign, text_of
from sinks.pg import Pool
from sinks.segments import EvidenceError
from sinks.signing import payload_of
from tests.integration.sinks.bundling import lost_round, members, verdict, written
from tests.integration.sinks.sealed import SECRET, Evidence, hour, signer

MEMBERS = ("entries", "artifacts", "traces", "proof", "checkpoints", "head", "keyring", "manifest")


@pytest.fixture
def evidence(worker: Pool, tmp_path: Path) -> Evidence:
    return Evidence.begin(worker, tmp_path)


async def test_a_whole_chain_verifies_offline(evidence: Evidence, tenant: str) -> None:
    await evidence.keep(tenant, range(5))
    await evidence.keep(tenant, range(5, 700))
    made, file = await written(evidence.bundler, Range(tenant, 1, 700))
    assert verdict(file, evidence) == (0, "the bundle is whole")
    found = members(file)
    assert [name.split(".")[0] for name in found] == [name for name in MEMBERS if name != "traces"]
    assert (made.sha256, made.bytes) == (sha256_hex(file.getvalue()), len(file.getvalue()))
    statement = msgspec.json.decode(payload_of(found["manifest.json"]))
    assert statement["predicate"] == made.predicate
    assert statement["subject"] == [
        {"name": name, "digest": {"sha256": sha256_hex(data)}}
        for name, data in found.items()
        if name != "manifest.json"
    ]
    assert len(found["entries.jsonl"].splitlines()) == len(found["artifacts.jsonl"].splitlines()) == 700


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 299), (257, 512), (300, 300), (256, 600)])
async def test_every_range_of_a_chain_verifies_offline(evidence: Evidence, tenant: str, first: int, last: int) -> None:
    await evidence.keep(tenant, range(300))
    await evidence.keep(tenant, range(300, 600))
    made, file = await written(evidence.bundler, Range(tenant, first, last), include_trace=True)
    assert verdict(file, evidence) == (0, "the bundle is whole")
    assert (made.predicate["first_seq"], made.predicate["last_seq"], made.predicate["tree_size"]) == (first, last, 600)


async def test_traces_are_the_artifacts_spans_and_are_summed_up_with_or_without_them(
    evidence: Evidence, tenant: str
) -> None:
    await evidence.keep(tenant, range(4))
    wanted = Range(tenant, 1, 4)
    without, _ = await written(evidence.bundler, wanted)
    made, file = await written(evidence.bundler, wanted, include_trace=True)
    assert verdict(file, evidence) == (0, "the bundle is whole")
    found = members(file)
    lines = found["traces.jsonl"].splitlines()
    artifacts = [msgspec.json.decode(line) for line in found["artifacts.jsonl"].splitlines()]
    assert lines == [
        canonical_plain({"event_id": a["event_id"], "seq": seq, "spans": a["spans"], "trace_id": a["trace_id"]})
        for seq, a in enumerate(artifacts, 1)
    ]
    assert made.predicate["trace_bundle"] == {
        "first_span_at": "2026-02-01T00:00:00.000000Z",
        "last_span_at": "2026-02-01T00:00:00.000013Z",
        "span_count": 4,
        "spans_sha256": sha256_hex(found["traces.jsonl"]),
    }
    assert without.predicate["trace_bundle"] == made.predicate["trace_bundle"]


async def test_the_index_binds_the_spans_of_each_artifact(evidence: Evidence, tenant: str) -> None:
    await evidence.keep(tenant, [0])
    async with evidence.pool.tenant_transaction([tenant]) as connection:
        found = await connection.fetchval(
            "SELECT trace_hash FROM decision_evidence_artifacts WHERE tenant_id = $1", tenant
        )
    _, file = await written(evidence.bundler, Range(tenant, 1, 1))
    spans = msgspec.json.decode(members(file)["artifacts.jsonl"])["spans"]
    assert found == sha256_hex(canonical_plain(spans))


async def test_the_same_state_makes_the_same_bytes(evidence: Evidence, tenant: str) -> None:
    await evidence.keep(tenant, range(20))

    class Stopped:
        def now_ms(self) -> UnixMs:
            return UnixMs(2**41)

    bundler = Bundler(evidence.pool, evidence.worm, Keys(evidence.signer, evidence.keyring, SECRET), Stopped())
    first, _ = await written(bundler, Range(tenant, 3, 20))
    assert (await written(bundler, Range(tenant, 3, 20)))[0] == first


async def test_an_altered_segment_is_never_exported(evidence: Evidence, tenant: str, tmp_path: Path) -> None:
    await evidence.keep(tenant, range(3))
    (segment,) = tmp_path.rglob("*.dsse")
    data = segment.read_bytes().replace(b'"verdict":"deny"', b'"verdict":"DENY"', 1)
    segment.chmod(0o600)
    segment.write_bytes(data)
    with pytest.raises(EvidenceError, match="does not match its hash"):
        await written(evidence.bundler, Range(tenant, 1, 3))
    segment.unlink()
    with pytest.raises(EvidenceError, match="gone"):
        await written(evidence.bundler, Range(tenant, 1, 3))


async def test_an_altered_chain_is_never_signed(evidence: Evidence, tenant: str, superuser: Any) -> None:
    await evidence.keep(tenant, range(3))
    await superuser.execute("SET session_replication_role = 'replica'")
    await superuser.execute("DELETE FROM chain_entries WHERE tenant_id = $1 AND seq = 2", tenant)
    await superuser.execute("SET session_replication_role = 'origin'")
    with pytest.raises(EvidenceError, match="entry 2 is gone"):
        await written(evidence.bundler, Range(tenant, 1, 3))


async def test_a_tree_that_grew_another_way_than_its_checkpoint_says_is_never_signed(
    evidence: Evidence, tenant: str, superuser: Any
) -> None:
    await evidence.keep(tenant, range(3))
    await superuser.execute("UPDATE chain_frontiers SET root = $2 WHERE tenant_id = $1", tenant, "0" * 64)
    with pytest.raises(EvidenceError, match="not the one its checkpoint covers"):
        await written(evidence.bundler, Range(tenant, 1, 3))


async def test_what_no_checkpoint_covers_and_what_no_ring_knows_makes_no_bundle(
    evidence: Evidence, tenant: str
) -> None:
    await evidence.decide(tenant, range(3))
    await evidence.seal(tenant)
    with pytest.raises(BundleError, match="no checkpoint covers"):
        await written(evidence.bundler, Range(tenant, 1, 3))
    await evidence.cover(tenant)
    stranger = Keys(signer(), evidence.keyring, SECRET)
    with pytest.raises(BundleError, match="SIGNING_KEY_UNKNOWN"):
        await written(Bundler(evidence.pool, evidence.worm, stranger, evidence.bundler._clock), Range(tenant, 1, 3))


async def test_a_time_becomes_the_range_from_its_first_to_its_last_entry(evidence: Evidence, tenant: str) -> None:
    pool = evidence.pool
    with pytest.raises(NothingToExportError):
        await range_of(pool, tenant, "", "")
    await evidence.decide(tenant, range(10))
    assert await range_of(pool, tenant, "", "") == Range(tenant, 1, 10)
    assert await range_of(pool, tenant, hour(3), "") == Range(tenant, 4, 10)
    assert await range_of(pool, tenant, "", hour(3)) == Range(tenant, 1, 4)
    assert await range_of(pool, tenant, hour(3), hour(5)) == Range(tenant, 4, 6)
    await evidence.decide(tenant, [])
    for bounds in ((hour(5), hour(4)), (hour(11), ""), ("", "2025-01-01T00:00:00.000Z")):
        with pytest.raises(NothingToExportError):
            await range_of(pool, tenant, *bounds)


async def test_a_range_is_ready_once_every_entry_is_sealed_and_covered(evidence: Evidence, tenant: str) -> None:
    await evidence.decide(tenant, range(4))
    watch = RangeWatch(evidence.pool, Range(tenant, 2, 4))
    assert await watch.look() == (3, 0, 0)
    await evidence.seal(tenant)
    assert await watch.look() == (3, 3, 0)
    assert not (await watch.look()).ready
    await evidence.cover(tenant)
    assert await watch.look() == (3, 3, 3)
    assert (await watch.look()).ready


async def test_memory_does_not_grow_with_the_bundle(evidence: Evidence, tenant: str) -> None:
    """A bundle of 4,000 entries is 8 MB; writing it holds a page and a segment."""
    await evidence.keep(tenant, range(4_000))
    size = 0

    async def sink(data: bytes) -> None:
        nonlocal size
        size += len(data)

    tracemalloc.start()
    await evidence.bundler.write(Wanted("bundle-1", Range(tenant, 1, 4_000), include_trace=True), sink, lambda *_: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 6_000_000
    assert peak < size / 2


async def test_what_an_archive_has_no_room_for_makes_no_bundle(
    evidence: Evidence, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evidence.keep(tenant, range(20))
    wanted = Range(tenant, 1, 20)
    found = members((await written(evidence.bundler, wanted, include_trace=True))[1])

    async def untouched(_: bytes) -> None:
        raise AssertionError("something was written")

    for member in ("entries.jsonl", "artifacts.jsonl"):
        monkeypatch.setattr(bundle_tar, "MEMBER_BYTES_MAX", len(found[member]) - 1)
        with pytest.raises(TooLargeError, match="from and to"):
            await evidence.bundler.write(Wanted("bundle-1", wanted, include_trace=False), untouched, lambda *_: None)


async def test_an_entry_that_is_none_is_said_to_be_altered(evidence: Evidence, tenant: str, superuser: Any) -> None:
    await evidence.keep(tenant, range(2))
    await superuser.execute("SET session_replication_role = 'replica'")
    await superuser.execute(
        """
        WITH altered AS (
            SELECT tenant_id, seq, replace(entry, '"kind":"decision"', '"kind":1') AS entry FROM chain_entries
        )
        UPDATE chain_entries AS e SET entry = a.entry,
            chain_hash = encode(sha256('\\x00'::bytea || convert_to(a.entry, 'UTF8')), 'hex')
        FROM altered AS a WHERE (e.tenant_id, e.seq) = ($1, 2) AND (a.tenant_id, a.seq) = ($1, 2)
        """,
        tenant,
    )
    with pytest.raises(EvidenceError, match="entry 2 is not what was chained"):
        await written(evidence.bundler, Range(tenant, 1, 2))


async def test_a_file_stays_when_the_database_takes_no_note_of_it_and_is_not_replaced_unasked(
    evidence: Evidence, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's login may not note what an operator has written."""
    await evidence.keep(tenant, range(2))
    monkeypatch.setattr(export, "bundler_of", lambda *_: evidence.bundler)
    output = tmp_path / "out" / "evidence.tar"
    output.parent.mkdir()
    asked = export.Asked(tenant, "", "", include_trace=False, wait_s=0, output=output, force=False)
    with pytest.raises(click.ClickException, match="written and whole, but the database did not take note"):
        await export._write(evidence.pool, load({}), asked)
    data = output.read_bytes()
    assert verdict(io.BytesIO(data), evidence) == (0, "the bundle is whole")
    with pytest.raises(FileExistsError):
        await export._write(evidence.pool, load({}), asked)
    assert (list(output.parent.iterdir()), output.read_bytes()) == ([output], data)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_somebody_makes_in_the_last_moment_is_not_replaced_unasked(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was there when anybody looked. A memory stick has no links."""
    file = tmp_path / "evidence.tar"

    def no_links(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    with export._whole(file, replace=False) as output:
        output.write(b"ours")
    assert ([file], file.read_bytes()) == (list(tmp_path.iterdir()), b"ours")
    file.write_bytes(b"theirs")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(FileExistsError), export._whole(file, replace=False) as output:
        output.write(b"ours")
    assert ([file], file.read_bytes()) == (list(tmp_path.iterdir()), b"theirs")
    with export._whole(file, replace=True) as output:
        output.write(b"ours")
    assert ([file], file.read_bytes()) == (list(tmp_path.iterdir()), b"ours")


async def test_a_database_that_is_older_than_its_store_makes_no_bundle(evidence: Evidence, tenant: str) -> None:
    """Its chain is whole, its rounds are signed, and a stranger would find nothing wrong."""
    await evidence.keep(tenant, range(3))
    await lost_round(evidence, tenant)
    with pytest.raises(EvidenceError, match="EVIDENCE_ROLLED_BACK"):
        await written(evidence.bundler, Range(tenant, 1, 3))


@pytest.fixture
async def three_rounds(evidence: Evidence, tenant: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """Partition, number and note of three rounds of the tenant, all of which its bundle shows."""
    monkeypatch.setattr("sinks.checkpoints.LEAF_EVERY", 5)
    monkeypatch.setattr("sinks.bundles.LEAF_EVERY", 5)
    found = []
    for first in (0, 5, 10):
        await evidence.keep(tenant, range(first, first + 5))
        last = await Checkpoints(evidence.pool, evidence.signer, SECRET, witnessed=False).last(partition_of(tenant))
        assert last is not None
        found.append((last.partition, last.number, last.note))
    _, file = await written(evidence.bundler, Range(tenant, 1, 15))
    assert len(members(file)["checkpoints.jsonl"].splitlines()) == 3
    return found


async def _changed_note(superuser: Any, this: tuple[int, int, str], note: str) -> None:
    await superuser.execute("SET session_replication_role = 'replica'")
    change = "UPDATE chain_checkpoints SET note = $3 WHERE (partition, checkpoint_seq) = ($1, $2)"
    await superuser.execute(change, *this[:2], note)
    await superuser.execute("SET session_replication_role = 'origin'")


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_checkpoint_with_a_wrong_signature_is_never_passed_over(
    evidence: Evidence, tenant: str, superuser: Any, three_rounds: list[tuple[int, int, str]], at: int
) -> None:
    note = three_rounds[at][2]
    wrong = sign("another text\n", evidence.signer).partition("\n\n")[2]
    await _changed_note(superuser, three_rounds[at], f"{text_of(note)}\n{wrong}")
    with pytest.raises(EvidenceError, match="not what its key signed"):
        await written(evidence.bundler, Range(tenant, 1, 15))


async def test_an_older_checkpoint_by_no_key_of_the_ring_is_left_out_and_told(
    evidence: Evidence,
    tenant: str,
    superuser: Any,
    three_rounds: list[tuple[int, int, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    this = three_rounds[1]
    await _changed_note(superuser, this, sign(text_of(this[2]), signer()))
    _, file = await written(evidence.bundler, Range(tenant, 1, 15))
    assert len(members(file)["checkpoints.jsonl"].splitlines()) == 2
    assert verdict(file, evidence) == (0, "the bundle is whole")
    assert [record.getMessage() for record in caplog.records if record.name == "sinks"] == [
        f"the checkpoint of round {this[1]} is left out: no key signed it that the ring allows"
    ]
