"""`frostgate keyring` as an operator uses it: made once, rotated with both keys' signatures, never half."""

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from ops.clock import SystemClock
from ops.evidence_files import EvidenceFiles
from sinks.keyring import EVIDENCE, WITNESS, Keyring, fault_of, load
from sinks.signing import Signer, create_key, public_pem
from tests.integration.cli.commands import Shell


@pytest.fixture
def files(tmp_path: Path) -> EvidenceFiles:
    return EvidenceFiles.of(tmp_path)._replace(root_key=tmp_path / "stick.pem")


@pytest.fixture
def shell(tmp_path: Path, files: EvidenceFiles) -> Shell:
    made = Shell(tmp_path, FG_DATA_DIR=str(tmp_path))
    assert made.run("keyring", "init", "--root-key-out", str(files.root_key)).status == 0
    return made


def _ring(files: EvidenceFiles) -> Keyring:
    return load(files.keyring)


def _may_sign(files: EvidenceFiles) -> bool:
    return not fault_of(_ring(files), Signer.load(files.signing_key), SystemClock().now_ms())


def test_init_makes_everything_a_worker_needs_and_prints_the_fingerprint_to_pin(
    shell: Shell, files: EvidenceFiles
) -> None:
    assert _may_sign(files)
    assert stat.S_IMODE(files.root_key.stat().st_mode) == stat.S_IMODE(files.checkpoint_secret.stat().st_mode) == 0o600
    shown = shell.run("keyring", "show", "--json").document
    assert shown["root"] == _ring(files).root_fingerprint
    assert (shown["version"], [key["use"] for key in shown["keys"]]) == (1, [EVIDENCE])
    assert shown["root"] in shell.run("keyring", "show").stdout


def test_the_fingerprint_of_a_tenants_key_is_shown_and_the_key_is_not(shell: Shell, files: EvidenceFiles) -> None:
    key = hmac.digest(files.checkpoint_secret.read_bytes(), b"acme", "sha256")
    fingerprint = hashlib.sha256(key).hexdigest()
    assert shell.run("keyring", "show", "--tenant", "acme", "--json").document["tenant_key_sha256"] == fingerprint
    said = shell.run("keyring", "show", "--tenant", "acme").stdout
    assert (f"tenant key {fingerprint}" in said, key.hex() in said) == (True, False)
    assert shell.run("keyring", "show", "--tenant", "a/b").status == 2
    files.checkpoint_secret.unlink()
    ended = shell.run("keyring", "show", "--tenant", "acme")
    assert (ended.status, "holds no checkpoint secret" in ended.stderr) == (1, True)


def test_init_never_replaces_a_key_ring(shell: Shell, files: EvidenceFiles) -> None:
    before = files.keyring.read_bytes()
    again = shell.run("keyring", "init", "--root-key-out", str(files.root_key.with_name("other.pem")))
    assert again.status == 1
    assert "keyring rotate" in again.stderr
    assert files.keyring.read_bytes() == before
    assert not files.root_key.with_name("other.pem").exists()


def test_a_rotation_leaves_a_key_that_may_sign_and_keeps_the_old_one(shell: Shell, files: EvidenceFiles) -> None:
    old = Signer.load(files.signing_key)
    assert shell.run("keyring", "rotate", "--root-key", str(files.root_key), "--overlap", "0s").status == 0
    new = Signer.load(files.signing_key)
    assert new.key_id != old.key_id
    assert _may_sign(files)
    assert fault_of(_ring(files), old, SystemClock().now_ms()).startswith("SIGNING_KEY_EXPIRED")
    assert Signer.load(files.signing_key.with_name("signing-key.pem.old-2")).key_id == old.key_id
    assert [rotation.version for rotation, _envelope in _ring(files).rotations()] == [2]


def test_a_rotation_cut_short_after_the_ring_was_written_is_finished_by_the_next_call(
    shell: Shell, files: EvidenceFiles
) -> None:
    old = files.signing_key.read_bytes()
    assert shell.run("keyring", "rotate", "--root-key", str(files.root_key)).status == 0
    files.signing_key.rename(files.signing_key.with_name("signing-key.pem.new"))
    files.signing_key.write_bytes(old)
    files.signing_key.chmod(0o600)
    files.signing_key.with_name("signing-key.pem.old-2").unlink()
    assert _may_sign(files), "the old key holds during the overlap"
    assert shell.run("keyring", "rotate", "--root-key", str(files.root_key)).status == 0
    assert _ring(files).ring.version == 2
    assert files.signing_key.read_bytes() != old
    assert _may_sign(files)


def test_another_root_key_rotates_nothing(shell: Shell, files: EvidenceFiles) -> None:
    before = (files.keyring.read_bytes(), files.signing_key.read_bytes())
    create_key(files.root_key.with_name("other.pem"))
    ended = shell.run("keyring", "rotate", "--root-key", str(files.root_key.with_name("other.pem")))
    assert (ended.status, "not the one that signed" in ended.stderr) == (1, True)
    assert (files.keyring.read_bytes(), files.signing_key.read_bytes()) == before


def test_a_witness_is_added_by_its_public_key(shell: Shell, files: EvidenceFiles) -> None:
    witness = files.root_key.with_name("witness.pem")
    create_key(witness)
    public = witness.with_suffix(".pub")
    public.write_bytes(public_pem(Signer.load(witness).public_key))
    arguments = ("keyring", "add-witness", "--public-key", str(public), "--root-key", str(files.root_key))
    assert shell.run(*arguments).status == 0
    assert set(_ring(files).public_keys(WITNESS)) == {Signer.load(witness).key_id}
    assert shell.run(*arguments).status == 1
