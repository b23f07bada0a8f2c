"""`frostgate limits`: the rate, burst and monthly quota of single tenants."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import click

from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from schemas.limits import NO_QUOTA
from sinks.limits import RATE_MAX, LimitsRow, RuntimeLimits
from sinks.pg import Pool
from sinks.tenants import Tenants, UnknownTenantError

NONE = "none"
by_option = click.option("--by", "updated_by", default="operator", show_default=True, help="Who makes this change.")


class Quota(click.ParamType[int]):
    """A number of events, or `none`."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == NONE:
            return NO_QUOTA
        if value.isascii() and value.isdecimal() and 1 <= int(value) < NO_QUOTA:
            return int(value)
        return self.fail(f"{value!r} is neither {NONE} nor a whole number from 1 to {NO_QUOTA - 1}", param, ctx)


class Shown(NamedTuple):
    """A tenant with its own limits, `row` None where it has none, and what it used this month."""

    tenant_id: str
    row: LimitsRow | None
    events_this_month: int

    @property
    def document(self) -> dict[str, object]:
        if self.row is None:
            return {"tenant_id": self.tenant_id, "rps": None, "events_this_month": self.events_this_month}
        rps, burst, quota = self.row.own
        return {
            "tenant_id": self.tenant_id,
            "plan_tier": self.row.plan_tier,
            "rps": rps,
            "burst": burst,
            "events_per_month_max": _quota(quota),
            "events_this_month": self.events_this_month,
            "updated_at": self.row.updated_at,
            "updated_by": self.row.updated_by,
        }

    @property
    def line(self) -> str:
        if self.row is None:
            return f"{self.tenant_id:<24} no limits of its own: its tier's hold, else the base"
        rps, burst, quota = self.row.own
        return (
            f"{self.tenant_id:<24} rps {rps}  burst {burst}  events/month {_quota(quota)}"
            f" (used {self.events_this_month})  {self.row.updated_at} by {self.row.updated_by}"
        )


def _quota(events_per_month_max: int | None) -> int | str:
    if events_per_month_max is None:
        return "tier"
    return NONE if events_per_month_max >= NO_QUOTA else events_per_month_max


@click.group()
def limits() -> None:
    """Set, show and clear the limits of single tenants. Edges follow within 2 seconds.

    A tenant without limits of its own has its tier's, and where its tier has none, the base.

    \b
    Example:
      frostgate limits set acme --rps 500 --burst 1000
      frostgate limits show acme
    """


@limits.command(
    "set",
    epilog="""\b
Example:
  frostgate limits set acme --rps 500 --burst 1000 --events-per-month 50000000

Exit status: 0 set; 1 no such tenant; 2 usage or configuration.""",
)
@click.argument("tenant_id")
@click.option("--rps", type=click.IntRange(1, RATE_MAX), required=True, help="Events per second.")
@click.option("--burst", type=click.IntRange(1, RATE_MAX), required=True, help="Events at once.")
@click.option(
    "--events-per-month",
    "quota",
    type=Quota(),
    help="Events of a calendar month (UTC), or none for no quota.  [default: as it was, at first the tier's]",
)
@by_option
@data_dir_option
def set_limits(tenant_id: str, rps: int, burst: int, quota: int | None, updated_by: str, data_dir: Path | None) -> None:
    """Give the tenant TENANT_ID limits of its own."""

    async def act(pool: Pool) -> None:
        stored = RuntimeLimits(pool)
        kept = quota
        if kept is None and (row := await stored.show(tenant_id)) is not None:
            kept = row.own.events_per_month_max
        await stored.set(tenant_id, rps=rps, burst=burst, events_per_month_max=kept, updated_by=updated_by)

    target = database_target(settings_of(data_dir))
    try:
        on_database(target, act)
    except UnknownTenantError as problem:
        raise click.ClickException(f"there is no tenant {tenant_id}: frostgate tenants add {tenant_id}") from problem
    click.echo(f"set {tenant_id}: rps {rps}, burst {burst}; edges follow within 2 seconds")


@limits.command(
    epilog="""\b
Example:
  frostgate limits clear acme

Exit status: 0 cleared; 1 it had none; 2 usage or configuration."""
)
@click.argument("tenant_id")
@by_option
@data_dir_option
def clear(tenant_id: str, updated_by: str, data_dir: Path | None) -> None:
    """Take away the own limits of the tenant TENANT_ID: its tier's hold again."""
    target = database_target(settings_of(data_dir))
    try:
        cleared = on_database(target, lambda pool: RuntimeLimits(pool).clear(tenant_id, updated_by))
    except UnknownTenantError:
        cleared = False
    if not cleared:
        raise click.ClickException(f"{tenant_id} has no limits of its own")
    click.echo(f"cleared {tenant_id}; edges follow within 2 seconds")


@limits.command(
    epilog="""\b
Example:
  frostgate limits show --json

Exit status: 0 shown; 1 no such tenant; 2 usage or configuration."""
)
@click.argument("tenant_id", required=False)
@json_option
@data_dir_option
def show(tenant_id: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Show the own limits of TENANT_ID, or of all tenants that have any."""

    async def act(pool: Pool) -> list[Shown]:
        known = [tenant.tenant_id for tenant in await Tenants(pool).list()]
        if tenant_id is not None and tenant_id not in known:
            raise UnknownTenantError(tenant_id)
        stored = RuntimeLimits(pool)
        uses = await stored.read(known if tenant_id is None else [tenant_id])
        asked = [one for one, use in uses.items() if use.own is not None or one == tenant_id]
        return [Shown(one, await stored.show(one), uses[one].events_this_month) for one in sorted(asked)]

    try:
        found = on_database(database_target(settings_of(data_dir)), act)
    except UnknownTenantError as problem:
        raise click.ClickException(f"there is no tenant {tenant_id}: see `frostgate tenants list`") from problem
    if as_json:
        documents = [shown.document for shown in found]
        click.echo(json.dumps(documents if tenant_id is None else documents[0]))
    for shown in found if not as_json else ():
        click.echo(shown.line)
