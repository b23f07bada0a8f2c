"""`frostgate policy data`: what single tenants add to the rules."""

import asyncio
import json
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from ops.commands.database import on_database
from ops.commands.limits import by_option
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from schemas.decision import PolicyAnswer
from schemas.policy_data import POLICY_DATA_BYTES_MAX, PolicyData, read_policy_data
from sinks.pg import Pool
from sinks.policy_data import PolicyDataRow, TenantPolicyData
from sinks.tenants import UnknownTenantError
from streams.features import KINDS
from streams.policy import NO_ANSWER, EmbeddedPolicy
from streams.policy_files import PolicyError

MALFORMED = "tenant.malformed_data"


@click.group()
def data() -> None:
    """Set, show and clear what single tenants add to the rules. Workers follow within 2 seconds.

    The rules see it as input.tenant. Those that ship let it add denials, never take one away.

    \b
    Example:
      frostgate policy data set acme acme.json
      frostgate policy data show acme
    """


@data.command(
    "set",
    epilog="""\b
Example:
  echo '{"denied_programs":["nmap"],"limits":{"failed_logins":5}}' > acme.json
  frostgate policy data set acme acme.json

Exit status: 0 set; 1 no such tenant, or the rules refuse the data; 2 usage or configuration.""",
)
@click.argument("tenant_id")
@click.argument("file", type=click.File("rb"))
@by_option
@data_dir_option
def set_data(tenant_id: str, file: BinaryIO, updated_by: str, data_dir: Path | None) -> None:
    """Give the rules the JSON object in FILE (- is the standard input) for events of TENANT_ID."""
    try:
        found = read_policy_data(file.read(2 * POLICY_DATA_BYTES_MAX + 1))
    except ValueError as problem:
        raise click.ClickException(f"{file.name} cannot be a tenant's policy data: {problem}") from problem
    settings = settings_of(data_dir)
    _try_out(settings.policy_dir, found)
    target = database_target(settings)
    try:
        on_database(target, lambda pool: TenantPolicyData(pool).set(tenant_id, found, updated_by))
    except UnknownTenantError as problem:
        raise click.ClickException(f"there is no tenant {tenant_id}: frostgate tenants add {tenant_id}") from problem
    click.echo(f"set {tenant_id}: {len(found.document)} bytes; workers follow within 2 seconds")


def _try_out(directory: Path, found: PolicyData) -> None:
    """Ask the rules about an empty event of each kind: data that would deny everything is refused here."""
    try:
        rules = EmbeddedPolicy.load(directory)
    except PolicyError as problem:
        raise click.UsageError(f"the rules cannot be used: {problem}") from problem

    async def ask(kind: str) -> PolicyAnswer:
        return await rules.evaluate({"event": {"payload": {"kind": kind}}, "tenant": msgspec.Raw(found.document)})

    for kind in sorted(KINDS):
        answer = asyncio.run(ask(kind))
        if answer == NO_ANSWER or MALFORMED in answer.reasons:
            raise click.ClickException(
                f"the rules refuse the data and would deny every event of kind {kind}: see docs/decisions.md"
            )


@data.command(
    epilog="""\b
Example:
  frostgate policy data clear acme

Exit status: 0 cleared; 1 it had none; 2 usage or configuration."""
)
@click.argument("tenant_id")
@by_option
@data_dir_option
def clear(tenant_id: str, updated_by: str, data_dir: Path | None) -> None:
    """Take away what TENANT_ID adds to the rules."""
    target = database_target(settings_of(data_dir))
    try:
        cleared = on_database(target, lambda pool: TenantPolicyData(pool).clear(tenant_id, updated_by))
    except UnknownTenantError:
        cleared = False
    if not cleared:
        raise click.ClickException(f"{tenant_id} has no policy data")
    click.echo(f"cleared {tenant_id}; workers follow within 2 seconds")


@data.command(
    epilog="""\b
Example:
  frostgate policy data show acme --json

Exit status: 0 shown; 1 it has none; 2 usage or configuration."""
)
@click.argument("tenant_id")
@json_option
@data_dir_option
def show(tenant_id: str, as_json: bool, data_dir: Path | None) -> None:
    """Show what TENANT_ID adds to the rules."""

    async def act(pool: Pool) -> PolicyDataRow | None:
        return await TenantPolicyData(pool).show(tenant_id)

    try:
        row = on_database(database_target(settings_of(data_dir)), act)
    except UnknownTenantError:
        row = None
    if row is None:
        raise click.ClickException(f"{tenant_id} has no policy data")
    found = json.loads(row.data.document)
    about = {"sha256": row.data.sha256, "updated_at": row.updated_at, "updated_by": row.updated_by}
    if as_json:
        click.echo(json.dumps({"tenant_id": tenant_id, "data": found, **about}))
    else:
        click.echo(json.dumps(found, indent=2))
        click.echo(f"set {row.updated_at} by {row.updated_by}, sha256 {row.data.sha256 or '-'}", err=True)
