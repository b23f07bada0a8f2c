"""`frostgate doctor`: what is configured, where from, and what is wrong with it."""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import click

from ops.commands.checks import Check, deployment_of, look
from ops.commands.target import data_dir_option, json_option
from ops.instance import Stack, read_stack
from ops.settings import SettingsError, effective, environment, load, settings_hash, unknown_variables
from ops.settings_table import TABLE
from ops.settings_types import SecretText, shown


class _Row(NamedTuple):
    """A variable with its effective value, as a person may see it."""

    name: str
    value: str
    source: str


@click.command(
    epilog="""\b
Example:
  frostgate doctor
  FG_ENV=prod frostgate doctor --json

Exit status: 0 nothing is wrong; 1 something is."""
)
@json_option
@data_dir_option
def doctor(as_json: bool, data_dir: Path | None) -> None:
    """Show the effective configuration and look at everything it names.

    Each value comes from the environment, the default, or the stack that runs in the data
    directory. Secrets are masked. What has an address is asked: do the migrations and the
    topology fit this version, does everything answer, is it ready?
    """
    environ = dict(environment())
    if data_dir is not None:
        environ["FG_DATA_DIR"] = str(data_dir)
    logging.getLogger("streams").setLevel(logging.CRITICAL)  # its findings are said once, below
    stack: Stack | None = None
    config_hash: str | None = None
    try:
        settings = load(environ)
        stack = read_stack(settings.data_dir)
        config_hash = settings_hash(settings)
        checks = [Check("configuration", "", []), *asyncio.run(look(deployment_of(settings, stack)))]
    except SettingsError as problem:
        checks = [Check("configuration", "", list(problem.faults))]
    rows = _rows(environ, stack)
    wrong = any(check.findings for check in checks)
    if as_json:
        document = {
            "ok": not wrong,
            "config_hash": config_hash,
            "configuration": [row._asdict() for row in rows],
            "warnings": unknown_variables(environ),
            "checks": [check._asdict() | {"ok": not check.findings} for check in checks],
        }
        click.echo(json.dumps(document))
    else:
        _tell(rows, unknown_variables(environ), checks)
    if wrong:
        raise click.exceptions.Exit(1)


def _rows(environ: Mapping[str, str], stack: Stack | None) -> list[_Row]:
    """Every variable; where the environment says nothing, the running stack does."""
    rows = [_Row(variable.name, value, source) for variable, value, source in effective(environ)]
    if stack is None:
        return rows
    running = {
        "FG_URL": stack.url,
        "FG_API_KEY": stack.api_key,
        "FG_NATS_URL": stack.nats_url,
        "FG_ADMIN_POSTGRES_DSN": stack.postgres_dsn,
        "FG_REDIS_URL": stack.redis_url,
    }
    return [
        _Row(row.name, shown(TABLE[row.name], SecretText(running[row.name])), "stack")
        if row.name in running and row.source == "default"
        else row
        for row in rows
    ]


def _tell(rows: list[_Row], warnings: list[str], checks: list[Check]) -> None:
    width = max(len(row.name) for row in rows)
    for row in rows:
        click.echo(f"{row.name:<{width}}  {row.value or TABLE[row.name].default_note or '-'}  ({row.source})")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("")
    for check in checks:
        click.echo(f"{'FAIL' if check.findings else 'ok  '}  {check.name} {check.target}".rstrip())
        for finding in check.findings:
            click.echo(f"      {finding}")
    if len(checks) == 1 and not checks[0].findings:
        click.echo("nothing to ask: no stack runs in the data directory, and no FG_ variable names a deployment")
