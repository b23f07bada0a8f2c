"""`frostgate dlq`: dead letters that wait for an operator."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from sinks.pg import Pool
from sinks.tenants import Tenants
from sinks.waiting_letters import SHOWN_MAX, WaitingLetter, WaitingLetters

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGE = re.compile(r"(\d{1,6})([smhd])", re.ASCII)


class Age(click.ParamType[timedelta]):
    """A length of time: a whole number and a unit."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = _AGE.fullmatch(value)
        if found is None:
            return self.fail(f"{value!r} is no age: a whole number and s, m, h or d, as 24h", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.group()
def dlq() -> None:
    """List and take dead letters. They are kept until an operator, or `frostgate retention run`, takes them.

    \b
    Example:
      frostgate dlq list --older-than 24h
      frostgate dlq take EVENT_ID --tenant acme --reason "schema fixed, sent again"
    """


@dlq.command(
    "list",
    epilog="""\b
Example:
  frostgate dlq list --tenant acme --older-than 24h --json

Exit status: 0 listed; 1 no such tenant, or the database did not answer; 2 usage or configuration.""",
)
@click.option("--tenant", "tenant_id", help="One tenant only.  [default: all]")
@click.option(
    "--older-than", type=Age(), default="0s", help="Only those that wait for so long, as 90s, 30m, 24h or 7d."
)
@json_option
@data_dir_option
def list_letters(tenant_id: str | None, older_than: timedelta, as_json: bool, data_dir: Path | None) -> None:
    """List the dead letters that no operator has taken, the oldest of each tenant first, at most 1,000 a tenant."""

    async def act(pool: Pool) -> list[WaitingLetter]:
        known = [tenant.tenant_id for tenant in await Tenants(pool).list()]
        if tenant_id is not None and tenant_id not in known:
            raise click.ClickException(f"there is no tenant {tenant_id}: see `frostgate tenants list`")
        return await WaitingLetters(pool).oldest(known if tenant_id is None else [tenant_id], older_than)

    found = on_database(database_target(settings_of(data_dir)), act)
    if as_json:
        click.echo(json.dumps([letter._asdict() for letter in found]))
        return
    for letter in found:
        click.echo(
            f"{letter.tenant_id:<24} {letter.event_id:<36} {letter.reason_code:<24} {letter.first_seen_at}"
            f"  stage {letter.stage}, {letter.retry_count} more times"
        )
    click.echo(f"{len(found)} dead letters wait (at most {SHOWN_MAX} a tenant are listed)", err=True)


@dlq.command(
    epilog="""\b
Example:
  frostgate dlq take 0199d7a0-0000-7000-8000-000000000000 --tenant acme --reason "producer fixed"

Exit status: 0 taken; 1 none of the event waits; 2 usage or configuration."""
)
@click.argument("event_id")
@click.option("--tenant", "tenant_id", required=True, help="The event's tenant.")
@click.option("--reason", required=True, help="Why it need not wait any longer.")
@click.option("--by", "operator", default="operator", show_default=True, help="Who takes it.")
@json_option
@data_dir_option
def take(event_id: str, tenant_id: str, reason: str, operator: str, as_json: bool, data_dir: Path | None) -> None:
    """Mark the dead letters of the event EVENT_ID as seen to. They are kept; one more makes it wait again."""

    async def act(pool: Pool) -> list[str]:
        known = {tenant.tenant_id for tenant in await Tenants(pool).list()}
        if tenant_id not in known:
            raise click.ClickException(f"there is no tenant {tenant_id}: see `frostgate tenants list`")
        return await WaitingLetters(pool).take(tenant_id, event_id, operator, reason)

    taken = on_database(database_target(settings_of(data_dir)), act)
    if not taken:
        raise click.ClickException(f"no dead letter of {event_id} waits: see `frostgate dlq list --tenant {tenant_id}`")
    if as_json:
        click.echo(json.dumps({"tenant_id": tenant_id, "event_id": event_id, "reason_codes": taken}))
    else:
        click.echo(f"took {event_id}: {', '.join(taken)}")
