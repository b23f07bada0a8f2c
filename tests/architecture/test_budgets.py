"""Modules and functions stay small enough to be read in one go."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("schemas", "edge", "streams", "sinks", "ops")
FILES = sorted(file for folder in (*SHIPPED, "chaos", "tests") for file in (ROOT / folder).rglob("*.py"))
MODULE_LINES = 300
MODULE_LINES_HARD = 500
FUNCTION_LINES = 60
# A table without a branch: one line for each setting.
LONG_FUNCTIONS = {"ops/settings_tree.py tree"}


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def _long_modules() -> set[str]:
    return {_name(file) for file in FILES if _lines(file) > MODULE_LINES and _name(file).startswith(SHIPPED)}


def test_no_module_is_too_long() -> None:
    assert _long_modules() == set()
    assert {_name(file) for file in FILES if _lines(file) > MODULE_LINES_HARD} == set()


def test_no_function_is_too_long() -> None:
    assert _long_functions() - LONG_FUNCTIONS == set()


def test_every_exception_is_still_needed() -> None:
    assert LONG_FUNCTIONS - _long_functions() == set()


def _long_functions() -> set[str]:
    return {
        f"{_name(file)} {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES
    }
