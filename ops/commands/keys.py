"""`frostgate keys`: API keys, and the Ed25519 keys that agents sign with."""

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path

import click

from edge.coordination import make_epoch
from edge.redis_store import redis_client
from ops.clock import SystemClock
from ops.commands.agent_key import AgentKey as NewKey
from ops.commands.agent_key import new_agent_key
from ops.commands.database import on_database
from ops.commands.target import DatabaseTarget, data_dir_option, database_target, json_option, settings_of, stack_of
from ops.settings import Settings
from schemas.answers import NoAnswer
from schemas.ids import AGENT_ID
from schemas.principal import Scope
from schemas.units import UnixMs, parse_rfc3339
from sinks.agent_keys import AgentKey, AgentKeys, UnknownKeyError
from sinks.api_keys import ApiKey, ApiKeys
from sinks.pg import Pool
from sinks.tenants import UnknownTenantError

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OVERLAP_MS_MAX = 90 * _UNIT_MS["d"]
_KEY_FILE = click.Path(path_type=Path, dir_okay=False)


def _duration_ms(_context: click.Context, _option: click.Parameter, raw: str) -> int:
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", raw)
    if match is None or int(match[1]) * _UNIT_MS[match[2]] > _OVERLAP_MS_MAX:
        raise click.BadParameter("must be a number with s, m, h or d behind it, and at most 90d")
    return int(match[1]) * _UNIT_MS[match[2]]


def _moment_ms(_context: click.Context, _option: click.Parameter, raw: str | None) -> UnixMs | None:
    if raw is None:
        return None
    try:
        moment_ms = parse_rfc3339(raw)
    except ValueError as problem:
        raise click.BadParameter("must be a date and time with a zone, such as 2030-01-31T00:00:00Z") from problem
    if moment_ms <= SystemClock().now_ms():
        raise click.BadParameter("lies in the past")
    return moment_ms


_not_after_option = click.option(
    "--not-after",
    "not_after_ms",
    metavar="TIME",
    callback=_moment_ms,
    help="When an Ed25519 key ends (RFC 3339).  [default: never]",
)
_output_option = click.option("-o", "--output", "file", type=_KEY_FILE, help="New file for an Ed25519 private key.")


@click.group()
def keys() -> None:
    """Issue, rotate, revoke and list API keys and agents' signing keys.

    \b
    Example:
      frostgate keys issue acme --scope ingest --scope events:read
      frostgate keys issue acme --ed25519 --agent-id host-1 -o host-1.key
      frostgate keys list --tenant acme
    """


@keys.command(
    epilog="""\b
Example:
  frostgate keys issue acme --agent-id host-1
  frostgate keys issue acme --ed25519 --agent-id host-1 -o host-1.key

Exit status: 0 issued; 1 no such tenant, or the file is there; 2 usage or configuration."""
)
@click.argument("tenant_id")
@click.option("--agent-id", help="Only for events of this agent.  [default: any agent of the tenant]")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    help="What an API key may do; give it once for each.  [default: ingest, events:read]",
)
@click.option("--ed25519", is_flag=True, help="Issue a key to sign requests with, beside the API key.")
@_output_option
@_not_after_option
@json_option
@data_dir_option
def issue(  # noqa: PLR0913  (one parameter an option is how click hands them over)
    *,
    tenant_id: str,
    agent_id: str | None,
    scopes: tuple[str, ...],
    ed25519: bool,
    file: Path | None,
    not_after_ms: UnixMs | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Issue a key of the tenant TENANT_ID.

    An API key is printed, this once: nothing can read it again. The private half of an Ed25519 key
    goes to the new file given with -o and to no other place.
    """
    settings = settings_of(data_dir)
    target = database_target(settings)
    if not ed25519:
        if file is not None or not_after_ms is not None:
            raise click.UsageError("-o and --not-after go with --ed25519")
        _issue_api_key(target, tenant_id, agent_id, scopes or (Scope.INGEST, Scope.EVENTS_READ), as_json=as_json)
        return
    if agent_id is None or file is None or scopes:
        raise click.UsageError("--ed25519 needs --agent-id and -o, and takes no --scope")
    if not AGENT_ID.fullmatch(agent_id):
        raise click.BadParameter("not an agent id", param_hint="--agent-id")
    key = new_agent_key(tenant_id, agent_id)
    with key.kept_in(file):
        try:
            on_database(
                target,
                lambda pool: AgentKeys(pool).issue(tenant_id, agent_id, key.public_key, not_after_ms=not_after_ms),
            )
        except UnknownTenantError as problem:
            raise _no_tenant(tenant_id) from problem
    _tell(settings, key, file, as_json=as_json)


def _issue_api_key(
    target: DatabaseTarget, tenant_id: str, agent_id: str | None, scopes: Iterable[str], *, as_json: bool
) -> None:
    try:
        key = on_database(target, lambda pool: ApiKeys(pool).issue(tenant_id, agent_id, scopes))
    except UnknownTenantError as problem:
        raise _no_tenant(tenant_id) from problem
    except ValueError as problem:
        raise click.BadParameter(str(problem), param_hint="--agent-id") from problem
    if as_json:
        click.echo(json.dumps({"key_id": key.key_id, "tenant_id": tenant_id, "api_key": key.secret}))
    else:
        click.echo(key.secret)
        click.echo(f"key {key.key_id} of {tenant_id}; keep it, it is not shown again", err=True)


@keys.command(
    epilog="""\b
Example:
  frostgate keys rotate 0123456789abcdef --overlap 24h -o host-1.new.key

Exit status: 0 rotated; 1 no valid key of that id, or the file is there; 2 usage or configuration."""
)
@click.argument("key_id")
@click.option(
    "--overlap",
    "overlap_ms",
    default="24h",
    show_default=True,
    metavar="TIME",
    callback=_duration_ms,
    help="How long the old key stays valid beside the new one: a number with s, m, h or d.",
)
@_output_option
@_not_after_option
@json_option
@data_dir_option
def rotate(
    *,
    key_id: str,
    overlap_ms: int,
    file: Path | None,
    not_after_ms: UnixMs | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Give the agent of the Ed25519 key KEY_ID a new key. The old one ends after the overlap."""
    if file is None:
        raise click.UsageError("-o is needed: the file for the new private key")
    settings = settings_of(data_dir)

    async def replace(pool: Pool) -> NewKey:
        old = await AgentKeys(pool).public_key(key_id)
        if old is None:
            raise UnknownKeyError(key_id)
        key = new_agent_key(old.tenant_id, old.agent_id)
        with key.kept_in(file):
            await AgentKeys(pool).rotate(key_id, key.public_key, overlap_ms, not_after_ms)
        return key

    try:
        key = on_database(database_target(settings), replace)
    except UnknownKeyError as problem:
        raise click.ClickException("no valid Ed25519 key has this id; see `frostgate keys list`") from problem
    _tell(settings, key, file, as_json=as_json)


@keys.command(
    epilog="""\b
Example:
  frostgate keys revoke 0123456789abcdef

Exit status: 0 revoked; 1 no valid key of that id; 2 usage or configuration."""
)
@click.argument("key_id")
@json_option
@data_dir_option
def revoke(key_id: str, as_json: bool, data_dir: Path | None) -> None:
    """Revoke the key KEY_ID, of either kind (`keys list` shows the ids). Edges refuse it within 2 seconds."""

    async def end(pool: Pool) -> bool:
        return await ApiKeys(pool).revoke(key_id) or await AgentKeys(pool).revoke(key_id)

    revoked = on_database(database_target(settings_of(data_dir)), end)
    if as_json:
        click.echo(json.dumps({"revoked": revoked}))
    elif revoked:
        click.echo("revoked")
    if not revoked:
        raise click.ClickException("no valid key has this id; see `frostgate keys list`")


@keys.command(
    "list",
    epilog="""\b
Example:
  frostgate keys list --tenant acme --json""",
)
@click.option("--tenant", help="Only the keys of this tenant.")
@json_option
@data_dir_option
def list_keys(tenant: str | None, as_json: bool, data_dir: Path | None) -> None:
    """List keys of both kinds: their ids, tenants, agents, scopes and times, never the keys."""

    async def read(pool: Pool) -> tuple[list[ApiKey], list[AgentKey]]:
        return await ApiKeys(pool).list(tenant), await AgentKeys(pool).list(tenant)

    api_keys, agent_keys = on_database(database_target(settings_of(data_dir)), read)
    if as_json:
        rows = [{"kind": "api_key"} | key._asdict() for key in api_keys]
        rows += [{"kind": "ed25519"} | key._asdict() for key in agent_keys]
        click.echo(json.dumps(rows))
        return
    for api_key in api_keys:
        click.echo(_api_key_row(api_key))
    for agent_key in agent_keys:
        click.echo(_agent_key_row(agent_key))


def _api_key_row(key: ApiKey) -> str:
    state = f"revoked {key.revoked_at}" if key.revoked_at else "valid"
    return f"{key.key_id}  {key.tenant_id}  {key.agent_id or '*'}  {','.join(key.scopes)}  {key.created_at}  {state}"


def _agent_key_row(key: AgentKey) -> str:
    until = f"valid until {key.not_after}" if key.not_after else "valid"
    state = f"revoked {key.revoked_at}" if key.revoked_at else until
    return f"{key.key_id}  {key.tenant_id}  {key.agent_id}  ed25519  {key.not_before}  {state}"


def _no_tenant(tenant_id: str) -> click.ClickException:
    return click.ClickException(f"there is no tenant {tenant_id}: frostgate tenants add {tenant_id}")


def _tell(settings: Settings, key: NewKey, file: Path, *, as_json: bool) -> None:
    """Say where the new key is, once the memory of its tenant's nonces has begun or that could not be."""
    stack = stack_of(settings)
    redis_url = settings.redis_url or (stack.redis_url if stack else "")
    begun = bool(redis_url) and asyncio.run(_begin_epoch(redis_url, key.tenant_id))
    if not begun:
        why = "does not answer" if redis_url else "is not configured (FG_REDIS_URL)"
        click.echo(
            f"note: Redis {why}, so the tenant's first signed request may be refused with REPLAY_WINDOW_CLOSED; "
            "signed again 6 seconds later it passes",
            err=True,
        )
    if as_json:
        told = {"key_id": key.key_id, "tenant_id": key.tenant_id, "agent_id": key.agent_id, "file": str(file)}
        click.echo(json.dumps(told | {"epoch": begun}))
    else:
        click.echo(key.key_id)
        click.echo(f"the private key of {key.agent_id} of {key.tenant_id} is in {file} and nowhere else", err=True)


async def _begin_epoch(redis_url: str, tenant_id: str) -> bool:
    client = redis_client(redis_url)
    try:
        await make_epoch(client, tenant_id)
    except NoAnswer:
        return False
    finally:
        await client.aclose()
    return True
