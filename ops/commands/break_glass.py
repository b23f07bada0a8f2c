"""`frostgate break-glass`: the emergency override for the loss of Redis."""

import json
import os
import pwd
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.break_glass import PAYLOAD_TYPE, ArmedDocument, Document, DocumentError
from ops.clock import SystemClock, new_uuid7
from ops.commands.target import data_dir_option, json_option, settings_of
from schemas.canonical import canonical_plain
from schemas.units import UnixMs, format_rfc3339
from sinks.durable_file import write_new
from sinks.signing import KeyFileError, Signer, create_key

_MINUTES_MAX = 60
_REASON_CHARACTERS_MAX = 500
_file = click.Path(path_type=Path, dir_okay=False)


@click.group("break-glass")
def break_glass() -> None:
    """Sign, arm and disarm the emergency override for the loss of Redis.

    While a document is armed, events are accepted without Redis: their rate is not limited and nonces
    are not checked. Nothing else is waived. See docs/break-glass.md.

    \b
    Example:
      frostgate break-glass keygen break-glass-key.pem
      frostgate break-glass sign --key break-glass-key.pem --minutes 30 --reason "Redis is down" -o override.json
      frostgate break-glass arm override.json
      frostgate break-glass disarm
    """


@break_glass.command(
    epilog="""\b
Example:
  frostgate break-glass keygen break-glass-key.pem

Exit status: 0 written; 1 a file is there already, or cannot be written; 2 usage or configuration."""
)
@click.argument("key_file", type=_file)
@json_option
def keygen(key_file: Path, as_json: bool) -> None:
    """Make a key that may sign overrides: KEY_FILE (mode 0600), and its public half in KEY_FILE.pub.

    Keep KEY_FILE away from the edges; give them KEY_FILE.pub as FG_BREAK_GLASS_PUBLIC_KEY_FILE.
    """
    public_file = key_file.with_name(f"{key_file.name}.pub")
    try:
        create_key(key_file)
        public = Signer.load(key_file).public_key
        write_new(public_file, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except OSError as problem:
        raise click.ClickException(f"{problem.filename2 or problem.filename}: {problem.strerror}") from problem
    _print({"key_file": str(key_file), "public_key_file": str(public_file)}, f"{key_file}, {public_file}", as_json)


@break_glass.command(
    epilog="""\b
Example:
  frostgate break-glass sign --key break-glass-key.pem --environment prod --minutes 30 --reason "Redis is down" \\
    -o override.json

Exit status: 0 signed; 1 the key cannot be used, or the file is there already; 2 usage or configuration."""
)
@click.option("--key", "key_file", type=_file, required=True, help="Key made by `keygen`.")
@click.option(
    "--environment", type=click.Choice(["dev", "prod"]), default="dev", show_default=True, help="FG_ENV of the edges."
)
@click.option("--minutes", type=click.IntRange(1, _MINUTES_MAX), default=30, show_default=True, help="Valid from now.")
@click.option("--reason", required=True, help="Why; kept in the document.")
@click.option("--operator", help="Who signs.  [default: the user's name]")
@click.option("-o", "--output", type=_file, required=True, help="File to write; it must not exist.")
@json_option
def sign(  # noqa: PLR0913  (one argument per option)
    *, key_file: Path, environment: str, minutes: int, reason: str, operator: str | None, output: Path, as_json: bool
) -> None:
    """Sign an override that is valid from now, for one environment, and can be armed once."""
    if not 0 < len(reason.strip()) <= _REASON_CHARACTERS_MAX:
        raise click.BadParameter(f"1 to {_REASON_CHARACTERS_MAX} characters", param_hint="--reason")
    now_ms = SystemClock().now_ms()
    document = Document(
        id=new_uuid7(),
        environment=environment,
        not_before=format_rfc3339(now_ms),
        not_after=format_rfc3339(UnixMs(now_ms + minutes * 60_000)),
        reason=reason,
        operator=operator or pwd.getpwuid(os.geteuid()).pw_name,
    )
    try:
        write_new(output, Signer.load(key_file).sign(PAYLOAD_TYPE, canonical_plain(document)), 0o600)
    except KeyFileError as problem:
        raise click.ClickException(str(problem)) from problem
    except OSError as problem:
        raise click.ClickException(f"{output}: {problem.strerror}") from problem
    _show(document, f"signed; arm it before {document.not_after}: frostgate break-glass arm {output}", as_json)


@break_glass.command(
    epilog="""\b
Example:
  frostgate break-glass arm override.json

Exit status: 0 armed; 1 refused; 2 usage or configuration."""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
@data_dir_option
def arm(file: Path, as_json: bool, data_dir: Path | None) -> None:
    """Arm the document FILE for the edges of this data directory; they follow within a second.

    Run it as the user of the edges, whose FG_ENV, FG_BREAK_GLASS_FILE and FG_BREAK_GLASS_PUBLIC_KEY_FILE count.
    """
    try:
        document = _armed_document(data_dir).arm(file.read_bytes())
    except DocumentError as problem:
        _refuse(str(problem))
    except OSError as problem:
        _refuse(f"{problem.filename}: {problem.strerror}")
    _show(document, f"armed until {document.not_after}", as_json)


@break_glass.command(
    epilog="""\b
Example:
  frostgate break-glass status --json

Exit status: 0 a document is in force; 1 none is; 2 usage or configuration."""
)
@json_option
@data_dir_option
def status(as_json: bool, data_dir: Path | None) -> None:
    """Say which document is in force, or why none is."""
    try:
        document = _armed_document(data_dir).current()
    except DocumentError as problem:
        if as_json:
            click.echo("null")
        raise click.ClickException(f"nothing is in force: {problem}") from problem
    _show(document, f"in force until {document.not_after}", as_json)


@break_glass.command(
    epilog="""\b
Example:
  frostgate break-glass disarm

Exit status: 0 disarmed; 1 no document was in force; 2 usage or configuration."""
)
@json_option
@data_dir_option
def disarm(as_json: bool, data_dir: Path | None) -> None:
    """Take the armed document out of force; the edges follow within a second. It can never be armed again."""
    try:
        document_id = _armed_document(data_dir).disarm()
    except OSError as problem:
        _refuse(f"{problem.filename}: {problem.strerror}")
    if document_id is None:
        if as_json:
            click.echo(json.dumps({"disarmed": None}))
        raise click.ClickException("no document was in force")
    _print({"disarmed": document_id}, f"disarmed {document_id}", as_json)


def _armed_document(data_dir: Path | None) -> ArmedDocument:
    settings = settings_of(data_dir)
    return ArmedDocument(settings.break_glass_file, settings.break_glass_public_key_file, settings.env, SystemClock())


def _refuse(words: str) -> NoReturn:
    raise click.ClickException(f"refused: {words}")


def _show(document: Document, words: str, as_json: bool) -> None:
    text = f"{document.id} for {document.environment}, by {document.operator}: {document.reason}\n{words}"
    _print(msgspec.to_builtins(document), text, as_json)


def _print(document: dict[str, str], text: str, as_json: bool) -> None:
    click.echo(json.dumps(document) if as_json else text)
