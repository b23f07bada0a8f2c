"""`frostgate policy`: the rules' own tests, what other rules would have decided, and what tenants add to them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from ops.clock import SystemClock
from ops.commands.database import on_database
from ops.commands.policy_data import data
from ops.commands.target import data_dir_option, database_target, json_option, settings_of
from ops.rehearsal import CHANGES, Outcome, Rehearsed, rehearse, totals_of
from schemas.decision import PolicyAnswer
from schemas.units import UnixMs, format_rfc3339
from sinks.pg import Pool
from sinks.tenants import Tenants, UnknownTenantError
from streams.policy import EmbeddedPolicy
from streams.policy_files import PolicyError
from streams.policy_tests import RuleTest, run_tests

UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
PROGRESS_EVERY = 5_000
T = TypeVar("T")


class Period(click.ParamType[int]):
    """A number of minutes, hours or days, in milliseconds."""

    name = "N{m|h|d}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number, unit = value[:-1], value[-1:]
        if unit in UNIT_MS and number.isascii() and number.isdecimal() and 0 < int(number) <= 10_000:
            return int(number) * UNIT_MS[unit]
        return self.fail(f"{value!r} is not a period: 30m, 24h or 7d", param, ctx)


@click.group()
def policy() -> None:
    """Test the rules, rehearse other rules on recorded decisions, and keep what tenants add to them.

    \b
    Example:
      frostgate policy test
      frostgate policy rehearse --bundle candidate --since 24h
      frostgate policy data set acme acme.json
    """


policy.add_command(data)


@policy.command(
    epilog="""\b
Example:
  frostgate policy test --dir policies

Exit status: 0 every test passed; 1 one failed, or there are none; 2 usage, or the rules cannot be used."""
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Directory of the rules.  [default: FG_POLICY_DIR]",
)
@json_option
@data_dir_option
@click.pass_context
def test(ctx: click.Context, directory: Path | None, as_json: bool, data_dir: Path | None) -> None:
    """Run every rule named test_* of the *_test.rego files: it passes if it is true."""
    place = directory or settings_of(data_dir).policy_dir
    results = _usable(lambda: run_tests(place))
    if as_json:
        click.echo(json.dumps([result._asdict() for result in results]))
    else:
        _tell(results)
    if not results:
        click.echo(f"there is no test in {place}: a test is a rule named test_* in a file named *_test.rego", err=True)
    ctx.exit(0 if results and all(result.passed for result in results) else 1)


def _tell(results: list[RuleTest]) -> None:
    for result in results:
        click.echo(f"{'PASS' if result.passed else 'FAIL'}  {result.name}")
        if result.problem:
            click.echo(result.problem, err=True)
    failed = sum(not result.passed for result in results)
    click.echo(f"{len(results) - failed} passed, {failed} failed", err=True)


@policy.command(
    "rehearse",
    epilog="""\b
Example:
  frostgate policy rehearse --bundle candidate --since 24h
  frostgate policy rehearse --bundle candidate --since 7d --tenant acme --json

Exit status: 0 nothing would change; 1 something would; 2 usage, configuration, or rules that cannot be used.""",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Directory of the rules to try.",
)
@click.option("--since", "period_ms", type=Period(), required=True, help="How far to go back: 30m, 24h, 7d.")
@click.option("--tenant", "tenant_id", help="Only this tenant.  [default: every tenant]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: each change, the totals last.")
@data_dir_option
@click.pass_context
def rehearse_rules(
    ctx: click.Context, bundle: Path, period_ms: int, tenant_id: str | None, as_json: bool, data_dir: Path | None
) -> None:
    """Make the recorded decisions of the last time again under the rules of a directory, and list what changes."""
    rules = _usable(lambda: EmbeddedPolicy.load(bundle))
    since = format_rfc3339(UnixMs(SystemClock().now_ms() - period_ms))
    report = _Report(as_json, Counter())

    async def act(pool: Pool) -> None:
        async for one in rehearse(pool, rules, await _tenants(pool, tenant_id), since):
            report.add(one)

    try:
        on_database(database_target(settings_of(data_dir)), act)
    except UnknownTenantError as problem:
        raise click.UsageError(f"there is no tenant {tenant_id}: see `frostgate tenants list`") from problem
    report.end()
    ctx.exit(1 if any(report.outcomes[change] for change in CHANGES) else 0)


class _Report(NamedTuple):
    """Prints each change as it is found and keeps the counts alone."""

    as_json: bool
    outcomes: Counter[Outcome]

    def add(self, one: Rehearsed) -> None:
        self.outcomes[one.outcome] += 1
        if one.outcome in CHANGES:
            click.echo(json.dumps(_document(one)) if self.as_json else _line(one))
        if self.outcomes.total() % PROGRESS_EVERY == 0:
            click.echo(f"{self.outcomes.total()} decisions made again", err=True)

    def end(self) -> None:
        totals = totals_of(self.outcomes)
        if self.as_json:
            click.echo(json.dumps({"totals": totals}))
        else:
            click.echo(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in totals.items()))


def _document(one: Rehearsed) -> dict[str, object]:
    answers = {name: answer for name, answer in (("was", one.was), ("now", one.now)) if answer is not None}
    return {
        "tenant_id": one.tenant_id,
        "event_id": one.event_id,
        "outcome": one.outcome.value,
        **{name: {"policy_code": answer.code.value, "reasons": answer.reasons} for name, answer in answers.items()},
    }


def _line(one: Rehearsed) -> str:
    return f"{one.outcome.value:<16} {one.tenant_id} {one.event_id}: {_words(one.was)} -> {_words(one.now)}"


def _words(answer: PolicyAnswer | None) -> str:
    if answer is None:
        return "-"
    return f"{answer.code.value} ({', '.join(answer.reasons)})" if answer.reasons else answer.code.value


async def _tenants(pool: Pool, tenant_id: str | None) -> list[str]:
    known = [tenant.tenant_id for tenant in await Tenants(pool).list()]
    if tenant_id is None:
        return known
    if tenant_id not in known:
        raise UnknownTenantError(tenant_id)
    return [tenant_id]


def _usable(load: Callable[[], T]) -> T:
    try:
        return load()
    except PolicyError as problem:
        raise click.UsageError(f"the rules cannot be used: {problem}") from problem
