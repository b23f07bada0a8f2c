"""`frostgate why`: the whole life of one event, from the records."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec

from ops.commands.database import on_database
from ops.commands.edge_client import EdgeClient, EdgeRefusedError, identity_of
from ops.commands.target import data_dir_option, database_target, edge_target, json_option, settings_of
from ops.settings import Settings
from schemas.ids import is_event_id, is_tenant_id
from sinks.life import Lives

Row = dict[str, Any]
LABEL_WIDTH = 10


@click.command(
    epilog="""\b
Example:
  frostgate why 01a204fb-8d6d-70c5-bc6b-82bc27ab2524
  frostgate why EVENT_ID --tenant acme --json

Exit status: 0 found; 1 the tenant has no such event; 2 usage or configuration."""
)
@click.argument("event_id")
@click.option("--tenant", help="Tenant of the event.  [default: the tenant of the running stack, or of the key]")
@json_option
@data_dir_option
def why(event_id: str, tenant: str | None, as_json: bool, data_dir: Path | None) -> None:
    """Tell what became of the event EVENT_ID: accepted, deduped, decided, chained, kept as evidence, or dead.

    Asks the database of the running stack or FG_ADMIN_POSTGRES_DSN; with FG_URL alone, that edge.
    --json prints the document as stored, its keys the names of the tables and of their columns.
    """
    settings = settings_of(data_dir)
    if not is_event_id(event_id):
        raise click.BadParameter("not an event id", param_hint="EVENT_ID")
    if settings.url and not settings.admin_postgres_dsn:
        document, owner = _from_edge(settings, event_id, tenant)
    else:
        document, owner = _from_database(settings, event_id, tenant)
    if document is None:
        if as_json:
            click.echo("null")
        raise click.ClickException(
            f"no such event for {owner}; one accepted a moment ago is known here once it has left the ingest stream"
        )
    click.echo(document.decode() if as_json else "\n".join(told(msgspec.json.decode(document))))


def _from_database(settings: Settings, event_id: str, tenant: str | None) -> tuple[bytes | None, str]:
    target = database_target(settings)
    tenant_id = tenant or target.tenant_id
    if tenant_id is None or not is_tenant_id(tenant_id):
        raise click.UsageError("whose event? pass --tenant with a tenant id")
    return on_database(target, lambda pool: Lives(pool).life_of(tenant_id, event_id, None)), f"tenant {tenant_id}"


def _from_edge(settings: Settings, event_id: str, tenant: str | None) -> tuple[bytes | None, str]:
    target = edge_target(settings)
    client = EdgeClient(target.url, target.api_key, identity_of(settings))
    try:
        answer = client.get(f"/v1/events/{quote(event_id, safe='')}")
    except ConnectionError as problem:
        raise click.ClickException(f"{client.url} does not answer: {problem}") from problem
    finally:
        client.close()
    owner = "the tenant of this key" if target.tenant_id is None else f"tenant {target.tenant_id}"
    if answer.status == 404:
        return None, owner
    if answer.status != 200:
        raise EdgeRefusedError(
            f"{client.url} refuses the request: {answer.status}. The key needs the scope `events:read`."
        )
    found = msgspec.json.decode(answer.body)["tenant_id"]
    if tenant is not None and tenant != found:
        raise click.UsageError(f"the key is of tenant {found}: to ask for {tenant}, use a key of that tenant")
    return answer.body, owner


def told(life: Row) -> Iterator[str]:
    """The life as lines for a person, in the order in which it happened."""
    yield f"event {life['event_id']} of tenant {life['tenant_id']}: {_OUTCOMES[life['outcome']]}"
    key, body, decision = life["event_keys"], life["ingest_events"], life["decisions"]
    if key is not None:
        yield _line("accepted", f"{key['ingest_ts']} as {key['stream']} #{key['seq']}")
        yield _line("", f"trace {key['trace_id']}, request {key['request_id']}")
        yield _line("deduped", f"first of its id; body sha256 {key['body_sha256']}")
    if body is not None:
        yield _line("from", f"agent {body['agent_id']}, source {body['source']}, {body['body_bytes']} bytes")
    if decision is not None:
        yield from _decided(decision)
    for entry in life["chain_entries"]:
        yield _line("chained", f"link {entry['seq']} ({entry['kind']}) {entry['chain_hash']}")
        yield _line("", f"after {entry['prev_hash']}")
        if entry["entry"].get("break_glass"):
            yield _line("", f"accepted under the emergency override {entry['entry']['break_glass']}")
    for row in life["evidence_outbox"]:
        yield _line("outbox", f"link {row['seq']} waits to be published")
    for artifact in life["decision_evidence_artifacts"]:
        yield _line("evidence", f"{artifact['artifact_id']} ({artifact['artifact_bytes']} bytes)")
        yield _line("", f"in segment {artifact['segment_id']} since {artifact['stored_at']}")
    for letter in life["ingest_dlq"]:
        yield _line("dead", f"{letter['last_seen_at']} {letter['reason_code']} in stage {letter['stage']}")
        yield _line("", f"{letter['stream']} #{letter['seq']}, first seen {letter['first_seen_at']}")


_OUTCOMES = {
    "decided": "decided",
    "dead": "dead, see the dead letter",
    "in_flight": "in flight, not decided yet",
}


def _decided(decision: Row) -> Iterator[str]:
    yield _line("decided", f"{decision['decided_at']} {decision['verdict']} by {decision['policy_code']}")
    if decision["policy_reasons"]:
        yield _line("", f"because of {', '.join(decision['policy_reasons'])}")
    yield _line("", f"policy {decision['policy_hash']}")
    yield _line("", f"config {decision['config_hash']}")
    shares = ", ".join(f"{share['feature']} {share['points']:+d}" for share in decision["contributions"])
    yield _line("score", f"{decision['score']} of 100" + (f": {shares}" if shares else ""))


def _line(label: str, text: str) -> str:
    return f"  {label:<{LABEL_WIDTH}}{text}"
