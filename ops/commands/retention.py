"""`frostgate retention`: what no plan keeps any longer is let go."""

import json
from pathlib import Path
from typing import NamedTuple

import click

from ops.commands.database import on_database
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from ops.settings import Settings
from schemas.answers import NoAnswer
from sinks.pg import Pool
from sinks.retention import STATEMENT_TIMEOUT_MS, Overdue, Retention, RetentionRules
from sinks.tenants import Tenants


class Outcome(NamedTuple):
    """What a run took, or without a change found overdue: days as a whole, and rows by tenant.

    `failed` are the days that could not be dropped.
    """

    days: list[str]
    by_tenant: dict[str, Overdue]
    failed: list[str]

    @property
    def total(self) -> Overdue:
        total = Overdue(0, 0, 0)
        for taken in self.by_tenant.values():
            total = total.plus(taken)
        return total

    def add(self, tenant_id: str, taken: Overdue) -> None:
        self.by_tenant[tenant_id] = self.by_tenant.get(tenant_id, Overdue(0, 0, 0)).plus(taken)

    def document(self, *, dry_run: bool) -> dict[str, object]:
        tenants = [{"tenant_id": tenant_id, **taken._asdict()} for tenant_id, taken in sorted(self.by_tenant.items())]
        days = {"days_dropped": self.days, "days_failed": self.failed}
        return {"dry_run": dry_run, **days, **self.total._asdict(), "tenants": tenants}


@click.group()
def retention() -> None:
    """Let go of raw events, event keys and dead letters that no plan keeps any longer.

    The days of each plan are FG_DP_RETENTION_DAYS_TIER_JSON. Chain, decisions and sealed evidence stay.

    \b
    Example:
      frostgate retention run --dry-run
    """


@retention.command(
    epilog="""\b
Example:
  frostgate retention run --dry-run
  frostgate retention run --json

Safe to run again, at any time and by several at once; run it once a day.
Exit status: 0 done; 1 the database did not answer or refuses, or a day could not be dropped; 2 configuration."""
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--by", "operator", default="operator", show_default=True, help="Who lets it go.")
@json_option
@data_dir_option
def run(dry_run: bool, operator: str, as_json: bool, data_dir: Path | None) -> None:
    """Drop the days that no tenant's plan needs, and delete what is older than a tenant's own plan keeps."""
    settings = settings_of(data_dir)

    async def act(pool: Pool) -> Outcome:
        work = Retention(pool, rules_of(settings), operator)
        tenant_ids = [tenant.tenant_id for tenant in await Tenants(pool).list()]
        return await (_look(work, tenant_ids) if dry_run else _run(work, tenant_ids))

    outcome = on_database(database_target(settings), act, STATEMENT_TIMEOUT_MS)
    if as_json:
        click.echo(json.dumps(outcome.document(dry_run=dry_run)))
    else:
        _say(outcome, "would go" if dry_run else "gone")
    if outcome.failed:
        raise click.ClickException(
            f"not dropped: {' '.join(outcome.failed)}. All else is done, and these days are as they were: run it again"
        )


def rules_of(settings: Settings) -> RetentionRules:
    return RetentionRules(
        days_by_tier=dict(settings.evidence.retention_days_by_tier),
        key_age_seconds_min=settings.edge.event_age_ms_max // 1_000,
        letter_age_seconds_min=settings.retry.dlq_age_seconds_max,
    )


async def _look(work: Retention, tenant_ids: list[str]) -> Outcome:
    days = await work.days_over()
    found = {tenant_id: await work.overdue(tenant_id) for tenant_id in tenant_ids}
    return Outcome(
        [str(day) for day in days], {tenant_id: taken for tenant_id, taken in found.items() if any(taken)}, []
    )


async def _run(work: Retention, tenant_ids: list[str]) -> Outcome:
    """Every day and every tenant has its turn: a day that cannot be dropped keeps neither the others nor the tenants'
    own rows from going. Raises NoAnswer."""
    outcome = Outcome([], {}, [])
    for day in await work.days_over():
        try:
            dropped = await work.drop(day, tenant_ids)
        except NoAnswer as failure:
            click.echo(f"not dropped {day}: {failure}", err=True)
            outcome.failed.append(str(day))
            continue
        click.echo(f"dropped {day}: {sum(dropped.values())} events", err=True)
        outcome.days.append(str(day))
        for tenant_id, events in dropped.items():
            outcome.add(tenant_id, Overdue(events, 0, 0))
    for tenant_id in tenant_ids:
        taken = await work.take(tenant_id)
        if any(taken):
            click.echo(f"deleted for {tenant_id}: {_counted(taken)}", err=True)
            outcome.add(tenant_id, taken)
    return outcome


def _say(outcome: Outcome, verb: str) -> None:
    for tenant_id, taken in sorted(outcome.by_tenant.items()):
        click.echo(f"{tenant_id:<24} {_counted(taken)}")
    days = " ".join(outcome.days)
    click.echo(f"{verb}: {_counted(outcome.total)}; {len(outcome.days)} whole days {days}".rstrip())


def _counted(taken: Overdue) -> str:
    return f"{taken.events} events, {taken.keys} keys, {taken.letters} dead letters"
