"""`frostgate keys --ed25519`, from issue to revocation, and the commands that sign with them."""

import json
import stat
from pathlib import Path

import pytest

from tests.integration.cli.commands import Shell, event, ndjson
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until

PUBLISHED_ONCE = ("--once", "--json")


def issue(operator: Shell, tenant: Tenant, file: str, agent_id: str = "agent-1", *more: str) -> str:
    ended = operator.run(
        "keys", "issue", tenant.tenant_id, "--ed25519", "--agent-id", agent_id, "-o", file, "--json", *more
    )
    assert ended.status == 0, ended
    document = ended.document
    assert (document["tenant_id"], document["agent_id"], document["epoch"]) == (tenant.tenant_id, agent_id, True)
    return str(document["key_id"])


def signed(tenant: Tenant, file: str) -> Shell:
    return tenant.shell.with_variables(FG_AGENT_KEY_FILE=str(tenant.shell.directory / file))


def send(shell: Shell, number: int, *more: str) -> tuple[int, str]:
    ended = shell.run("send", "--give-up-after", "60", *more, "-", stdin=ndjson(event(number)))
    return ended.status, ended.stdout + ended.stderr


def test_a_signing_key_is_in_its_file_alone_and_signs_what_is_sent(operator: Shell, tenant: Tenant) -> None:
    key_id = issue(operator, tenant, "agent.key")
    file = operator.directory / "agent.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    kept = json.loads(file.read_text())
    assert (kept["key_id"], kept["agent_id"]) == (key_id, "agent-1")
    listed = operator.run("keys", "list", "--tenant", tenant.tenant_id, "--json")
    assert kept["private_key"] not in listed.stdout
    (row,) = (row for row in listed.document if row["kind"] == "ed25519")
    assert (row["key_id"], row["not_after"], row["revoked_at"]) == (key_id, None, None)
    status, said = send(signed(tenant, "agent.key"), 0)
    assert (status, "1 lines: 1 accepted" in said) == (0, True)
    status, said = send(tenant.shell, 1, "--agent-key", str(file))
    assert status == 0
    assert len(tenant.decided(2)) == 2


def test_a_signing_key_speaks_for_its_agent_alone(operator: Shell, tenant: Tenant) -> None:
    issue(operator, tenant, "other.key", "agent-2")
    status, said = send(signed(tenant, "other.key"), 0)
    assert (status, "TENANT_MISMATCH" in said) == (1, True)


def test_tail_publishes_in_the_name_of_its_key(operator: Shell, tenant: Tenant) -> None:
    issue(operator, tenant, "tail.key", "host-9")
    log = tenant.shell.directory / "app.log"
    log.write_text("one\ntwo\n")
    ended = signed(tenant, "tail.key").run("agent", "tail", str(log), *PUBLISHED_ONCE)
    assert ended.status == 0, ended
    assert ended.document["sending"]["requests"] >= 1
    tenant.decided(2)
    agents = tenant.rows("SELECT DISTINCT agent_id FROM ingest_events WHERE tenant_id = $1")
    assert [row[0] for row in agents] == ["host-9"]


def test_both_keys_sign_during_the_overlap_and_a_revoked_one_is_refused_with_the_next_step(
    operator: Shell, tenant: Tenant
) -> None:
    old = issue(operator, tenant, "old.key")
    rotated = operator.run("keys", "rotate", old, "--overlap", "2h", "-o", "new.key", "--json")
    assert rotated.status == 0, rotated
    assert rotated.document["agent_id"] == "agent-1"
    assert [send(signed(tenant, file), 0)[0] for file in ("old.key", "new.key")] == [0, 0]
    assert operator.run("keys", "revoke", old).stdout == "revoked\n"
    until("the old key is refused", lambda: send(signed(tenant, "old.key"), 1)[0] == 1)
    assert "FG_AGENT_KEY_FILE" in send(signed(tenant, "old.key"), 1)[1]
    assert send(signed(tenant, "new.key"), 1)[0] == 0
    rows = operator.run("keys", "list", "--tenant", tenant.tenant_id).stdout
    assert f"{old}  {tenant.tenant_id}  agent-1  ed25519" in rows
    again = operator.run("keys", "rotate", old, "-o", "third.key")
    assert (again.status, "frostgate keys list" in again.stderr) == (1, True)
    assert not (operator.directory / "third.key").exists()


def test_a_key_ends_when_it_was_issued_to_end(operator: Shell, tenant: Tenant) -> None:
    issue(operator, tenant, "ending.key", "agent-1", "--not-after", "2040-01-31T00:00:00Z")
    listed = operator.run("keys", "list", "--tenant", tenant.tenant_id).stdout
    assert "valid until 2040-01-31T00:00:00.000Z" in listed


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--ed25519", "--agent-id", "a"), 2, "-o"),
        (("--ed25519", "-o", "x.key"), 2, "--agent-id"),
        (("--ed25519", "--agent-id", "a", "-o", "x.key", "--scope", "ingest"), 2, "--scope"),
        (("--ed25519", "--agent-id", "no/slash", "-o", "x.key"), 2, "agent id"),
        (("-o", "x.key"), 2, "--ed25519"),
        (("--not-after", "2040-01-31T00:00:00Z"), 2, "--ed25519"),
        (("--ed25519", "--agent-id", "a", "-o", "x.key", "--not-after", "tomorrow"), 2, "time with a zone"),
        (("--ed25519", "--agent-id", "a", "-o", "x.key", "--not-after", "2001-01-01T00:00:00Z"), 2, "in the past"),
        (("--ed25519", "--agent-id", "a", "-o", "taken.key"), 1, "is there already"),
    ],
)
def test_what_cannot_be_issued_leaves_nothing_behind(
    operator: Shell, tenant: Tenant, arguments: tuple[str, ...], status: int, said: str
) -> None:
    (operator.directory / "taken.key").write_text("precious")
    ended = operator.run("keys", "issue", tenant.tenant_id, *arguments)
    assert (ended.status, said in ended.stderr) == (status, True), ended
    assert not (operator.directory / "x.key").exists()
    assert (operator.directory / "taken.key").read_text() == "precious"


def test_an_unknown_tenant_or_key_leaves_no_file(operator: Shell) -> None:
    issued = operator.run("keys", "issue", "nobody", "--ed25519", "--agent-id", "a", "-o", "x.key")
    assert (issued.status, "frostgate tenants add nobody" in issued.stderr) == (1, True)
    assert operator.run("keys", "rotate", "0" * 16, "-o", "x.key").status == 1
    for overlap in ("1", "1w", "91d", "-1h"):
        assert operator.run("keys", "rotate", "0" * 16, f"--overlap={overlap}", "-o", "x.key").status == 2
    assert list(operator.directory.glob("*.key")) == []


def test_without_redis_a_key_is_issued_all_the_same_and_says_what_to_expect(operator: Shell, tenant: Tenant) -> None:
    away = operator.with_variables(FG_REDIS_URL="redis://127.0.0.1:9/0")
    ended = away.run("keys", "issue", tenant.tenant_id, "--ed25519", "--agent-id", "a", "-o", "a.key", "--json")
    assert (ended.status, ended.document["epoch"]) == (0, False)
    assert "REPLAY_WINDOW_CLOSED" in ended.stderr


def test_a_key_file_of_no_use_is_refused_before_anything_is_sent(tenant: Tenant, tmp_path: Path) -> None:
    wide = tmp_path / "wide.key"
    wide.write_text("{}")
    wide.chmod(0o644)
    status, said = send(tenant.shell.with_variables(FG_AGENT_KEY_FILE=str(wide)), 0)
    assert (status, "chmod 600" in said) == (2, True)
    status, said = send(tenant.shell.with_variables(FG_CA_FILE=str(tmp_path / "none.pem")), 0)
    assert (status, "FG_CA_FILE" in said) == (2, True)
    status, said = send(tenant.shell.with_variables(FG_CLIENT_CERT_FILE=str(wide)), 0)
    assert (status, "FG_CLIENT_CERT_FILE" in said) == (2, True)
