"""`frostgate up`: the whole data plane on this machine, from one command."""

import asyncio
import dataclasses
import shlex
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from ops import plan, tls
from ops.clock import SystemClock, new_uuid7
from ops.commands.target import data_dir_option, settings_of, workers_option
from ops.embedded.process import StartError
from ops.instance import Stack
from ops.settings import Service, SettingsError
from ops.supervisor import Place, Supervisor
from schemas.units import Clock, format_rfc3339

_PORT = click.IntRange(0, 65_535)


@click.command(
    epilog="""\b
Example:
  frostgate up
  frostgate up --http-port 0 --admin-port 0 --ready-file ready.json

Exit status: 0 stopped by a signal; 1 it could not be started (a port or the
data directory is in use, a server does not start); 2 usage or configuration."""
)
@data_dir_option
@click.option("--http-port", type=_PORT, help="Port of the edge; 0 takes a free one.  [default: FG_HTTP_PORT or 8080]")
@click.option("--admin-port", type=_PORT, help="Admin port; 0 takes a free one.  [default: FG_ADMIN_PORT or 8081]")
@workers_option
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    help="Written when everything is ready, kept true while it runs, removed at the end: "
    "a JSON object of addresses, credentials and process ids, readable by you alone.",
)
def up(
    data_dir: Path | None,
    http_port: int | None,
    admin_port: int | None,
    workers: int | None,
    ready_file: Path | None,
) -> None:
    """Start NATS, Postgres, Valkey, one edge and one worker, and keep them running.

    Needs no other program. The data stays in the data directory; the next start finds it again.
    The first start makes a tenant and prints its API key. Ctrl-C stops everything in order, a
    second one at once.
    """
    settings = settings_of(data_dir, Service.UP)
    if workers is not None:
        settings = dataclasses.replace(settings, edge_workers=workers)
    if found := tls.faults(settings.http_host, settings.tls):
        raise SettingsError(found)
    if settings.env != "dev":
        raise click.UsageError("`frostgate up` is the dev profile; with FG_ENV=prod run `frostgate edge` and `worker`")
    if ready_file is not None and not ready_file.parent.is_dir():
        raise click.BadParameter(f"{ready_file.parent} is not a directory", param_hint="--ready-file")
    place = Place(
        data_dir=settings.data_dir,
        scheme="https" if settings.tls.served else "http",
        http_host=settings.http_host,
        http_port=settings.http_port if http_port is None else http_port,
        admin_host=settings.admin_host,
        admin_port=settings.admin_port if admin_port is None else admin_port,
        ready_file=ready_file,
        unprivileged_user=settings.embedded_user,
    )
    _say(f"starting in {place.data_dir}")
    try:
        asyncio.run(Supervisor(place, plan.of(settings), _say, _announce).run())
    except StartError as failure:
        raise click.ClickException(str(failure)) from failure


def _say(text: str) -> None:
    with suppress(OSError):  # the reader of our output may be gone; the stack does not go with it
        click.echo(text)


def _announce(stack: Stack, first: bool) -> None:
    """Say where everything is; the key only when it has just been made."""
    secrets_file = Path(stack.data_dir) / "secrets.json"
    lines = [
        "ready",
        f"  ingest   {stack.url}",
        f"  admin    {stack.admin_url}  (/readyz, /metrics)",
        f"  data     {stack.data_dir}  (logs in logs)",
        f"  tenant   {stack.tenant_id}",
    ]
    if first:
        lines += [
            f"  api key  {stack.api_key}  (shown this once; kept in {secrets_file})",
            "",
            "Send an event:",
            "",
            first_request(stack, SystemClock()),
        ]
    else:
        lines.append(f"  api key  in {secrets_file}")
    _say("\n".join(lines))


def first_request(stack: Stack, clock: Clock) -> str:
    """A shell command that publishes one valid event, as it stands."""
    trace_id = new_uuid7()
    envelope = {
        "tenant_id": stack.tenant_id,
        "event_id": f"hello-{trace_id[-12:]}",
        "trace_id": trace_id,
        "agent_id": "shell",
        "schema_version": "1.0",
        "created_at": format_rfc3339(clock.now_ms()),
        "source": "curl",
        "payload": {"kind": "log.line", "line": "hello"},
    }
    arguments = [
        f"{stack.url}/ingest",
        "-H",
        f"Authorization: Bearer {stack.api_key}",
        "-H",
        "Content-Type: application/json",
        "-d",
        msgspec.json.encode(envelope).decode(),
    ]
    return f"curl -sS {shlex.join(arguments)}"
