"""`frostgate policy`: tenants' data reaches a running worker, and other rules are rehearsed on what it decided."""

import json
import shutil
from pathlib import Path

from tests.integration.cli.commands import Shell, event, ndjson
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until

SHIPPED = Path(__file__).parents[3] / "policies"
NMAP = {"kind": "process.exec", "path": "/usr/bin/nmap"}
TENANT_DATA = {"denied_programs": ["nmap"]}


def sent(tenant: Tenant, *payloads: object) -> None:
    """On return as many more decisions of the tenant are there."""
    before = len(tenant.rows("SELECT FROM decisions WHERE tenant_id = $1"))
    lines = (event(number, payload=payload) for number, payload in enumerate(payloads))
    (tenant.shell.directory / "events.ndjson").write_bytes(ndjson(*lines))
    assert tenant.shell.run("send", "events.ndjson").status == 0
    tenant.decided(before + len(payloads))


def is_decided(tenant: Tenant, verdict: str, *reasons: str) -> bool:
    """Whether a program started just now is decided so."""
    sent(tenant, NMAP)
    query = "SELECT verdict, policy_reasons FROM decisions WHERE tenant_id = $1 ORDER BY decision_id DESC LIMIT 1"
    return tuple(tenant.rows(query)[0]) == (verdict, list(reasons))


def test_what_a_tenant_adds_is_obeyed_until_it_is_cleared(operator: Shell, tenant: Tenant) -> None:
    name, file = tenant.tenant_id, operator.directory / "data.json"
    assert operator.run("policy", "data", "show", name).status == 1
    file.write_text(json.dumps(TENANT_DATA))
    assert operator.run("policy", "data", "set", name, str(file), "--by", "ann").status == 0
    shown = operator.run("policy", "data", "show", name, "--json").document
    assert (shown["data"], shown["updated_by"], len(shown["sha256"])) == (TENANT_DATA, "ann", 64)
    until("the added denial", lambda: is_decided(tenant, "deny", "process.denied_tool"))
    assert operator.run("policy", "data", "clear", name).status == 0
    assert operator.run("policy", "data", "clear", name).status == 1
    until("the denial to go", lambda: is_decided(tenant, "allow"))


def test_other_rules_are_rehearsed_on_what_was_decided(operator: Shell, tenant: Tenant) -> None:
    sent(tenant, NMAP, {"kind": "usb.inserted"}, {"kind": "log.line", "line": "calm"})
    candidate = shutil.copytree(SHIPPED, operator.directory / "candidate")
    rehearse = ("policy", "rehearse", "--bundle", str(candidate), "--since", "1h", "--tenant", tenant.tenant_id)
    same = operator.run(*rehearse)
    assert (same.status, "decisions 3, same 3" in same.stdout) == (0, True), same
    (candidate / "usb.rego").write_text('package fg.kinds["usb.inserted"]\ndenials := set()\n')
    lists = json.loads((candidate / "data.json").read_text())
    lists["fg"]["lists"]["denied_programs"].append("nmap")
    (candidate / "data.json").write_text(json.dumps(lists))
    told = operator.run(*rehearse, "--json")
    *changes, totals = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.status == 1
    assert [(change["outcome"], change["was"]["policy_code"], change["now"]["reasons"]) for change in changes] == [
        ("now_allowed", "POLICY_NO_RULE_DENY", []),
        ("now_denied", "POLICY_ALLOW", ["process.denied_tool"]),
    ]
    assert totals["totals"] == {
        "decisions": 3, "same": 1, "now_denied": 1, "now_allowed": 1, "reasons_changed": 0, "not_kept": 0,
    }  # fmt: skip
    assert "POLICY_ALLOW -> POLICY_DENY (process.denied_tool)" in operator.run(*rehearse).stdout


def test_nobody_is_no_tenant(operator: Shell) -> None:
    assert (
        operator.run("policy", "rehearse", "--bundle", str(SHIPPED), "--since", "1h", "--tenant", "nobody").status == 2
    )
    (operator.directory / "data.json").write_text("{}")
    assert operator.run("policy", "data", "set", "nobody", "data.json").status == 1
