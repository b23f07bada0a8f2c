"""The command line as a whole: help, exit statuses, settings, and the commands that look and administer."""

import json
import subprocess
import sys
from http import HTTPStatus

import pytest

from ops.cli import COMMANDS
from ops.commands.edge_client import EdgeClient
from ops.instance import Stack
from tests.integration.cli.commands import Ended, Shell, event, ndjson
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until

SUBCOMMANDS = [
    *((name,) for name in COMMANDS),
    *(("tenants", name) for name in ("add", "list")),
    *(("keys", name) for name in ("issue", "rotate", "revoke", "list")),
    ("agent", "tail"),
    *(("policy", name) for name in ("test", "rehearse")),
    *(("policy", "data", name) for name in ("set", "show", "clear")),
    *(("dlq", name) for name in ("list", "take")),
    ("retention", "run"),
    ("meters", "audit"),
    *(("keyring", name) for name in ("init", "rotate", "show", "add-witness")),
]
WITH_JSON = [
    ("send",), ("agent", "tail"), ("why",), ("doctor",), ("migrate",), ("tenants", "add"), ("tenants", "list"),
    ("keys", "issue"), ("keys", "rotate"), ("keys", "revoke"), ("keys", "list"), ("bench",), ("stages",), ("export",),
    ("policy", "test"), ("policy", "rehearse"), ("policy", "data", "show"), ("dlq", "list"), ("dlq", "take"),
    ("retention", "run"), ("meters", "audit"),
    ("keyring", "init"), ("keyring", "rotate"), ("keyring", "show"), ("keyring", "add-witness"),
]  # fmt: skip
SECRET = "s3cr3t-canary"


def value_of(doctor: Ended, name: str) -> tuple[str, str]:
    rows = {row["name"]: (row["value"], row["source"]) for row in doctor.document["configuration"]}
    return rows[name]


def findings_of(doctor: Ended) -> dict[str, list[str]]:
    return {check["name"]: check["findings"] for check in doctor.document["checks"]}


def test_help_lists_every_command_and_loads_none() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from ops.cli import cli;"
        "print(CliRunner().invoke(cli, ['--help']).output);"
        "assert not [name for name in sys.modules if name.startswith(('ops.commands', 'asyncpg', 'nats', 'uvicorn'))]"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    for name, entry in COMMANDS.items():
        assert f"  {name} " in done.stdout.decode()
        assert entry.summary in done.stdout.decode()


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(operator: Shell, command: tuple[str, ...]) -> None:
    ended = operator.run(*command, "--help")
    assert ended.status == 0
    assert "Example:\n  " in ended.stdout
    assert ("--json" in ended.stdout) == (command in WITH_JSON)


def test_the_version_is_the_distribution_s(operator: Shell) -> None:
    assert operator.run("--version").stdout.startswith("frostgate 0.")


@pytest.mark.parametrize(("service", "required"), [("edge", "FG_REDIS_URL"), ("worker", "FG_POSTGRES_DSN")])
def test_a_service_without_configuration_lists_all_faults_and_ends_with_status_2(
    operator: Shell, service: str, required: str
) -> None:
    ended = operator.with_variables(FG_HTTP_PORT="x", FG_ENV="prod", FG_OPA_ENFORCE="0", FG_HTPP_HOST="h").run(service)
    assert ended.status == 2
    for part in ("FG_HTTP_PORT must", "FG_OPA_ENFORCE must be 1", f"{required} is required", "docs/configuration.md"):
        assert part in ended.stderr
    assert "warning: nothing reads FG_HTPP_HOST; did you mean FG_HTTP_HOST?" in ended.stderr


def test_a_worker_refuses_a_stage_that_does_not_exist(operator: Shell) -> None:
    ended = operator.run("worker", "--stages", "dedupe,decide")
    assert ended.status == 2
    assert "no such stage: decide. Stages are dedupe, decision" in ended.stderr


def test_doctor_says_that_a_running_stack_is_well_and_where_each_value_comes_from(
    operator: Shell, stack: Stack
) -> None:
    ended = operator.with_variables(FG_LOG_LEVEL="debug").run("doctor", "--json")
    assert ended.status == 0, ended
    assert set(findings_of(ended)) == {
        "configuration",
        "postgres migrations",
        "nats topology",
        "redis",
        "edge",
        "stack",
    }
    assert ended.document["ok"] is True
    assert value_of(ended, "FG_URL") == (stack.url, "stack")
    assert value_of(ended, "FG_API_KEY") == ("***", "stack")
    assert value_of(ended, "FG_LOG_LEVEL") == ("debug", "environment")
    assert value_of(ended, "FG_HTTP_PORT") == ("8080", "default")
    for text in (stack.api_key, stack.postgres_dsn, stack.operator_postgres_dsn, stack.nats_url):
        assert text not in ended.stdout
    spoken = operator.run("doctor")
    assert spoken.status == 0
    assert "ok    nats topology" in spoken.stdout


def test_doctor_finds_drift_faults_and_dead_dependencies_and_shows_no_secret(operator: Shell) -> None:
    drifted = operator.with_variables(FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH="12001").run("doctor", "--json")
    assert drifted.status == 1
    assert any("max_msgs_per_subject" in finding for finding in findings_of(drifted)["nats topology"])
    dead = operator.with_variables(
        FG_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:9/0",
        FG_POSTGRES_DSN=f"postgresql://fg_edge:{SECRET}@127.0.0.1:9/frostgate",
        FG_NATS_URL=f"nats://edge:{SECRET}@127.0.0.1:9",
        FG_URL="http://127.0.0.1:9",
    ).run("doctor", "--json")
    assert dead.status == 1
    found = findings_of(dead)
    assert all(found[name] for name in ("redis", "postgres isolation", "nats topology", "edge"))
    assert SECRET not in dead.stdout + dead.stderr
    faulty = operator.with_variables(FG_NATS_REPLICAS="2", FG_ADMIN_PORT="-1").run("doctor")
    assert faulty.status == 1
    assert "FG_NATS_REPLICAS must be 1, 3 or 5" in faulty.stdout
    assert "FG_ADMIN_PORT must be" in faulty.stdout


def test_doctor_without_any_deployment_has_nothing_to_complain_about(operator: Shell) -> None:
    ended = operator.with_variables(FG_DATA_DIR="nowhere").run("doctor")
    assert ended.status == 0
    assert "nothing to ask" in ended.stdout


def test_migrating_what_is_up_to_date_changes_nothing_and_reports_a_difference(operator: Shell, stack: Stack) -> None:
    shell = operator.with_variables(FG_ADMIN_POSTGRES_DSN=stack.postgres_dsn, FG_NATS_URL=stack.nats_url)
    assert shell.run("migrate", "--json").document == {"applied": [], "created": [], "updated": [], "drift": []}
    differs = shell.with_variables(FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH="12001").run("migrate")
    assert differs.status == 1
    assert "differs: FG_INGEST_0: max_msgs_per_subject is 12000, declared 12001" in differs.stdout


@pytest.mark.parametrize("away", ["FG_ADMIN_POSTGRES_DSN", "FG_NATS_URL"])
def test_migrating_what_does_not_answer_says_which(operator: Shell, stack: Stack, away: str) -> None:
    variables = {"FG_ADMIN_POSTGRES_DSN": stack.postgres_dsn, "FG_NATS_URL": stack.nats_url}
    variables[away] = f"{variables[away].split('://')[0]}://{SECRET}:{SECRET}@127.0.0.1:9/frostgate"
    ended = operator.with_variables(**variables).run("migrate")
    assert ended.status == 1
    assert ("the database" if away == "FG_ADMIN_POSTGRES_DSN" else "the broker") in ended.stderr
    assert SECRET not in ended.stderr


def test_a_key_works_from_its_issue_to_its_revocation_and_is_shown_once(operator: Shell, tenant: Tenant) -> None:
    issued = operator.run("keys", "issue", tenant.tenant_id, "--agent-id", "agent-1", "--scope", "ingest")
    api_key = issued.stdout.strip()
    shell = tenant.shell.with_variables(FG_API_KEY=api_key)
    assert shell.run("send", "-", stdin=ndjson(event(0))).status == 0
    listed = operator.run("keys", "list", "--tenant", tenant.tenant_id, "--json")
    assert api_key not in listed.stdout
    key = next(key for key in listed.document if key["agent_id"] == "agent-1")
    assert (key["tenant_id"], key["scopes"], key["revoked_at"]) == (tenant.tenant_id, ["ingest"], None)
    assert operator.run("keys", "revoke", key["key_id"]).status == 0
    until("the key is refused", lambda: shell.run("send", "-", stdin=ndjson(event(1))).status == 1)
    again = operator.run("keys", "revoke", key["key_id"])
    assert again.status == 1
    assert "frostgate keys list" in again.stderr
    assert f"{key['key_id']}  {tenant.tenant_id}  agent-1  ingest" in operator.run("keys", "list").stdout


def test_what_an_administrator_mistypes_is_refused_with_the_next_step(operator: Shell, tenant: Tenant) -> None:
    exists = operator.run("tenants", "add", tenant.tenant_id)
    assert (exists.status, "already" in exists.stderr) == (1, True)
    assert operator.run("tenants", "add", "a.b").status == 2
    assert operator.run("tenants", "add", "x", "--plan", "gold").status == 2
    unknown = operator.run("keys", "issue", "nobody")
    assert (unknown.status, "frostgate tenants add nobody" in unknown.stderr) == (1, True)
    assert operator.run("keys", "issue", tenant.tenant_id, "--agent-id", "no/slash").status == 2
    listed = operator.run("tenants", "list", "--json").document
    assert tenant.tenant_id in {row["tenant_id"] for row in listed}
    lost = operator.with_variables(FG_ADMIN_POSTGRES_DSN=f"postgresql://u:{SECRET}@127.0.0.1:9/x").run(
        "tenants", "list"
    )
    assert (lost.status, "does not answer" in lost.stderr, SECRET in lost.stderr) == (1, True, False)


def test_why_prints_the_stored_document_from_the_database_and_over_http_alike(operator: Shell, tenant: Tenant) -> None:
    event_id = tenant.shell.run("send", "--json", "--ids", "-", stdin=ndjson(event(0))).document["event_ids"][0]
    artifacts = "SELECT 1 FROM decision_evidence_artifacts WHERE tenant_id = $1"
    until("the evidence", lambda: bool(tenant.rows(artifacts)))
    from_database = operator.run("why", event_id, "--tenant", tenant.tenant_id, "--json").document
    from_edge = tenant.shell.run("why", event_id, "--json").document
    assert from_database == from_edge
    assert (from_edge["outcome"], from_edge["decisions"]["event_id"]) == ("decided", event_id)
    assert from_edge["ingest_events"]["body"]["payload"] == {"number": 0}
    spoken = tenant.shell.run("why", event_id).stdout
    decision, artifact = from_edge["decisions"], from_edge["decision_evidence_artifacts"][0]
    for part in (
        f"{decision['decided_at']} {decision['verdict']} by {decision['policy_code']}",
        f"policy {decision['policy_hash']}", f"score     {decision['score']} of 100",
        f"link 1 (decision) {decision['chain_hash']}", f"after {decision['prev_hash']}",
        artifact["artifact_id"], artifact["segment_id"],
    ):  # fmt: skip
        assert part in spoken


def test_why_tells_no_tenant_anything_of_another_one_s_event(operator: Shell, tenant: Tenant, stack: Stack) -> None:
    event_id = tenant.shell.run("send", "--json", "--ids", "-", stdin=ndjson(event(0))).document["event_ids"][0]
    tenant.decided(1)
    foreign = operator.run("why", event_id)
    assert foreign.status == 1
    assert f"no such event for tenant {stack.tenant_id}" in foreign.stderr
    over_http = Shell(operator.directory, FG_URL=stack.url, FG_API_KEY=stack.api_key).run("why", event_id, "--json")
    assert (over_http.status, over_http.stdout.strip()) == (1, "null")
    assert operator.run("why", "no/id").status == 2
    assert operator.with_variables(FG_ADMIN_POSTGRES_DSN=stack.postgres_dsn).run("why", event_id).status == 2


def test_metrics_of_a_stack_name_the_tenants_that_sent(tenant: Tenant, stack: Stack) -> None:
    assert tenant.shell.run("send", "-", stdin=ndjson(event(0))).status == 0
    client = EdgeClient(stack.admin_url, "")
    answer = client.get("/metrics")
    client.close()
    assert answer.status == HTTPStatus.OK
    labels = f'outcome="accepted",plan="free",tenant_id="{tenant.tenant_id}"'
    assert f"frostgate_ingest_requests_total{{{labels}}} 1.0" in answer.body.decode()
    assert json.dumps(stack.api_key) not in answer.body.decode()
