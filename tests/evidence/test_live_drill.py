"""The drill on what is live: rows changed by whoever owns the database, and bytes of sealed segments."""

import asyncio
import random
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ops.embedded import EmbeddedServers
from schemas.units import UnixMs
from sinks.migrate import migrate
from sinks.segments import EvidenceError, SealedInput, read_artifact, seal, verify_segment
from sinks.signing import Signer
from sinks.worm import DirectoryWorm
from tests.evidence import bundle_maker as make
from tests.evidence import live
from tests.evidence.loading import SCRIPT, verifier

ROWS = 1_000
ROUNDS = 100
SEGMENTS = 400


@pytest.fixture(scope="module")
async def dsn(servers: EmbeddedServers) -> AsyncIterator[str]:
    """A database of this module alone, with two tenants' evidence and nothing that keeps bad rows out."""
    name = f"drill_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(servers.postgres_dsn("admin"))
    await admin.execute(f"CREATE DATABASE {name}")
    at = servers.postgres_dsn("admin").rpartition("/")[0] + f"/{name}"
    await migrate(at, servers.role_passwords())
    yield at
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="module")
async def superuser(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    await connection.execute(live.UNLOCK)
    await live.fill(connection)
    yield connection
    await connection.close()


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch, signatures: object) -> Any:
    monkeypatch.setattr(verifier, "ed25519_verifies", signatures)
    return verifier.read_ring(make.keyring(), None)


@pytest.fixture
def worm(tmp_path: Path) -> Path:
    """The store with both tenants' artifacts."""
    live.seal(tmp_path)
    return tmp_path


async def verdict(connection: Any, ring: Any, worm: Path) -> tuple[int, int | None, str]:
    """The verifier's word on what this transaction sees."""
    store = verifier.Store(worm)
    database = verifier.Database(connection, ring, store)
    try:
        await database.verify(await database.tenants())
    except verifier.FaultError as fault:
        return fault.status, fault.seq, fault.text
    finally:
        store.close()
    return 0, None, "whole"


async def drill(connection: Any, known: tuple[Any, Path], kinds: tuple[live.Kind, ...], seeds: list[str]) -> None:
    assert (await verdict(connection, *known))[0] == 0
    for seed in seeds:
        choose = random.Random(seed)
        transaction = connection.transaction()
        await transaction.start()
        damage = await choose.choice(kinds)(connection, choose)
        status, seq, text = await verdict(connection, *known)
        await transaction.rollback()
        assert status in damage.statuses, (seed, damage, status, seq, text)
        assert not damage.seqs or seq in damage.seqs, (seed, damage, status, seq, text)
    assert (await verdict(connection, *known))[0] == 0


async def test_every_change_of_a_row_is_found(superuser: Any, remembering: Any, worm: Path, seed: str) -> None:
    print(f"FG_TEST_SEED={seed}")
    async with superuser.transaction():
        seeds = [f"{seed}-row-{number}" for number in range(ROWS)]
        await drill(superuser, (remembering, worm), live.ROW_KINDS, seeds)


async def test_every_change_of_a_checkpoint_is_found(superuser: Any, remembering: Any, worm: Path, seed: str) -> None:
    print(f"FG_TEST_SEED={seed}")
    async with superuser.transaction():
        seeds = [f"{seed}-round-{number}" for number in range(ROUNDS)]
        await drill(superuser, (remembering, worm), (live.damage_rounds,), seeds)


async def test_every_change_of_a_stored_artifact_is_found(
    superuser: Any, remembering: Any, worm: Path, seed: str
) -> None:
    print(f"FG_TEST_SEED={seed}")
    files = live.seal(worm)
    for number in range(SEGMENTS):
        choose = random.Random(f"{seed}-segment-{number}")
        file = choose.choice(files)
        whole = file.read_bytes()
        tenant, data, seqs = live.changed_segment(choose, file, whole)
        file.write_bytes(data)
        async with superuser.transaction():
            status, seq, text = await verdict(superuser, remembering, worm)
        file.write_bytes(whole)
        assert (status, seq in seqs) == (1, True), (number, tenant, status, seq, text)
    files[0].unlink()
    async with superuser.transaction():
        found = await verdict(superuser, remembering, worm)
    assert found == (1, 1, "its segment is not in the WORM directory")


async def test_the_command_verifies_a_live_database(superuser: Any, dsn: str, tmp_path: Path, worm: Path) -> None:
    ring = tmp_path / "keyring.json"
    ring.write_bytes(make.keyring())

    async def run(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), "--dsn", dsn, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    status, said = await run()
    assert (status, "2 tenants, 24 entries, 2 rounds" in said, "signatures not checked" in said) == (0, True, True)
    assert "no row was held to them: pass --worm DIR" in said
    status, said = await run("--worm", str(worm))
    assert (status, "24 artifacts held to their entries and rows, 0 wait" in said) == (0, True)
    assert "pass --worm" not in said
    assert (await run("--worm", str(tmp_path / "none")))[0] == 69
    status, said = await run("--keyring", str(ring), "--tenant", "globex")
    assert (status, "1 tenants, 12 entries" in said, "signatures not checked" in said) == (0, True, False)
    change = "UPDATE chain_entries SET entry = replace(entry, 'e-7', $1) WHERE tenant_id = 'acme' AND seq = 7"
    await superuser.execute(change, "e-0")
    try:
        status, said = await run()
    finally:
        await superuser.execute(
            "UPDATE chain_entries SET entry = $1 WHERE tenant_id = 'acme' AND seq = 7", live.ACME.entries[6].decode()
        )
    assert (status, said.splitlines()[0]) == (1, "tampered: entry 7: its columns say something else (tenant acme)")


async def test_a_tenants_login_verifies_what_it_may_see(superuser: Any, dsn: str, servers: EmbeddedServers) -> None:
    assert superuser is not None
    role, password = "fg_admin", servers.role_passwords()["fg_admin"]
    connection = await asyncpg.connect(dsn, user=role, password=password)
    try:
        answer = await verifier.verify_database(connection)
    finally:
        await connection.close()
    assert (answer.status, answer.facts["tenants"], answer.facts["entries"]) == (0, 2, 24)


@pytest.mark.parametrize("column", ["ingest_ts = ingest_ts + interval '1 ms'", "policy_hash = ''", "trace_id = ''"])
async def test_what_a_decision_copies_of_its_entry_is_compared_without_the_artifacts(
    superuser: Any, remembering: Any, column: str
) -> None:
    transaction = superuser.transaction()
    await transaction.start()
    await superuser.execute(f"UPDATE decisions SET {column} WHERE tenant_id = 'acme' AND decision_id = 7")  # noqa: S608
    with pytest.raises(verifier.FaultError, match="its decision is another one") as raised:
        await verifier.Database(superuser, remembering).verify(["acme"])
    assert (raised.value.status, raised.value.seq) == (1, 7)
    await transaction.rollback()


async def test_a_tenant_alone_is_not_excused_from_its_rounds(superuser: Any, remembering: Any) -> None:
    """Without its frontier nothing says which leaves are its own; that there is a leaf of nobody's is said anyway."""
    async with superuser.transaction():
        database = verifier.Database(superuser, remembering)
        await database.verify(["acme"])
    transaction = superuser.transaction()
    await transaction.start()
    await superuser.execute("DELETE FROM chain_frontiers WHERE tenant_id = 'acme'")
    with pytest.raises(verifier.FaultError, match="whose tree is on no record"):
        await verifier.Database(superuser, remembering).verify(["acme"])
    await transaction.rollback()


@pytest.mark.parametrize(("made", "what"), [("now()", "round 1"), (f"'{make.moment(0)}'", "up to here")])
async def test_a_round_counts_only_where_its_key_held(superuser: Any, made: str, what: str) -> None:
    """When it was made, and, since whoever owns the database can write that anew, when the newest entry in it came."""
    ended = (make.RingKey(make.SIGNER, not_after=make.moment(4)), *make.RING[1:])
    ring = verifier.read_ring(make.keyring(keys=ended), None)
    transaction = superuser.transaction()
    await transaction.start()
    await superuser.execute(f"UPDATE chain_checkpoints SET created_at = {made}, cosignature = ''")  # noqa: S608
    with pytest.raises(verifier.FaultError, match="outside of its key's time") as raised:
        await verifier.Database(superuser, ring).verify(["acme", "globex"])
    assert raised.value.status == verifier.UNKNOWN_KEY
    assert raised.value.text.startswith(what)
    await transaction.rollback()


@pytest.mark.usefixtures("superuser")
async def test_a_database_is_verified_as_it_stood_at_one_moment(dsn: str) -> None:
    """A round, its leaves and more entries are committed between the look at the rounds and that at the chains."""
    reader, writer = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await writer.execute("SET session_replication_role = replica")
    grown = live.Grown()

    class Watched:
        """The reader; whatever it is asked for first of a tenant, the writer was there before."""

        def __getattr__(self, name: str) -> Any:
            return getattr(reader, name)

        async def fetchrow(self, *words: Any) -> Any:
            await grown.once(writer)
            return await reader.fetchrow(*words)

    try:
        answer = await verifier.verify_database(Watched())
        assert (answer.status, answer.text, answer.facts["entries"]) == (0, "the database is whole", 24)
        assert grown.done
        assert (await verifier.verify_database(reader)).facts["entries"] == 26
    finally:
        await grown.undo(writer)
        await reader.close()
        await writer.close()


async def test_every_change_of_a_segment_is_refused(tmp_path: Path, seed: str) -> None:
    """Whole, by its signature, and each artifact as it is served, by its hash."""
    print(f"FG_TEST_SEED={seed}")
    choose, signer = random.Random(seed), Signer(Ed25519PrivateKey.generate())
    records = [make.canonical({"event_id": f"e-{number}", "text": "x" * number}) for number in range(20)]
    inputs = [
        SealedInput("acme", f"e-{number}", "decision", number + 1, record, make.sha256(record).hex())
        for number, record in enumerate(records)
    ]
    segment = seal(signer, 7, "pro", inputs, UnixMs(make.BEGIN_S * 1000))
    worm, keys = DirectoryWorm(tmp_path), {signer.key_id: signer.public_key}
    await worm.put(segment.key, segment.data, retain_days=1)
    assert verify_segment(segment.data, keys).segment_id == segment.segment_id
    file = tmp_path / segment.key
    file.chmod(0o600)
    for number in range(SEGMENTS):
        data = bytearray(segment.data)
        at = choose.randrange(len(data))
        how = choose.choice(("flip", "insert", "delete", "cut"))
        if how == "flip":
            data[at] ^= 1 << choose.randrange(8)
        elif how == "insert":
            data.insert(at, choose.randrange(256))
        elif how == "delete":
            del data[at]
        else:
            del data[at:]
        file.write_bytes(data)
        with pytest.raises(EvidenceError):
            verify_segment(bytes(data), keys)
        for place, record in choose.sample(list(zip(segment.placements, records, strict=True)), 3):
            whole = data[place.offset : place.offset + place.length] == record
            reading = read_artifact(worm, segment.segment_id, place.offset, place.length, place.artifact_sha256)
            if whole:
                assert await reading == record, (seed, number)
            else:
                with pytest.raises(EvidenceError):
                    await reading
