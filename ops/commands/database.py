"""Commands that work on Postgres: one connection, and every failure in words that say what to do."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from ops.commands.stopping import run_until_signal
from ops.commands.target import DatabaseTarget
from schemas.answers import NoAnswer
from sinks.faults import UnexpectedAnswerError
from sinks.pg import Pool
from sinks.settings import PostgresSettings

T = TypeVar("T")
STATEMENT_TIMEOUT_MS = 5_000


def on_database(
    target: DatabaseTarget, action: Callable[[Pool], Awaitable[T]], statement_timeout_ms: int = STATEMENT_TIMEOUT_MS
) -> T:
    """Return what the action returns; none of its statements is waited for longer than `statement_timeout_ms`.

    Raises click.ClickException where the database does not answer or refuses, and KeyboardInterrupt on a signal, once
    the action has cleaned up.
    """
    settings = PostgresSettings(
        dsn=target.dsn, pool_size=1, statement_cache_size=0, statement_timeout_ms=statement_timeout_ms
    )
    return run_until_signal(_run(settings, action))


async def _run(settings: PostgresSettings, action: Callable[[Pool], Awaitable[T]]) -> T:
    pool = await Pool.open(settings)
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
