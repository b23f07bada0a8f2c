"""What `frostgate policy` refuses before it asks any server."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ops.commands.policy import policy

SHIPPED = Path(__file__).parents[3] / "policies"
DENIED = {
    "denied_program_directories": ["/opt/games/"],
    "denied_programs": ["nmap"],
    "protected_files": ["/srv/key.pem"],
    "protected_directories": ["/srv/ledger/"],
    "denied_ranges": ["203.0.113.0/24"],
    "denied_egress_ports": [25],
    "limits": {"failed_logins": 3, "logins_per_minute": 5, "egress_bytes": 1000},
}


def set_data(tmp_path: Path, text: str) -> Result:
    """Data that passes meets the question which stack is meant: none runs in this directory."""
    (tmp_path / "data.json").write_text(text)
    arguments = ["data", "set", "acme", str(tmp_path / "data.json"), "--data-dir", str(tmp_path)]
    return CliRunner().invoke(policy, arguments, env={"FG_POLICY_DIR": str(SHIPPED)})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "not a JSON object"),
        ('{"a": 1.5}', "fraction"),
        (json.dumps({"a": "x" * 70_000}), "65536 are allowed"),
        (json.dumps({"a": "x" * 200_000}), "cannot be a tenant's policy data"),
        ('{"denied_programs": "nmap"}', "the rules refuse the data"),
        ('{"limits": {"nobody_knows": 1}}', "the rules refuse the data"),
        (json.dumps({"denied_egress_ports": list(range(251))}), "the rules refuse the data"),
    ],
)
def test_data_that_cannot_be_kept_or_that_the_rules_refuse_is_not_set(tmp_path: Path, text: str, problem: str) -> None:
    ended = set_data(tmp_path, text)
    assert (ended.exit_code, problem in ended.stderr) == (1, True), ended.stderr


@pytest.mark.parametrize("data", [{}, DENIED, {"names": ["no rule asks for"]}])
def test_data_the_rules_understand_goes_on_to_the_database(tmp_path: Path, data: object) -> None:
    ended = set_data(tmp_path, json.dumps(data))
    assert (ended.exit_code, "no stack runs in" in ended.stderr) == (2, True), ended.stderr


@pytest.mark.parametrize("since", ["yesterday", "0h", "24", "h", "-1h", "1w", "1.5h", "99999d", ""])
def test_a_period_that_is_none_is_a_usage_error(since: str) -> None:
    ended = CliRunner().invoke(policy, ["rehearse", "--bundle", str(SHIPPED), "--since", since])
    assert (ended.exit_code, "is not a period: 30m, 24h or 7d" in ended.stderr) == (2, True)


def test_rules_that_cannot_be_used_are_a_usage_error(tmp_path: Path) -> None:
    ended = CliRunner().invoke(policy, ["rehearse", "--bundle", str(tmp_path), "--since", "1h"])
    assert (ended.exit_code, "the rules cannot be used" in ended.stderr) == (2, True)
