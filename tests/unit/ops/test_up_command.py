"""What `frostgate up` says and refuses before anything is started."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ops.clock import SystemClock
from ops.commands.up import first_request, up
from ops.instance import Pids, Stack
from schemas.ids import UUID7
from schemas.units import parse_rfc3339

STACK = Stack(
    url="http://127.0.0.1:1",
    admin_url="http://127.0.0.1:2",
    tenant_id="demo",
    api_key="it's a key",
    nats_url="nats://",
    postgres_dsn="postgresql://",
    operator_postgres_dsn="postgresql://",
    redis_url="redis://",
    data_dir="/nowhere",
    pids=Pids(supervisor=1, edge=1, worker=1, nats=1, postgres=1, valkey=1),
)


def test_the_first_request_is_one_shell_command_with_a_fresh_envelope() -> None:
    words = shlex.split(first_request(STACK, SystemClock()))
    envelope = json.loads(words[-1])
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:1/ingest"]
    assert "Authorization: Bearer it's a key" in words
    assert UUID7.fullmatch(envelope["trace_id"])
    assert SystemClock().now_ms() - parse_rfc3339(envelope["created_at"]) < 60_000
    assert envelope["tenant_id"] == "demo"


def test_two_first_requests_are_two_events() -> None:
    first, second = (json.loads(shlex.split(first_request(STACK, SystemClock()))[-1]) for _ in range(2))
    assert first["event_id"] != second["event_id"]


def test_production_is_refused_as_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FG_ENV", "prod")
    result = CliRunner().invoke(up, ["--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 2
    assert "frostgate edge" in result.output
    assert not (tmp_path / "data").exists()


def test_a_ready_file_that_could_not_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "ready.json"
    result = CliRunner().invoke(up, ["--data-dir", str(tmp_path / "data"), "--ready-file", str(missing)])
    assert result.exit_code == 2
    assert "is not a directory" in result.output
    assert not (tmp_path / "data").exists()
