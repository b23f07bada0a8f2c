"""`frostgate export`: a tenant's evidence as one file that anybody can verify."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from ops.clock import SystemClock, new_uuid7
from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from ops.evidence_files import CheckpointSecretError
from ops.exporter import NotReadyError, Patience, bundler_of, until_ready
from ops.settings import Settings
from schemas.answers import NoAnswer, Refusal
from schemas.ids import is_tenant_id
from schemas.units import format_rfc3339, parse_rfc3339
from sinks.bundle_range import NothingToExportError, Standing, range_of
from sinks.bundle_tar import TooLargeError
from sinks.bundles import BundleError, Wanted, Written
from sinks.exports import Exports
from sinks.keyring import KeyringError
from sinks.pg import Pool
from sinks.segments import EvidenceError
from sinks.signing import KeyFileError

WAIT_S = 60.0
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""How a file system says that it has no second names for a file, as on most memory sticks."""
TOLD_EVERY = 50_000
"""Entries between two lines of progress."""


class Moment(click.ParamType[str]):
    """An RFC 3339 moment, in the one form the chain writes."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return format_rfc3339(parse_rfc3339(value)) if value else ""
        except ValueError:
            return self.fail(f"{value!r} is no RFC 3339 moment such as 2026-02-01T00:00:00Z", param, ctx)


class Asked(NamedTuple):
    """What the operator asked for."""

    tenant_id: str
    ingested_from: str
    ingested_to: str
    include_trace: bool
    wait_s: float
    output: Path
    force: bool


@click.command(
    epilog="""\b
Example:
  frostgate export -o evidence.tar
  frostgate export --tenant acme --from 2026-02-01T00:00:00Z --to 2026-02-28T23:59:59.999Z -o february.tar
  python scripts/verify_data_plane_hashchain.py evidence.tar --root FINGERPRINT

Exit status: 0 written; 1 nothing written: no such evidence, not sealed in time, or not what was
signed; or written, and not noted in the database; 2 usage or configuration."""
)
@click.option("--tenant", help="Whose evidence.  [default: the tenant of the running stack]")
@click.option("--from", "ingested_from", type=Moment(), default="", help="From the first event received then or later.")
@click.option("--to", "ingested_to", type=Moment(), default="", help="To the last event received then or before.")
@click.option("--include-trace", is_flag=True, help="With a line of spans for each entry.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=WAIT_S, show_default=True, help="Seconds to wait.")
@json_option
@data_dir_option
def export(  # noqa: PLR0913  (an option each)
    *,
    tenant: str | None,
    ingested_from: str,
    ingested_to: str,
    include_trace: bool,
    output: Path,
    force: bool,
    wait_s: float,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Write a tenant's evidence, sealed and signed, to one tar file (docs/exports.md).

    Everything committed when it begins is in it: what is not sealed or covered by a checkpoint yet, a running
    worker is waited for. --from and --to choose one unbroken part of the chain: what lies between the first
    and the last event of that time. Needs the evidence key, the key ring, the checkpoint secret and the store.
    """
    settings = settings_of(data_dir)
    target = database_target(settings)
    tenant_id = tenant or target.tenant_id
    if tenant_id is None or not is_tenant_id(tenant_id):
        raise click.UsageError("whose evidence? pass --tenant with a tenant id")
    if output.exists() and not force:
        raise click.UsageError(f"{output} is there already: pass --force to replace it")
    asked = Asked(tenant_id, ingested_from, ingested_to, include_trace, wait_s, output, force)
    with _explained(asked):
        written = on_database(target, lambda pool: _write(pool, settings, asked))
    if as_json:
        told = {"file": str(output), "sha256": written.sha256, "bytes": written.bytes}
        click.echo(json.dumps(told | {"predicate": written.predicate}))
        return
    predicate = written.predicate
    click.echo(f"wrote {output}: {written.bytes} bytes, entries {predicate['first_seq']} to {predicate['last_seq']}")
    click.echo(f"sha256 {written.sha256}")


@contextmanager
def _explained(asked: Asked) -> Iterator[None]:
    """What keeps a bundle from being written, in words for the operator."""
    try:
        yield
    except NothingToExportError as problem:
        raise click.ClickException(
            f"tenant {asked.tenant_id} has no evidence of that time: nothing is written"
        ) from problem
    except NotReadyError as problem:
        raise click.ClickException(
            f"{problem}: does a worker run? It seals and covers what is committed. Nothing is written"
        ) from problem
    except (EvidenceError, Refusal) as problem:
        raise click.ClickException(f"EVIDENCE_UNVERIFIED: {problem}. Nothing is written") from problem
    except (
        BundleError,
        TooLargeError,
        KeyFileError,
        KeyringError,
        CheckpointSecretError,
        NotADirectoryError,
    ) as problem:
        raise click.ClickException(f"{problem}. Nothing is written") from problem
    except OSError as problem:
        raise click.ClickException(f"{asked.output} cannot be written: {problem.strerror}") from problem


@contextmanager
def _whole(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """A file that gets its name, whole, when the block has ended without an exception; else nothing of it is left.

    Raises OSError.
    """
    part = path.with_name(f".{path.name}.{new_uuid7()}.part")
    file = part.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            _named_if_free(part, path)
    finally:
        part.unlink(missing_ok=True)


def _named_if_free(part: Path, path: Path) -> None:
    """On return `path` names the file too. Raises FileExistsError when somebody has made it meanwhile, and OSError."""
    try:
        path.hardlink_to(part)  # unlike a rename, a link never replaces
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "somebody has made it meanwhile") from None
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        # For a moment the name is an empty file's, which keeps it from everybody else who asks for it so.
        with path.open("xb"):
            part.replace(path)


async def _write(pool: Pool, settings: Settings, asked: Asked) -> Written:
    clock = SystemClock()
    with _whole(asked.output, replace=asked.force) as file:
        bundler = bundler_of(settings.evidence, pool, clock)
        wanted = await range_of(pool, asked.tenant_id, asked.ingested_from, asked.ingested_to)
        await until_ready(pool, wanted, Patience(asked.wait_s, _told_waiting))
        bundle = Wanted(new_uuid7(), wanted, asked.include_trace)

        async def sink(data: bytes) -> None:
            file.write(data)

        written = await bundler.write(bundle, sink, _told_written)
    try:
        await Exports(pool).keep(bundle, written, "frostgate export")
    except NoAnswer as problem:
        raise click.ClickException(
            f"{asked.output} is written and whole, but the database did not take note of it: {problem}"
        ) from problem
    return written


def _told_waiting(standing: Standing) -> None:
    entries, sealed, covered = standing
    click.echo(f"waiting for a worker: {sealed} of {entries} sealed, {covered} covered", err=True)


def _told_written(member: str, done: int, entries: int) -> None:
    if done == entries or done % TOLD_EVERY == 0:
        click.echo(f"{member}: {done} of {entries}", err=True)
