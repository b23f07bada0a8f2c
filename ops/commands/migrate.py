"""`frostgate migrate`: Postgres and JetStream as this version wants them."""

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import click

from ops.commands.target import data_dir_option, json_option, settings_of
from ops.settings import Service, Settings
from schemas.answers import NoAnswer
from schemas.codes import Code
from sinks.faults import UnexpectedAnswerError
from sinks.migrate import MigrationError
from sinks.migrate import migrate as migrate_database
from streams import topology
from streams.jetstream import ApiError, JetStream


class _Outcome(NamedTuple):
    applied: list[str]
    created: list[str]
    updated: list[str]
    drift: list[str]


@click.command(
    epilog="""\b
Example:
  FG_ADMIN_POSTGRES_DSN=postgresql://postgres@db/frostgate FG_NATS_URL=nats://admin@nats frostgate migrate

Exit status: 0 both are this version's; 1 a store did not answer, refused, or differs; 2 configuration."""
)
@json_option
@data_dir_option
def migrate(as_json: bool, data_dir: Path | None) -> None:
    """Apply the missing migrations, set the passwords of the service roles, make the missing streams, update consumers.

    Safe to run again and by several at once, and while workers run. A consumer of another version becomes
    this version's and keeps its position. A stream is never changed: one that differs from what this
    version declares is reported, and stays as it is. FG_RETRY alone, where an earlier version made it a
    work queue, is made anew once it holds nothing.
    """
    settings = settings_of(data_dir, Service.MIGRATE)
    try:
        outcome = asyncio.run(_migrate(settings))
    except (MigrationError, UnexpectedAnswerError, ApiError) as problem:
        raise click.ClickException(str(problem)) from problem
    except NoAnswer as problem:
        store = "the database" if problem.code is Code.STORE_UNAVAILABLE else "the broker"
        raise click.ClickException(f"{store} does not answer; run this again when it does") from problem
    if as_json:
        click.echo(json.dumps(outcome._asdict()))
    else:
        for name in outcome.applied + outcome.created:
            click.echo(f"made {name}")
        for name in outcome.updated:
            click.echo(f"updated {name}")
        click.echo("up to date" if not outcome.drift else "\n".join(f"differs: {each}" for each in outcome.drift))
    if outcome.drift:
        raise click.exceptions.Exit(1)


async def _migrate(settings: Settings) -> _Outcome:
    passwords = {
        "fg_edge": settings.role_passwords.edge,
        "fg_worker": settings.role_passwords.worker,
        "fg_admin": settings.role_passwords.admin,
    }
    given = {role: str(password) for role, password in passwords.items() if password}
    applied = await migrate_database(settings.admin_postgres_dsn, given)
    jetstream = await JetStream.connect(settings.streams.url, "admin")
    try:
        created = await topology.create_missing(jetstream, settings.streams)
        updated = await topology.update_consumers(jetstream, settings.streams)
        drift = await topology.stream_drift(jetstream, settings.streams)
        drift += await topology.consumer_drift(jetstream, settings.streams)
    finally:
        await jetstream.close()
    return _Outcome(applied, created, updated, drift)
