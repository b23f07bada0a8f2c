"""A line of a log becomes an event an edge takes, whatever bytes are in it, and says what was changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.admit import Admitted, Contract
from edge.settings import EdgeSettings
from ops.commands.lines import Line
from ops.commands.log_events import LINE_BYTES_MAX, Origin, log_event
from schemas.units import UnixMs

NOW = UnixMs(1_790_000_000_000)
GENERATION = "01a204fb-8d6d-70c5-bc6b-82bc27ab2524"
ORIGIN = Origin("tenant-1", "host-1", "auth.log", Path("/var/log/auth.log"), "1.0")
FLAGS = {"cut", "invalid_utf8", "nul_replaced", "unterminated"}


class StillClock:
    def now_ms(self) -> UnixMs:
        return NOW


def event(text: bytes, *, cut: bool = False, terminated: bool = True) -> dict[str, Any]:
    line = Line(7, len(text) + 1, text, cut, terminated)
    body = log_event(line, GENERATION, ORIGIN, StillClock())
    admitted = Contract(EdgeSettings(integrity_required=True, event_age_ms_max=1_000)).admit(body, NOW)
    assert isinstance(admitted, Admitted), admitted
    assert b"\n" not in body
    parsed = json.loads(body)
    assert isinstance(parsed, dict)
    return parsed


def test_the_version_written_is_the_one_the_settings_name() -> None:
    origin = ORIGIN._replace(schema_version="1.4")
    assert (
        json.loads(log_event(Line(0, 2, b"x", cut=False, terminated=True), GENERATION, origin, StillClock()))[
            "schema_version"
        ]
        == "1.4"
    )


def test_a_plain_line_is_carried_as_it_is() -> None:
    sent = event("grüße \t\x1b[0m".encode())
    assert sent["event_id"] == f"log-{GENERATION}-7"
    assert (sent["tenant_id"], sent["agent_id"], sent["source"]) == ("tenant-1", "host-1", "auth.log")
    assert sent["created_at"] == "2026-09-21T14:13:20.000Z"
    assert sent["payload"] == {
        "kind": "log.line", "path": "/var/log/auth.log", "offset": 7, "line_bytes": 14, "line": "grüße \t\x1b[0m",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cut", "flag", "line"),
    [
        (b"a\xffb", False, "invalid_utf8", "a\N{REPLACEMENT CHARACTER}b"),
        (b"a\0b", False, "nul_replaced", "a\N{SYMBOL FOR NULL}b"),
        ("né".encode()[:-1], True, "cut", "n"),
    ],
)
def test_what_is_changed_about_a_line_is_flagged(text: bytes, cut: bool, flag: str, line: str) -> None:
    payload = event(text, cut=cut)["payload"]
    assert payload["line"] == line
    assert {name for name in FLAGS if payload.get(name)} == {flag}


def test_a_replacement_character_of_the_log_itself_is_not_called_invalid() -> None:
    assert "invalid_utf8" not in event("\N{REPLACEMENT CHARACTER}".encode())["payload"]


def test_an_end_without_a_newline_is_flagged() -> None:
    assert event(b"half", terminated=False)["payload"]["unterminated"] is True


@pytest.mark.parametrize(
    "text", [b"\x01" * LINE_BYTES_MAX, b"\xff" * LINE_BYTES_MAX, b"\0" * LINE_BYTES_MAX, b'"' * LINE_BYTES_MAX]
)
def test_the_worst_line_still_fits_an_event(text: bytes) -> None:
    assert event(text)["payload"]["line"]


@given(st.binary(max_size=200))
def test_no_bytes_make_an_event_an_edge_refuses(text: bytes) -> None:
    assert event(text)["payload"]["offset"] == 7
