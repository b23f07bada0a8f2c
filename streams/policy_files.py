"""The rules on disk: what is read, what is refused, and the hash that names them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

DATA_FILE = "data.json"
TEST_SUFFIX = "_test.rego"
_UNREAD_DATA = {".json", ".yaml", ".yml"}


class PolicyError(Exception):
    """The rules cannot be used; the text says which part of them and why."""


class PolicyFiles(NamedTuple):
    """The Rego modules as (name, text), sorted by name, the data document, and the hash of both."""

    modules: tuple[tuple[str, str], ...]
    data: str
    policy_hash: str


def read_policy(directory: Path) -> PolicyFiles:
    """Read every `*.rego` under `directory` and its `data.json`; names with a leading dot are left out.

    Modules named `*_test.rego` are tests: no rules, and no part of the hash.

    Raises PolicyError when there are no rules, when a file is not UTF-8 text, when `data.json` is
    not an object, and for data under any other name, because rules without their lists may allow.
    """
    modules: list[tuple[str, str]] = []
    data = "{}"
    hashed: list[tuple[str, str]] = []
    try:
        for name, path in _files(directory):
            if name.endswith(TEST_SUFFIX):
                continue
            if path.suffix == ".rego":
                modules.append((name, path.read_bytes().decode()))
                hashed.append(modules[-1])
            elif name == DATA_FILE:
                data = path.read_bytes().decode()
                msgspec.json.decode(data, type=dict)
                hashed.append((name, data))
            elif path.suffix in _UNREAD_DATA:
                raise PolicyError(f"{name} would not be read: data belongs into {DATA_FILE}")
    except (OSError, ValueError) as cause:
        raise PolicyError(f"the rules in {directory} cannot be read: {cause}") from cause
    if not modules:
        raise PolicyError(f"there is no .rego file in {directory}")
    return PolicyFiles(tuple(modules), data, _hash(hashed))


def read_tests(directory: Path) -> tuple[tuple[str, str], ...]:
    """The test modules under `directory` as (name, text), sorted by name. Raises PolicyError as `read_policy`."""
    try:
        return tuple(
            (name, path.read_bytes().decode()) for name, path in _files(directory) if name.endswith(TEST_SUFFIX)
        )
    except (OSError, ValueError) as cause:
        raise PolicyError(f"the tests in {directory} cannot be read: {cause}") from cause


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if not any(part.startswith(".") for part in relative.parts) and path.is_file():
            yield relative.as_posix(), path


def _hash(files: list[tuple[str, str]]) -> str:
    """sha256 over name and content of each file, each with its length, so that no two sets of files read alike."""
    digest = hashlib.sha256()
    for part in (text.encode() for pair in sorted(files) for text in pair):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()
