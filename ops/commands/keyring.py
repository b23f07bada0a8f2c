"""`frostgate keyring`: the public keys of evidence, signed by a root key that is kept offline."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from ops.clock import SystemClock
from ops.commands.target import data_dir_option, json_option, settings_of
from ops.evidence_files import RING_MODE, CheckpointSecretError, make_checkpoint_secret, read_checkpoint_secret
from schemas.checkpoint import tenant_key
from schemas.ids import is_tenant_id
from schemas.units import UnixMs
from sinks import keyring as rings
from sinks.durable_file import sync_directory, write_new
from sinks.keyring import Keyring, KeyringError
from sinks.settings import EvidenceSettings
from sinks.signing import KeyFileError, Signer, create_key, load_public_key

_file = click.Path(path_type=Path, dir_okay=False)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OVERLAP_MS_MAX = 30 * _UNIT_MS["d"]
_Answer = TypeVar("_Answer")


def _duration_ms(_context: click.Context, _option: click.Parameter, raw: str) -> int:
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", raw)
    if match is None or int(match[1]) * _UNIT_MS[match[2]] > _OVERLAP_MS_MAX:
        raise click.BadParameter("must be a number with s, m, h or d behind it, and at most 30d")
    return int(match[1]) * _UNIT_MS[match[2]]


_root_key_option = click.option(
    "--root-key", "root_key", type=_file, required=True, help="The root key, brought from where it is kept."
)


@click.group()
def keyring() -> None:
    """Make, rotate and show the key ring of evidence. See docs/keys.md.

    \b
    Example:
      frostgate keyring init --root-key-out root.pem
      frostgate keyring rotate --root-key root.pem
      frostgate keyring show
    """


@keyring.command(
    epilog="""\b
Example:
  frostgate keyring init --root-key-out /media/stick/root.pem

Exit status: 0 made; 1 a key ring or the root key's file is there, or cannot be written; 2 usage or configuration."""
)
@click.option("--root-key-out", "root_key", type=_file, required=True, help="New file for the root key.")
@json_option
@data_dir_option
def init(root_key: Path, as_json: bool, data_dir: Path | None) -> None:
    """Make a root key and the key ring's version 1, with signing key and checkpoint secret where they are missing.

    Take the root key off this machine afterwards; no service ever reads it. Note its fingerprint: verifiers
    pin it with --root.
    """
    evidence = settings_of(data_dir).evidence

    def make() -> Keyring:
        if evidence.keyring_file.exists():
            raise KeyringError(f"there is a key ring {evidence.keyring_file} already; see `frostgate keyring rotate`")
        create_key(root_key)
        if not evidence.signing_key_file.exists():
            create_key(evidence.signing_key_file)
        make_checkpoint_secret(evidence.checkpoint_secret_file)
        signing = Signer.load(evidence.signing_key_file).public_key
        made = rings.first(Signer.load(root_key), signing, SystemClock().now_ms())
        write_new(evidence.keyring_file, made.envelope, RING_MODE)
        return made

    _show(_tried(make), as_json=as_json)
    click.echo(f"the root key is in {root_key}: take it off this machine", err=True)


@keyring.command(
    epilog="""\b
Example:
  frostgate keyring rotate --root-key /media/stick/root.pem
  frostgate keyring rotate --root-key /media/stick/root.pem --overlap 0s

Exit status: 0 rotated; 1 a key cannot be used or a file cannot be written; 2 usage or configuration."""
)
@_root_key_option
@click.option(
    "--overlap",
    "overlap_ms",
    default="1h",
    show_default=True,
    metavar="TIME",
    callback=_duration_ms,
    help="How long the old key stays valid; 0s when it is no longer the owner's alone.",
)
@json_option
@data_dir_option
def rotate(root_key: Path, overlap_ms: int, as_json: bool, data_dir: Path | None) -> None:
    """Give evidence a new signing key, and say so in the key ring under both keys' signatures.

    Restart every worker within the overlap: one that still signs with the old key afterwards stops.
    The old private key is kept beside the new one as FILE.old-VERSION. Run again after it was
    interrupted, it finishes what it had begun.
    """
    evidence = settings_of(data_dir).evidence
    _show(_tried(lambda: _rotate(evidence, root_key, overlap_ms)), as_json=as_json)
    click.echo("restart the workers, and give the witness and every edge the new key ring", err=True)


@keyring.command(
    "add-witness",
    epilog="""\b
Example:
  frostgate keyring add-witness --public-key witness.pub --root-key /media/stick/root.pem

Exit status: 0 added; 1 it is known already, or a file cannot be used; 2 usage or configuration.""",
)
@click.option("--public-key", "public_key", type=_file, required=True, help="The witness's public key, PEM.")
@_root_key_option
@json_option
@data_dir_option
def add_witness(public_key: Path, root_key: Path, as_json: bool, data_dir: Path | None) -> None:
    """Let verifiers know a witness's public key."""
    evidence = settings_of(data_dir).evidence

    def add() -> Keyring:
        now_ms = SystemClock().now_ms()
        known = rings.load(evidence.keyring_file)
        made = rings.with_witness(known, Signer.load(root_key), load_public_key(public_key), now_ms)
        _replace(evidence.keyring_file, made.envelope)
        return made

    _show(_tried(add), as_json=as_json)


@keyring.command(
    epilog="""\b
Example:
  frostgate keyring show --json
  frostgate keyring show --tenant acme

Exit status: 0 shown; 1 there is no key ring, or it proves nothing, or --tenant and no checkpoint secret; \
2 usage or configuration."""
)
@click.option("--tenant", help="Show the fingerprint of this tenant's key too; verifiers pin it with --tenant-key.")
@json_option
@data_dir_option
def show(tenant: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Show the key ring: the root key's fingerprint, and each key with its times."""
    if tenant is not None and not is_tenant_id(tenant):
        raise click.UsageError("--tenant takes a tenant id")
    evidence = settings_of(data_dir).evidence
    shown = _tried(lambda: rings.load(evidence.keyring_file))
    fingerprint = "" if tenant is None else _tried(lambda: _tenant_fingerprint(evidence.checkpoint_secret_file, tenant))
    _show(shown, as_json=as_json, tenant_key_sha256=fingerprint)


def _tenant_fingerprint(secret_file: Path, tenant_id: str) -> str:
    """What may be published of a tenant's key. Raises CheckpointSecretError."""
    return hashlib.sha256(tenant_key(read_checkpoint_secret(secret_file), tenant_id)).hexdigest()


def _rotate(evidence: EvidenceSettings, root_key: Path, overlap_ms: int) -> Keyring:
    """Ring first, key file last: a service that starts in between finds a key that the ring still allows."""
    known = rings.load(evidence.keyring_file)
    fresh = evidence.signing_key_file.with_name(f"{evidence.signing_key_file.name}.new")
    if not fresh.exists():
        create_key(fresh)
    old, new = Signer.load(evidence.signing_key_file), Signer.load(fresh)
    if new.key_id not in known.public_keys():
        now_ms = SystemClock().now_ms()
        times = (now_ms, UnixMs(now_ms + overlap_ms))
        known = rings.rotated(known, Signer.load(root_key), old, new, times)
        _replace(evidence.keyring_file, known.envelope)
    kept = evidence.signing_key_file.with_name(f"{evidence.signing_key_file.name}.old-{known.ring.version}")
    if not kept.exists():
        kept.hardlink_to(evidence.signing_key_file)
    fresh.replace(evidence.signing_key_file)
    sync_directory(evidence.signing_key_file.parent)
    return known


def _replace(file: Path, data: bytes) -> None:
    """On return the file holds the data; at no moment it is missing or holds half of it."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    write_new(fresh, data, RING_MODE)
    fresh.replace(file)
    sync_directory(file.parent)


def _tried(action: Callable[[], _Answer]) -> _Answer:
    try:
        return action()
    except (KeyringError, KeyFileError, CheckpointSecretError) as problem:
        raise click.ClickException(str(problem)) from problem
    except OSError as problem:
        name = os.fspath(problem.filename2 or problem.filename or "")
        raise click.ClickException(f"{name}: {problem.strerror}") from problem


def _show(shown: Keyring, *, as_json: bool, tenant_key_sha256: str = "") -> None:
    """With the fingerprint of a tenant's key where there is one."""
    if as_json:
        keys = [
            {"key_id": one.key_id, "use": one.use, "not_before": one.not_before, "not_after": one.not_after}
            for one in shown.ring.keys
        ]
        document = {"root": shown.root_fingerprint, "version": shown.ring.version, "keys": keys}
        click.echo(json.dumps(document | ({"tenant_key_sha256": tenant_key_sha256} if tenant_key_sha256 else {})))
        return
    click.echo(f"root {shown.root_fingerprint}")
    click.echo(f"version {shown.ring.version}, {shown.ring.created_at}")
    for one in shown.ring.keys:
        click.echo(f"{one.key_id}  {one.use}  {one.not_before}  {one.not_after or 'no end'}")
    if tenant_key_sha256:
        click.echo(f"tenant key {tenant_key_sha256}")
