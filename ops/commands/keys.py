"""`frostgate keys`: API keys."""

import json
from pathlib import Path

import click

from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from schemas.principal import Scope
from sinks.api_keys import ApiKey, ApiKeys
from sinks.tenants import UnknownTenantError


@click.group()
def keys() -> None:
    """Issue, revoke and list API keys.

    \b
    Example:
      frostgate keys issue acme --scope ingest --scope events:read
      frostgate keys list --tenant acme
    """


@keys.command(
    epilog="""\b
Example:
  frostgate keys issue acme --agent-id host-1

Exit status: 0 issued; 1 no such tenant; 2 usage or configuration."""
)
@click.argument("tenant_id")
@click.option("--agent-id", help="Only for events of this agent.  [default: any agent of the tenant]")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=(Scope.INGEST.value, Scope.EVENTS_READ.value),
    show_default=True,
    help="What the key may do; give it once for each.",
)
@json_option
@data_dir_option
def issue(tenant_id: str, agent_id: str | None, scopes: tuple[str, ...], as_json: bool, data_dir: Path | None) -> None:
    """Issue a key of the tenant TENANT_ID and print it. It is shown this once: nothing can read it again."""
    target = database_target(settings_of(data_dir))
    try:
        key = on_database(target, lambda pool: ApiKeys(pool).issue(tenant_id, agent_id, scopes))
    except UnknownTenantError as problem:
        raise click.ClickException(f"there is no tenant {tenant_id}: frostgate tenants add {tenant_id}") from problem
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--agent-id") from problem
    if as_json:
        click.echo(json.dumps({"key_id": key.key_id, "tenant_id": tenant_id, "api_key": key.secret}))
    else:
        click.echo(key.secret)
        click.echo(f"key {key.key_id} of {tenant_id}; keep it, it is not shown again", err=True)


@keys.command(
    epilog="""\b
Example:
  frostgate keys revoke 0123456789abcdef

Exit status: 0 revoked; 1 no valid key of that id; 2 usage or configuration."""
)
@click.argument("key_id")
@json_option
@data_dir_option
def revoke(key_id: str, as_json: bool, data_dir: Path | None) -> None:
    """Revoke the key KEY_ID (not the key itself: `keys list` shows the ids). Edges refuse it within 2 seconds."""
    revoked = on_database(database_target(settings_of(data_dir)), lambda pool: ApiKeys(pool).revoke(key_id))
    if as_json:
        click.echo(json.dumps({"revoked": revoked}))
    elif revoked:
        click.echo("revoked")
    if not revoked:
        raise click.ClickException("no valid key has this id; see `frostgate keys list`")


@keys.command(
    "list",
    epilog="""\b
Example:
  frostgate keys list --tenant acme --json""",
)
@click.option("--tenant", help="Only the keys of this tenant.")
@json_option
@data_dir_option
def list_keys(tenant: str | None, as_json: bool, data_dir: Path | None) -> None:
    """List keys: their ids, tenants, agents, scopes and times, never the keys."""
    found = on_database(database_target(settings_of(data_dir)), lambda pool: ApiKeys(pool).list(tenant))
    if as_json:
        click.echo(json.dumps([key._asdict() for key in found]))
    for key in found if not as_json else ():
        click.echo(_row(key))


def _row(key: ApiKey) -> str:
    state = f"revoked {key.revoked_at}" if key.revoked_at else "valid"
    return f"{key.key_id}  {key.tenant_id}  {key.agent_id or '*'}  {','.join(key.scopes)}  {key.created_at}  {state}"
