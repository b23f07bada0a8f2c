"""`frostgate policy test`: what counts as a test, when it passes, and that the shipped rules have tests that bite."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ops.commands.policy import policy
from streams.policy_files import PolicyError, read_policy
from streams.policy_tests import run_tests

SHIPPED = Path(__file__).parents[3] / "policies"
RULES = 'package fg.decision\ndecision := {"allow": input.ok}\n'

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A directory of rules with these tests."""

    def write(tests: str) -> Path:
        (tmp_path / "main.rego").write_text(RULES)
        (tmp_path / "main_test.rego").write_text(f"package fg_test.main\nimport data.fg.decision.decision\n{tests}")
        return tmp_path

    return write


def asked(directory: Path, *options: str) -> Result:
    return CliRunner().invoke(policy, ["test", "--dir", str(directory), *options])


def test_the_shipped_rules_pass_their_tests_and_each_kind_has_some() -> None:
    results = run_tests(SHIPPED)
    assert [result.name for result in results if not result.passed] == []
    rules = {name.removesuffix(".rego") for name, _ in read_policy(SHIPPED).modules}
    assert rules - {"shapes", "tenant"} == {result.module.removesuffix("_test.rego") for result in results}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("auth_login.rego", "login.login_count * 60 >", "login.login_count * 60 >="),
        ("auth_login.rego", "max([object.get", "min([object.get"),
        ("process_exec.rego", '"process.denied_path" if strings', '"process.denied" if strings'),
        ("network_flow.rego", '"destination_port", 0) in', '"destination_port", 443) in'),
        ("network_flow.rego", "not shapes.in_ranges(flow.destination_ip", "shapes.in_ranges(flow.destination_ip"),
        ("file_change.rego", "not content_stayed", "true"),
        ("file_change.rego", "regex.match(`^[0-9a-fA-F]{64}$`", "regex.match(`^.*$`"),
        ("shapes.rego", "not embeds_ipv4(value)", "true"),
        ("shapes.rego", "regex.match(`^(/|", "regex.match(`(^|"),
        ("file_change.rego", "not by_package_manager", "true"),
        ("tenant.rego", "limit(name) := min(", "limit(name) := max("),
        ("tenant.rego", "not is_well_formed", "false"),
        ("main.rego", " | data.fg.tenant.faults", ""),
    ],
)
def test_a_shipped_rule_that_is_broken_fails_a_test(tmp_path: Path, module: str, old: str, new: str) -> None:
    directory = Path(shutil.copytree(SHIPPED, tmp_path / "policies"))
    text = (directory / module).read_text()
    assert old in text
    (directory / module).write_text(text.replace(old, new))
    assert not all(result.passed for result in run_tests(directory))


def test_the_documentation_names_every_reason_and_every_allowed_port() -> None:
    text = (SHIPPED.parent / "docs" / "decisions.md").read_text()
    modules = dict(read_policy(SHIPPED).modules)
    reasons = {name for module in modules.values() for name in re.findall(r'contains "([a-z_.]+)"', module)}
    assert "network.private_to_public" in reasons
    assert [name for name in sorted(reasons) if f"`{name}`" not in text] == []
    lists = json.loads(read_policy(SHIPPED).data)["fg"]["lists"]
    assert f"({', '.join(str(port) for port in lists['allowed_egress_ports'])} are)" in text
    assert set(lists["allowed_egress_ports"]).isdisjoint(lists["denied_egress_ports"])


def test_a_test_passes_if_and_only_if_it_is_true(written: Written) -> None:
    tests = """
test_true if decision.allow with input as {"ok": true}
test_false := false
test_undefined if decision.allow with input as {}
test_text := "true"
test_several_bodies if false
test_several_bodies if true
test_conflicting := x if some x in [true, false]
helper := true
"""
    results = {result.name.removeprefix("fg_test.main."): result for result in run_tests(written(tests))}
    assert {name for name, result in results.items() if result.passed} == {"test_true", "test_several_bodies"}
    assert len(results) == 6
    assert [name for name, result in results.items() if result.problem] == ["test_conflicting"]


def test_rules_named_like_tests_elsewhere_are_none(written: Written) -> None:
    directory = written("helper := true\n")
    (directory / "more.rego").write_text("package fg.more\ntest_it if true\n")
    assert run_tests(directory) == []


def test_tests_are_no_rules_and_no_part_of_the_hash(written: Written) -> None:
    before = read_policy(written("test_it if true\n"))
    assert read_policy(written("test_other if false\n")) == before
    assert [name for name, _ in before.modules] == ["main.rego"]


def test_rules_that_need_their_tests_are_refused(written: Written) -> None:
    directory = written("test_it if true\n")
    (directory / "main.rego").write_text(RULES.replace("input.ok", "data.fg_test.main.helper(1)"))
    (directory / "main_test.rego").write_text("package fg_test.main\nhelper(x) := x\ntest_it if true\n")
    with pytest.raises(PolicyError, match="fg_test"):
        run_tests(directory)


def test_the_command_says_which_test_failed(written: Written) -> None:
    ended = asked(written("test_good if true\ntest_bad if false\n"))
    assert ended.exit_code == 1
    assert "PASS  fg_test.main.test_good" in ended.stdout
    assert "FAIL  fg_test.main.test_bad" in ended.stdout
    assert "1 passed, 1 failed" in ended.stderr
    documents = json.loads(asked(written("test_good if true\n"), "--json").stdout)
    assert documents == [{"module": "main_test.rego", "name": "fg_test.main.test_good", "passed": True, "problem": ""}]


@pytest.mark.parametrize(
    ("tests", "status"), [("test_good if true\n", 0), ("helper := true\n", 1), ("test_it if {\n", 2)]
)
def test_no_test_is_a_failure_and_what_cannot_be_compiled_is_a_usage_error(
    written: Written, tests: str, status: int
) -> None:
    assert asked(written(tests)).exit_code == status
