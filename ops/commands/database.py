"""Commands that work on Postgres: one connection, and every failure in words that say what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from ops.commands.target import DatabaseTarget
from schemas.answers import NoAnswer
from sinks.faults import UnexpectedAnswerError
from sinks.pg import Pool
from sinks.settings import PostgresSettings

T = TypeVar("T")


def on_database(target: DatabaseTarget, action: Callable[[Pool], Awaitable[T]]) -> T:
    """Return what the action returns. Raises click.ClickException where the database does not answer or refuses."""
    return asyncio.run(_run(target, action))


async def _run(target: DatabaseTarget, action: Callable[[Pool], Awaitable[T]]) -> T:
    pool = await Pool.open(PostgresSettings(dsn=target.dsn, pool_size=1, statement_cache_size=0))
    try:
        return await action(pool)
    except UnexpectedAnswerError as problem:
        raise click.ClickException(
            f"the database refuses: {problem}. Check FG_ADMIN_POSTGRES_DSN, and run `frostgate migrate` first"
        ) from problem
    except NoAnswer as problem:
        raise click.ClickException(
            "the database does not answer: does it run, and does FG_ADMIN_POSTGRES_DSN name it? See `frostgate doctor`"
        ) from problem
    finally:
        await pool.close()
