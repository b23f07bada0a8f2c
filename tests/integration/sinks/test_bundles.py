"""Bundles: what is written verifies offline, what cannot verify is not written."""

import importlib.util
import io
import tarfile
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec
import pytest

from ops import exporter
from ops.clock import SystemClock, new_uuid7
from ops.commands import export
from ops.exporter import Exporter
from ops.settings import load
from schemas.answers import NoAnswer
from schemas.canonical import canonical_plain, sha256_hex
from schemas.codes import Code
from schemas.units import UnixMs
from sinks import bundle_tar
from sinks.bundle_range import NothingToExportError, RangeWatch, range_of
from sinks.bundle_source import Range
from sinks.bundle_tar import TooLargeError
from sinks.bundles import BundleError, Bundler, Keys, Wanted, Written
from sinks.exports import ATTEMPTS_MAX, ExportDesk
from sinks.pg import Pool
from sinks.segments import EvidenceError
from sinks.signing import payload_of
from sinks.worm import DirectoryWorm
from tests.integration.sinks.sealed import SECRET, Evidence, hour, signer

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "verify_data_plane_hashchain.py"
MEMBERS = ("entries", "artifacts", "traces", "proof", "checkpoints", "head", "keyring", "manifest")


@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    """The program a stranger runs."""
    spec = importlib.util.spec_from_file_location("verifier", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def evidence(worker: Pool, tmp_path: Path) -> Evidence:
    return Evidence.begin(worker, tmp_path)


async def written(bundler: Bundler, wanted: Range, *, include_trace: bool = False) -> tuple[Written, io.BytesIO]:
    file = io.BytesIO()

    async def sink(data: bytes) -> None:
        file.write(data)

    made = await bundler.write(Wanted("bundle-1", wanted, include_trace), sink, lambda *_: None)
    file.seek(0)
    return made, file


def members(file: io.BytesIO) -> dict[str, bytes]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        found = {}
        for member in archive:
            assert (member.mode, member.uid, member.gid, member.mtime, member.uname) == (0o444, 0, 0, 0, "")
            data = archive.extractfile(member)
            assert data is not None
            found[member.name] = data.read()
    file.seek(0)
    return found


def verdict(verifier: ModuleType, file: io.BytesIO, evidence: Evidence) -> tuple[int, str]:
    file.seek(0)
    found = verifier.verify_file(file, evidence.keyring.root_fingerprint)
    return found.status, found.text


async def test_a_whole_chain_verifies_offline(evidence: Evidence, tenant: str, verifier: ModuleType) -> None:
    await evidence.keep(tenant, range(5))
    await evidence.keep(tenant, range(5, 700))
    made, file = await written(evidence.bundler, Range(tenant, 1, 700))
    assert verdict(verifier, file, evidence) == (0, "the bundle is whole")
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
async def test_every_range_of_a_chain_verifies_offline(
    evidence: Evidence, tenant: str, verifier: ModuleType, first: int, last: int
) -> None:
    await evidence.keep(tenant, range(300))
    await evidence.keep(tenant, range(300, 600))
    made, file = await written(evidence.bundler, Range(tenant, first, last), include_trace=True)
    assert verdict(verifier, file, evidence) == (0, "the bundle is whole")
    assert (made.predicate["first_seq"], made.predicate["last_seq"], made.predicate["tree_size"]) == (first, last, 600)


async def test_traces_are_the_artifacts_spans_and_are_summed_up_with_or_without_them(
    evidence: Evidence, tenant: str, verifier: ModuleType
) -> None:
    await evidence.keep(tenant, range(4))
    wanted = Range(tenant, 1, 4)
    without, _ = await written(evidence.bundler, wanted)
    made, file = await written(evidence.bundler, wanted, include_trace=True)
    assert verdict(verifier, file, evidence) == (0, "the bundle is whole")
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


class Worker:
    """The worker's exporter over evidence of a test, and what an edge asks of it."""

    def __init__(self, evidence: Evidence, edge: Pool, worm: DirectoryWorm) -> None:
        self.exporter = Exporter(load({}).evidence, evidence.pool, worm, SystemClock())
        self.desk = ExportDesk(edge, worm)

    async def order(self, tenant: str) -> str:
        bundle_id = new_uuid7()
        assert await self.desk.order(tenant, bundle_id, ("", "", True), "key") == 0
        return bundle_id

    async def attempt(self, tenant: str, bundle_id: str) -> Any:
        """How the bundle stands once every order there is had a turn."""
        while await self.exporter._next():
            pass
        found = await self.desk.status(tenant, bundle_id)
        assert found is not None
        return msgspec.json.decode(found)


@pytest.fixture
def signing(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter finds its keys, and waits for nothing."""
    monkeypatch.setattr(exporter, "keys_of", lambda _: Keys(evidence.signer, evidence.keyring, SECRET))
    monkeypatch.setattr(exporter, "WAIT_S", 0)


@pytest.mark.usefixtures("signing")
async def test_an_order_that_is_too_large_fails_and_says_what_to_do(
    evidence: Evidence, edge: Pool, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evidence.keep(tenant, range(5))
    worker = Worker(evidence, edge, evidence.worm)
    monkeypatch.setattr(bundle_tar, "MEMBER_BYTES_MAX", 1_000)
    status = await worker.attempt(tenant, await worker.order(tenant))
    assert status["status"] == "failed"
    assert "choose a shorter time" in status["bundle"]["reason"]


@pytest.mark.usefixtures("signing")
async def test_an_order_that_never_becomes_ready_fails_after_its_attempts(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any
) -> None:
    await evidence.decide(tenant, range(3))
    worker = Worker(evidence, edge, evidence.worm)
    bundle_id = await worker.order(tenant)
    for _ in range(ATTEMPTS_MAX - 1):
        assert (await worker.attempt(tenant, bundle_id))["status"] == "pending"
        await superuser.execute("UPDATE export_requests SET taken_until = now() WHERE tenant_id = $1", tenant)
    status = await worker.attempt(tenant, bundle_id)
    assert (status["status"], status["bundle"]["reason"]) == (
        "failed",
        "given up after 5 attempts: of 3 entries 0 are sealed and 0 covered by a checkpoint",
    )


class Halting(DirectoryWorm):
    """A store that goes away after so many objects."""

    left = 0

    async def put(self, key: str, data: bytes, *, retain_days: int) -> None:
        if not self.left:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        self.left -= 1
        await super().put(key, data, retain_days=retain_days)


@pytest.mark.usefixtures("signing")
async def test_attempts_at_one_order_share_its_pieces(
    evidence: Evidence, edge: Pool, tenant: str, superuser: Any, verifier: ModuleType, tmp_path: Path
) -> None:
    """Evidence that was committed between them changes nothing of what they build."""
    await evidence.keep(tenant, range(1_200))
    store = Halting(tmp_path)
    worker = Worker(evidence, edge, store)
    bundle_id = await worker.order(tenant)
    store.left = 2
    assert (await worker.attempt(tenant, bundle_id))["status"] == "pending"
    await evidence.keep(tenant, range(1_200, 1_300))
    await superuser.execute("UPDATE export_requests SET taken_until = now() WHERE tenant_id = $1", tenant)
    store.left = 100
    status = await worker.attempt(tenant, bundle_id)
    assert (status["status"], status["bundle"]["last_seq"]) == ("ready", 1_200)
    content = await worker.desk.content(tenant, bundle_id)
    assert content is not None
    file = io.BytesIO(b"".join([piece async for piece in content[1]]))
    assert verdict(verifier, file, evidence) == (0, "the bundle is whole")
    stored = [path.stat().st_size for path in (tmp_path / "exports").rglob("*") if path.is_file()]
    assert sum(stored) == status["bytes"] == len(file.getvalue())


async def test_a_file_stays_when_the_database_takes_no_note_of_it_and_is_not_replaced_unasked(
    evidence: Evidence, tenant: str, verifier: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert verdict(verifier, io.BytesIO(data), evidence) == (0, "the bundle is whole")
    with pytest.raises(FileExistsError):
        await export._write(evidence.pool, load({}), asked)
    assert (list(output.parent.iterdir()), output.read_bytes()) == ([output], data)
