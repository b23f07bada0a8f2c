"""docs/configuration.md says what the table of variables says."""

from pathlib import Path

from ops.settings_docs import document
from ops.settings_table import TABLE

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_the_one_written_from_the_table() -> None:
    assert PAGE.read_text() == document(), "run: python -m ops.settings_docs > docs/configuration.md"


def test_the_page_has_one_row_for_every_variable() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `FG_")]
    assert [row.split("`")[1] for row in rows] == list(TABLE)
