"""Where a client command works: the stack running in the data directory, or what the environment names."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from ops.instance import Stack, read_stack
from ops.settings import Service, Settings, environment, load, unknown_variables
from ops.settings_types import SecretText
from ops.tls import is_loopback

_Command = TypeVar("_Command", bound=Callable[..., object])

data_dir_option: Callable[[_Command], _Command] = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Data directory of the stack to use.  [default: FG_DATA_DIR or .frostgate]",
)
json_option: Callable[[_Command], _Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
)

workers_option: Callable[[_Command], _Command] = click.option(
    "--workers", type=click.IntRange(1, 64), help="Edge processes that share the port.  [default: FG_EDGE_WORKERS or 1]"
)
agent_key_option: Callable[[_Command], _Command] = click.option(
    "--agent-key",
    "agent_key_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Sign requests with the key in this file.  [default: FG_AGENT_KEY_FILE]",
)


class EdgeTarget(NamedTuple):
    """An edge and a credential for it. `tenant_id` None: known to the edge alone."""

    url: str
    api_key: SecretText
    tenant_id: str | None


class DatabaseTarget(NamedTuple):
    """Postgres, with a role that may do what operators do. `tenant_id` None: the caller has to name one."""

    dsn: SecretText
    tenant_id: str | None


def settings_of(data_dir: Path | None, need: Service | None = None) -> Settings:
    """The process's settings with the `--data-dir` given, after a warning on stderr for each variable nobody reads."""
    environ = dict(environment())
    if data_dir is not None:
        environ["FG_DATA_DIR"] = str(data_dir)
    for warning in unknown_variables(environ):
        click.echo(f"warning: {warning}", err=True)
    return load(environ, need)


def edge_target(settings: Settings) -> EdgeTarget:
    """FG_URL with FG_API_KEY, else the running stack. Raises click.UsageError when neither is there."""
    stack = read_stack(settings.data_dir)
    if settings.url and (stack is None or stack.url != settings.url):
        if not settings.api_key:
            raise click.UsageError("FG_URL is set and FG_API_KEY is not: set FG_API_KEY to a key of that edge")
        parts = urlsplit(settings.url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise click.UsageError("FG_URL is plain HTTP to another machine, which would read the API key: use https")
        return EdgeTarget(settings.url, SecretText(settings.api_key), None)
    if stack is None:
        raise _no_stack(settings, "FG_URL and FG_API_KEY")
    if settings.api_key and settings.api_key != stack.api_key:
        return EdgeTarget(stack.url, SecretText(settings.api_key), None)
    return EdgeTarget(stack.url, SecretText(stack.api_key), stack.tenant_id)


def database_target(settings: Settings) -> DatabaseTarget:
    """FG_ADMIN_POSTGRES_DSN, else the running stack's. Raises click.UsageError when neither is there."""
    if settings.admin_postgres_dsn:
        return DatabaseTarget(SecretText(settings.admin_postgres_dsn), None)
    stack = read_stack(settings.data_dir)
    if stack is None:
        raise _no_stack(settings, "FG_ADMIN_POSTGRES_DSN")
    return DatabaseTarget(SecretText(stack.operator_postgres_dsn), stack.tenant_id)


def stack_of(settings: Settings) -> Stack | None:
    return read_stack(settings.data_dir)


def _no_stack(settings: Settings, variables: str) -> click.UsageError:
    return click.UsageError(
        f"no stack runs in {settings.data_dir}: start one with `frostgate up`, name its directory with --data-dir, "
        f"or set {variables}"
    )
