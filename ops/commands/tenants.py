"""`frostgate tenants`: the list of tenants."""

import json
from pathlib import Path

import click

from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from sinks.tenants import PlanTier, TenantExistsError, Tenants


@click.group()
def tenants() -> None:
    """Add and list tenants.

    \b
    Example:
      frostgate tenants add acme --plan pro
      frostgate tenants list
    """


@tenants.command(
    epilog="""\b
Example:
  frostgate tenants add acme --plan pro

Exit status: 0 added; 1 it exists already; 2 usage or configuration."""
)
@click.argument("tenant_id")
@click.option("--plan", type=click.Choice([tier.value for tier in PlanTier]), default="free", show_default=True)
@json_option
@data_dir_option
def add(tenant_id: str, plan: str, as_json: bool, data_dir: Path | None) -> None:
    """Add the tenant TENANT_ID: 1 to 63 letters, digits, "_" or "-", the first a letter or digit."""
    target = database_target(settings_of(data_dir))
    try:
        on_database(target, lambda pool: Tenants(pool).add(tenant_id, plan))
    except TenantExistsError as problem:
        raise click.ClickException(f"there is a tenant {tenant_id} already") from problem
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="TENANT_ID") from problem
    if as_json:
        click.echo(json.dumps({"tenant_id": tenant_id, "plan_tier": plan}))
    else:
        click.echo(f"added {tenant_id} ({plan}); next: frostgate keys issue {tenant_id}")


@tenants.command(
    "list",
    epilog="""\b
Example:
  frostgate tenants list --json""",
)
@json_option
@data_dir_option
def list_tenants(as_json: bool, data_dir: Path | None) -> None:
    """List all tenants."""
    found = on_database(database_target(settings_of(data_dir)), lambda pool: Tenants(pool).list())
    if as_json:
        click.echo(json.dumps([tenant._asdict() for tenant in found]))
    for tenant in found if not as_json else ():
        click.echo(f"{tenant.tenant_id:<63} {tenant.plan_tier:<10} {tenant.created_at}")
