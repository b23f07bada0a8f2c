"""The flat top-level names are ours alone, and each outside thing is named in the one file made for it."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "edge", "streams", "sinks", "ops", "chaos")
SHIPPED = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
# It starts the server and makes the roles before there is anything for `sinks` to speak to.
POSTGRES_STARTER = "ops/embedded/postgres.py"
Tree = tuple[Path, ast.Module]


@pytest.fixture(scope="module")
def trees() -> list[Tree]:
    return [(file, ast.parse(file.read_text())) for file in SHIPPED]


def _found(trees: list[Tree], allowed: set[str], wanted: Callable[[ast.AST], bool]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for file, tree in trees
        if file.relative_to(ROOT).as_posix() not in allowed
        for node in ast.walk(tree)
        if wanted(node)
    ]


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        yield node.module


@pytest.mark.parametrize("name", [*PACKAGES, "policies", "frostgate"])
def test_no_other_distribution_owns_one_of_our_names(name: str) -> None:
    owners = set(packages_distributions().get(name, [])) - {"frostgate"}
    assert owners == set()


def test_the_import_contracts_hold() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("library", "owner"),
    [("nats", "streams"), ("asyncpg", "sinks")],
)
def test_only_one_package_speaks_to_nats_and_one_to_postgres(trees: list[Tree], library: str, owner: str) -> None:
    outsiders = [(file, tree) for file, tree in trees if file.relative_to(ROOT).parts[0] != owner]

    def names_it(node: ast.AST) -> bool:
        return any(module.split(".")[0] == library for module in _imported(node))

    assert _found(outsiders, {POSTGRES_STARTER}, names_it) == []


def test_only_one_module_names_the_errors_of_the_postgres_driver(trees: list[Tree]) -> None:
    def names_an_error(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "asyncpg":
            return node.attr.endswith("Error") or node.attr == "exceptions"
        return any(module.startswith("asyncpg.exceptions") for module in _imported(node))

    assert _found(trees, {"sinks/faults.py", POSTGRES_STARTER}, names_an_error) == []


def test_only_the_settings_read_the_environment(trees: list[Tree]) -> None:
    def reads_environment(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            return node.attr in {"environ", "environb", "getenv"}
        return isinstance(node, ast.ImportFrom) and node.module == "os" and "environ" in {a.name for a in node.names}

    assert _found(trees, {"ops/settings.py"}, reads_environment) == []


def test_a_message_is_never_given_back_without_a_delay(trees: list[Tree]) -> None:
    """A bare NAK ignores the consumer's backoff: four deliveries in 5 ms, and the budget is gone."""

    def bare_nak(node: ast.AST) -> bool:
        if isinstance(node, ast.Constant):
            return node.value in (b"-NAK", "-NAK")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return node.func.attr == "nak" and not node.args and not node.keywords
        return False

    assert _found(trees, set(), bare_nak) == []
