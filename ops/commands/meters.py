"""`frostgate meters`: what tenants are billed, held against the evidence."""

import json
from pathlib import Path
from typing import NamedTuple

import click

from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from sinks.meters_audit import Difference, MetersAudit
from sinks.pg import Pool
from sinks.tenants import Tenants

PROGRESS_TENANTS = 100


class Audited(NamedTuple):
    tenants: int
    differences: list[Difference]


@click.group()
def meters() -> None:
    """Hold what tenants are billed against the evidence.

    \b
    Example:
      frostgate meters audit
    """


@meters.command(
    epilog="""\b
Example:
  frostgate meters audit --tenant acme --json

Exit status: 0 they agree exactly; 1 they differ, or the database did not answer; 2 usage or configuration."""
)
@click.option("--tenant", "tenant_id", help="One tenant only.  [default: all]")
@json_option
@data_dir_option
def audit(tenant_id: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Work the meters out once more from the chain and the sealed artifacts, and print every difference.

    Each tenant is read as it was at one moment, so the data plane may go on meanwhile.
    """

    async def act(pool: Pool) -> Audited:
        known = [tenant.tenant_id for tenant in await Tenants(pool).list()]
        if tenant_id is not None and tenant_id not in known:
            raise click.ClickException(f"there is no tenant {tenant_id}: see `frostgate tenants list`")
        asked = known if tenant_id is None else [tenant_id]
        found: list[Difference] = []
        for number, each in enumerate(asked, 1):
            found += await MetersAudit(pool).differences(each)
            if number % PROGRESS_TENANTS == 0:
                click.echo(f"audited {number} of {len(asked)} tenants", err=True)
        return Audited(len(asked), found)

    audited = on_database(database_target(settings_of(data_dir)), act)
    if as_json:
        differences = [each._asdict() for each in audited.differences]
        click.echo(json.dumps({"tenants": audited.tenants, "differences": differences}))
    for each in audited.differences if not as_json else ():
        click.echo(f"{each.tenant_id:<24} {each.meter:<28} {each.day}  billed {each.billed}  chain {each.from_chain}")
    if not as_json:
        agree = "agree exactly" if not audited.differences else f"differ in {len(audited.differences)} places"
        click.echo(f"the meters of {audited.tenants} tenants and their evidence {agree}")
    if audited.differences:
        raise click.exceptions.Exit(1)
