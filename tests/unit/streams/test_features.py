"""Features: a closed vocabulary for any event, however hostile."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.canonical import canonical_plain
from streams import features
from streams.features import features_of
from streams.policy_files import read_policy
from streams.scoring import POINTS

ROOT = Path(__file__).parents[3]
WORDS: dict[str, set[bool | str]] = {
    "kind": {*features.KINDS, "other"},
    "source_class": {*features.SOURCE_CLASSES, "other"},
    "outcome": {"none", "success", "failure"},
    "failed_count": {"none", "few", "many", "burst"},
    "path_class": {"none", "system", "home", "other", "temporary"},
    "egress": {"none", "small", "large", "huge"},
}
FLAGS = {
    "off_hours",
    "several_countries",
    "privileged_user",
    "known_tool",
    "encoded_command",
    "system_file_changed",
    "private_to_public",
    "remote_access",
    "suspicious_words",
}
PAYLOAD_FIELDS = (
    *("kind", "user", "outcome", "source_ip", "destination_ip", "destination_port", "failed_count", "countries"),
    *("path", "args", "actor", "sha256_before", "sha256_after", "bytes_out", "line"),
)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["10.0.0.1", "203.0.113.1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
envelope = st.fixed_dictionaries(
    {},
    optional={
        "source": json_value,
        "created_at": json_value | st.text(min_size=13, max_size=30),
        "payload": json_value | st.fixed_dictionaries({}, optional=dict.fromkeys(PAYLOAD_FIELDS, json_value)),
    },
)


@settings(max_examples=300, deadline=None)
@given(event=envelope)
def test_any_event_has_every_feature_with_a_word_of_the_vocabulary(event: dict[str, Any]) -> None:
    found = features_of(event)
    assert set(found) == {*WORDS, *FLAGS}
    assert all(found[name] in words for name, words in WORDS.items())
    assert all(type(found[name]) is bool for name in FLAGS)
    assert canonical_plain(found) == rfc8785.dumps(found)


@pytest.mark.parametrize(
    ("feature", "value", "event"),
    [
        ("kind", "auth.login", {"payload": {"kind": "auth.login"}}),
        ("kind", "other", {"payload": {"kind": "Auth.Login"}}),
        ("kind", "other", {"payload": {"kind": ["auth.login"]}}),
        ("source_class", "identity", {"source": "SSHD/web-1"}),
        ("source_class", "network", {"source": "zeek:conn"}),
        ("source_class", "other", {"source": "sshdx"}),
        ("off_hours", True, {"created_at": "2026-01-01T05:59:59Z"}),
        ("off_hours", False, {"created_at": "2026-01-01T06:00:00Z"}),
        ("off_hours", True, {"created_at": "2026-01-01T22:00:00+09:00"}),
        ("off_hours", False, {"created_at": "2026-01-01T²³:00:00Z"}),
        ("outcome", "failure", {"payload": {"outcome": "failure"}}),
        ("failed_count", "few", {"payload": {"failed_count": 4}}),
        ("failed_count", "many", {"payload": {"failed_count": 5.0}}),
        ("failed_count", "burst", {"payload": {"failed_count": 10}}),
        ("failed_count", "none", {"payload": {"failed_count": True}}),
        ("failed_count", "none", {"payload": {"failed_count": -3}}),
        ("failed_count", "none", {"payload": {"failed_count": "11"}}),
        ("several_countries", True, {"payload": {"countries": ["DE", "FR", None]}}),
        ("several_countries", False, {"payload": {"countries": ["DE", "DE", ["FR"]]}}),
        ("privileged_user", True, {"payload": {"user": "CORP\\Administrator"}}),
        ("privileged_user", False, {"payload": {"user": "rooted"}}),
        ("path_class", "temporary", {"payload": {"path": "C:\\Users\\Public\\x.exe"}}),
        ("path_class", "home", {"payload": {"path": "/home/ana/x"}}),
        ("path_class", "system", {"payload": {"path": "/usr/bin/ls"}}),
        ("path_class", "other", {"payload": {"path": "/srv/x"}}),
        ("known_tool", True, {"payload": {"path": "C:\\x\\MimiKatz.exe"}}),
        ("known_tool", False, {"payload": {"path": "/usr/bin/mimikatz-docs"}}),
        ("encoded_command", True, {"payload": {"args": ["-enc", "QUJDREVGR0hJSktMTU5PUA=="]}}),
        ("encoded_command", True, {"payload": {"args": ["-c", 7, "x | base64 -d"]}}),
        ("encoded_command", True, {"payload": {"args": ["-c", "base64\t-d"]}}),
        ("encoded_command", False, {"payload": {"args": ["-e", "short"]}}),
        ("system_file_changed", True, {"payload": {"kind": "file.change", "path": "/etc/passwd"}}),
        ("system_file_changed", False, {"payload": {"kind": "process.exec", "path": "/etc/passwd"}}),
        (
            "system_file_changed",
            False,
            {"payload": {"kind": "file.change", "path": "/usr/bin/ls", "actor": "/usr/bin/dpkg"}},
        ),
        (
            "system_file_changed",
            True,
            {"payload": {"kind": "file.change", "path": "/usr/bin/ls", "sha256_before": "", "sha256_after": ""}},
        ),
        (
            "system_file_changed",
            True,
            {"payload": {"kind": "file.change", "path": "/bin/ls", "sha256_before": "none", "sha256_after": "none"}},
        ),
        (
            "system_file_changed",
            False,
            {
                "payload": {
                    "kind": "file.change",
                    "path": "/bin/ls",
                    "sha256_before": "a" * 64,
                    "sha256_after": "a" * 64,
                }
            },
        ),
        ("private_to_public", True, {"payload": {"source_ip": "10.0.0.1", "destination_ip": "203.0.113.1"}}),
        ("private_to_public", True, {"payload": {"source_ip": "fd00::1", "destination_ip": "2001:db8::1"}}),
        ("private_to_public", False, {"payload": {"source_ip": "10.0.0.1", "destination_ip": "192.168.0.1"}}),
        ("private_to_public", False, {"payload": {"source_ip": "10.0.0.1", "destination_ip": "nowhere"}}),
        (
            "remote_access",
            True,
            {"payload": {"source_ip": "10.0.0.1", "destination_ip": "203.0.113.1", "destination_port": 3389}},
        ),
        ("remote_access", False, {"payload": {"source_ip": "10.0.0.1", "destination_port": 3389}}),
        ("egress", "small", {"payload": {"bytes_out": 1}}),
        ("egress", "large", {"payload": {"bytes_out": 1024**3}}),
        ("egress", "huge", {"payload": {"bytes_out": 1024**3 + 1}}),
        ("suspicious_words", True, {"payload": {"line": "a UNION SELECT b"}}),
    ],
)
def test_a_feature_says_what_the_table_in_the_docs_says(feature: str, value: bool | str, event: dict[str, Any]) -> None:
    assert features_of(event)[feature] == value


def test_a_long_false_address_is_not_remembered() -> None:
    before = features._is_internal.cache_info().currsize
    features_of({"payload": {"source_ip": "1" * 60_000, "destination_ip": "203.0.113.1"}})
    assert features._is_internal.cache_info().currsize == before


def test_features_and_the_shipped_rules_speak_of_the_same_lists() -> None:
    data = json.loads((ROOT / "policies" / "data.json").read_text())["fg"]
    lists = data["lists"]
    assert set(lists["internal_ranges"]) == set(features.INTERNAL_RANGES)
    assert set(lists["denied_programs"]) == features.KNOWN_TOOLS
    assert set(lists["package_managers"]) == features.PACKAGE_MANAGERS
    assert set(lists["denied_program_directories"]) == set(features.TEMPORARY_PLACES)
    assert set(lists["denied_egress_ports"]) == features.REMOTE_ACCESS_PORTS
    assert data["patterns"]["encoded_command"] == features.ENCODED_COMMAND.pattern
    assert data["limits"]["egress_bytes"] == features.HUGE_EGRESS_BYTES
    modules = [text for name, text in read_policy(ROOT / "policies").modules if "_" in name]
    kinds = {re.findall(r'fg\.kinds\["(.+)"\]', text)[0] for text in modules}
    assert kinds == features.KINDS


def test_the_documentation_lists_every_feature_and_every_point() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text.split("## Features and points")[1], flags=re.MULTILINE))
    assert set(rows) == {*WORDS, *FLAGS}
    for feature, row in rows.items():
        assert sorted(int(points) for points in re.findall(r"\((\d+)\)", row)) == sorted(
            POINTS.get(feature, {}).values()
        )
        assert {word for word in WORDS.get(feature, set()) if f"`{word}`" not in row} <= features.KINDS
