"""Where client commands send the API key."""

from pathlib import Path

import click
import pytest

from ops.commands.target import edge_target
from ops.settings import load


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
