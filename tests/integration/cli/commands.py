"""Running `frostgate` as a user does: a process of its own, its own environment, its own directory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

BOUND_S = 120.0
PROGRAM = (sys.executable, "-c", "from ops.cli import main; main()")
FORBIDDEN = ("Traceback", 'File "')


class Ended(NamedTuple):
    """What a finished command left."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


class Shell:
    """Runs commands in one directory with FG_ variables of its own and none of the caller's."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory
        self.variables = variables

    def with_variables(self, **variables: str) -> "Shell":
        return Shell(self.directory, **{**self.variables, **variables})

    @property
    def environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("FG_")} | self.variables

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """The command's end. No command ever shows a traceback."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=BOUND_S,
            check=False,
        )
        ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not any(sign in ended.stdout + ended.stderr for sign in FORBIDDEN), ended
        return ended


def event(number: int, **fields: object) -> dict[str, object]:
    """An event without the fields that `send` fills in."""
    return {
        "agent_id": "agent-1",
        "schema_version": "1.0",
        "source": "tests",
        "payload": {"number": number},
    } | fields


def ndjson(*events: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)
