"""The rules' own tests: every rule named `test_*` in a `*_test.rego` module, run by the embedded engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import regorus

from streams.policy import EmbeddedPolicy, sentence_of
from streams.policy_files import PolicyError, read_policy, read_tests
from streams.policy_lint import head_of, reference_of


class RuleTest(NamedTuple):
    """What became of one test: passed if and only if the rule is true, and `problem` says why it has no value."""

    module: str
    name: str
    passed: bool
    problem: str


def run_tests(directory: Path) -> list[RuleTest]:
    """Every test of the rules in `directory`, in the order of modules and rules; empty when there are none.

    Raises PolicyError when the rules cannot be used, also by themselves, or a test cannot be compiled.
    """
    files = read_policy(directory)
    EmbeddedPolicy(files)
    tests = read_tests(directory)
    engine = regorus.Engine()
    try:
        for name, text in (*files.modules, *tests):
            engine.add_policy(name, text)
        engine.add_data_json(files.data)
        modules = msgspec.json.decode(engine.get_ast_as_json())
    except RuntimeError as cause:
        del engine  # of this thread: kept by a traceback it could be freed by another one
        raise PolicyError(sentence_of(cause)) from cause
    wanted = {name for name, _ in tests}
    found = [module for module in modules if module["source"]["file"] in wanted]
    return [_run(engine, module["source"]["file"], path) for module in found for path in _tests_of(module["ast"])]


def _tests_of(tree: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The path of each test of a module, once, whatever number of bodies it has."""
    package = reference_of(tree["package"]["refr"]).path
    yield from dict.fromkeys(
        (*package, name)
        for rule in tree["rules"]
        for name in reference_of(head_of(rule)["refr"]).path[:1]
        if name.startswith("test_")
    )


def _run(engine: "regorus.Engine", module: str, path: tuple[str, ...]) -> RuleTest:
    query = "data" + "".join(f"[{msgspec.json.encode(part).decode()}]" for part in path)
    engine.set_input_json("{}")
    try:
        answer = msgspec.json.decode(engine.eval_query_as_json(query))
    except RuntimeError as cause:
        return RuleTest(module, ".".join(path), passed=False, problem=sentence_of(cause))
    values = [expression["value"] for row in answer.get("result", []) for expression in row["expressions"]]
    return RuleTest(module, ".".join(path), passed=values == [True], problem="")
