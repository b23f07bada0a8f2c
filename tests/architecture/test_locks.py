"""The lock files answer for pyproject.toml: nothing missing, nothing contradictory, every file hashed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
NEEDED = {
    "requirements.lock": [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]],
    "requirements-dev.lock": [*PROJECT["project"]["dependencies"], *GROUPS["dev"]],
    "requirements-bench.lock": [*PROJECT["project"]["dependencies"], *GROUPS["dev"], *GROUPS["bench"]],
    "requirements-fuzz.lock": [*PROJECT["project"]["dependencies"], *GROUPS["dev"], *GROUPS["fuzz"]],
}
PINNED = re.compile(r"^([a-z0-9-]+)==(\S+) (?:; .* )?\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def _pins(lock: str) -> dict[str, str]:
    return {name: version for name, version, _hashes in PINNED.findall((ROOT / lock).read_text())}


@pytest.mark.parametrize("lock", NEEDED)
def test_every_requirement_is_locked_to_a_version_it_allows(lock: str) -> None:
    pins = _pins(lock)
    wanted = [Requirement(text) for text in NEEDED[lock]]
    assert [str(one) for one in wanted if pins.get(canonicalize_name(one.name), "") not in one.specifier] == []


@pytest.mark.parametrize("lock", NEEDED)
def test_every_line_of_a_lock_is_a_version_with_its_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    rest = re.sub(r"^ *#.*\n", "", PINNED.sub("", text), flags=re.MULTILINE)
    assert rest.strip() == ""
    assert "://" not in text


def test_the_locks_agree_on_every_version() -> None:
    runtime, dev, bench, fuzz = (_pins(lock) for lock in NEEDED)
    assert runtime.items() <= dev.items()
    assert dev.items() <= bench.items()
    assert dev.items() <= fuzz.items()
