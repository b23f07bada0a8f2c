"""What a running stack says about itself."""

import os
import subprocess
from pathlib import Path

import msgspec

from ops.embedded.files import write_private
from ops.instance import Pids, Stack, read_stack, stack_file


def stack(data_dir: Path, supervisor: int) -> Stack:
    pids = Pids(supervisor=supervisor, edge=1, worker=1, nats=1, postgres=1, valkey=1)
    return Stack(
        url="http://127.0.0.1:1",
        admin_url="http://127.0.0.1:2",
        tenant_id="demo",
        api_key="the-key",
        nats_url="nats://admin:secret@127.0.0.1:3",
        postgres_dsn="postgresql://",
        operator_postgres_dsn="postgresql://",
        redis_url="redis://",
        data_dir=str(data_dir),
        pids=pids,
    )


def ended_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_no_stack_runs_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_stack(tmp_path) is None


def test_no_stack_runs_once_its_supervisor_is_gone(tmp_path: Path) -> None:
    write_private(stack_file(tmp_path), msgspec.json.encode(stack(tmp_path, ended_process())))
    assert read_stack(tmp_path) is None


def test_a_running_stack_is_read_as_it_was_written(tmp_path: Path) -> None:
    running = stack(tmp_path, os.getpid())
    write_private(stack_file(tmp_path), msgspec.json.encode(running))
    assert read_stack(tmp_path) == running


def test_a_printed_stack_shows_no_credential(tmp_path: Path) -> None:
    assert "the-key" not in repr(stack(tmp_path, 1))
    assert "secret" not in repr(stack(tmp_path, 1))
