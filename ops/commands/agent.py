"""`frostgate agent tail`: follow a log file and publish each of its lines."""

import hashlib
import re
import socket
from collections.abc import Callable
from pathlib import Path

import click

from ops.clock import SystemClock
from ops.commands.edge_client import EdgeClient, EdgeRefusedError, identity_of
from ops.commands.follower import Follower, GaveUpError
from ops.commands.log_events import Origin
from ops.commands.position import PositionError, locked
from ops.commands.publish_client import Patience, Publisher, tenant_of
from ops.commands.stopping import Stopping
from ops.commands.tally import Progress, Tally, finish
from ops.commands.target import agent_key_option, data_dir_option, edge_target, json_option, settings_of

_GIVE_UP_SECONDS_ONCE = 300.0
_POLL_SECONDS = 0.25


@click.group()
def agent() -> None:
    """Agents that publish what they find on this machine.

    \b
    Example:
      frostgate agent tail /var/log/auth.log
    """


@agent.command(
    epilog="""\b
Example:
  frostgate agent tail /var/log/auth.log
  frostgate agent tail --once --json app.log

Exit status: 0 every line accepted; 1 not every line; 2 usage or configuration."""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--once", is_flag=True, help="Stop at the end of the file instead of following it.")
@click.option(
    "--agent-id", help="agent_id of the events.  [default: that of the agent key, else the name of this host]"
)
@click.option("--source", help="source of the events.  [default: the name of the file]")
@click.option("--tenant", help="tenant_id of the events.  [default: the tenant of the key]")
@click.option(
    "--position-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep how far the file was shipped.  [default: positions/ in the data directory]",
)
@click.option(
    "--give-up-after",
    "give_up_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Stop after this long without any progress.  [default: 300 with --once, else never]",
)
@agent_key_option
@json_option
@data_dir_option
def tail(  # noqa: PLR0913  (one parameter an option is how click hands them over)
    *,
    file: Path,
    once: bool,
    agent_id: str | None,
    source: str | None,
    tenant: str | None,
    position_file: Path | None,
    give_up_seconds: float | None,
    agent_key_file: Path | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Publish each line of FILE, and every line that is appended, through rotation and restarts.

    Every complete line becomes one event, once, however often this command is killed and started
    again: the position file knows what was sent. Lines over 16 KiB are cut, invalid UTF-8 and NUL
    are replaced; each such event says so.
    """
    settings = settings_of(data_dir)
    target = edge_target(settings)
    path = file.absolute()
    if once and not path.is_file():
        raise click.UsageError(f"there is no file {file}")
    if once and give_up_seconds is None:
        give_up_seconds = _GIVE_UP_SECONDS_ONCE
    positions = position_file or settings.data_dir / "positions" / _position_name(path)
    identity = identity_of(settings, agent_key_file)
    client = EdgeClient(target.url, target.api_key, identity)
    tally = Tally()
    progress = Progress(tally)
    problem = ""
    stopping = Stopping()
    stopping.install()
    patience = Patience(give_up_seconds, sleep=stopping.sleep)
    publisher = Publisher(client, patience)
    try:
        with locked(positions) as held:
            tenant_id = tenant or target.tenant_id or identity.tenant_id or _tenant_of_key(client, patience)
            name = source or path.name[:128]
            agent_id = agent_id or identity.agent_id or _host_name()
            origin = Origin(tenant_id, agent_id, name, path, settings.schema_writer)
            Follower(origin, held, publisher, tally, SystemClock()).run(once=once, turn=_turn(stopping, progress))
    except KeyboardInterrupt:
        problem = "interrupted; the next run goes on from here" if once else ""
    except GaveUpError:
        problem = f"gave up after {give_up_seconds:g} s without progress; the next run sends these lines again first"
    except EdgeRefusedError as refusal:
        problem = refusal.message
    except PositionError as fault:
        raise click.UsageError(str(fault)) from fault
    finally:
        client.close()
        progress.end()
    places = {"path": str(path), "position_file": str(positions)}
    finish(tally, publisher.account, places, problem=problem, as_json=as_json)


def _turn(stopping: Stopping, progress: Progress) -> Callable[[bool], None]:
    """What is done between two requests, and, told that there is nothing to do, instead of one."""

    def turn(nothing_to_do: bool) -> None:
        progress.show()
        if nothing_to_do:
            stopping.sleep(_POLL_SECONDS)
        stopping.check()

    return turn


def _tenant_of_key(client: EdgeClient, patience: Patience) -> str:
    tenant_id = tenant_of(client, patience)
    if tenant_id is None:
        raise EdgeRefusedError(f"{client.url} does not tell whose key this is: pass --tenant, or check FG_URL")
    return tenant_id


def _position_name(path: Path) -> str:
    return hashlib.sha256(bytes(path)).hexdigest()[:32] + ".json"


def _host_name() -> str:
    """The host's name within the alphabet of agent ids."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", socket.gethostname()).lstrip("._:-")[:128] or "agent"
