"""Where client commands send the API key, and as whom they come to the database."""

import os
from pathlib import Path

import click
import msgspec
import pytest

from ops.commands.target import database_target, edge_target
from ops.instance import stack_file
from ops.settings import load
from tests.unit.ops.test_instance import stack


@pytest.mark.parametrize("url", ["http://192.0.2.2:8080", "http://edge.example", "http://127.0.0.1.example"])
def test_no_key_is_sent_in_plain_text_to_another_machine(url: str, tmp_path: Path) -> None:
    settings = load({"FG_URL": url, "FG_API_KEY": "k", "FG_DATA_DIR": str(tmp_path)})
    with pytest.raises(click.UsageError, match="use https"):
        edge_target(settings)


@pytest.mark.parametrize(
    "url", ["https://edge.example", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080"]
)
def test_tls_and_this_machine_may_have_it(url: str, tmp_path: Path) -> None:
    settings = load({"FG_URL": url, "FG_API_KEY": "k", "FG_DATA_DIR": str(tmp_path)})
    assert edge_target(settings).url == url


def test_commands_come_to_the_database_of_a_running_stack_as_operators(tmp_path: Path) -> None:
    running = stack(tmp_path, os.getpid())
    running.postgres_dsn, running.operator_postgres_dsn = "postgresql://superuser@db", "postgresql://fg_admin@db"
    stack_file(tmp_path).write_bytes(msgspec.json.encode(running))
    assert database_target(load({"FG_DATA_DIR": str(tmp_path)})).dsn == "postgresql://fg_admin@db"
