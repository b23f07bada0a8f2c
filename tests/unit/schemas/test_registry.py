"""The published versions of the envelope: what a minor may change, and who reads what."""

import copy
import itertools
from typing import Any

import jsonschema_rs
import pytest

from schemas.registry import PUBLISHED, breaking_changes, readable

ENVELOPE: Any = PUBLISHED["1.0"]


def test_every_published_minor_is_compatible_with_all_earlier_ones_of_its_major() -> None:
    for older, newer in itertools.combinations(PUBLISHED, 2):
        if older.split(".")[0] == newer.split(".")[0]:
            assert breaking_changes(PUBLISHED[older], PUBLISHED[newer]) == []


def test_every_published_file_is_a_sound_schema_that_names_its_version() -> None:
    assert PUBLISHED
    for version, schema in PUBLISHED.items():
        assert schema["$id"] == f"urn:frostgate:envelope:{version}"
        jsonschema_rs.meta.validate(dict(schema))


def changed(**fields: Any) -> Any:
    """The published envelope with other fields; `...` takes one away."""
    schema = copy.deepcopy(ENVELOPE)
    schema["properties"] = {name: field for name, field in (schema["properties"] | fields).items() if field is not ...}
    return schema


@pytest.mark.parametrize(
    ("newer", "differences"),
    [
        (changed(), []),
        (changed(hint={"type": "string"}), []),
        (changed(source=ENVELOPE["properties"]["source"] | {"description": "other words"}), []),
        (ENVELOPE | {"title": "Event", "$id": "urn:frostgate:envelope:1.1"}, []),
        (changed(source=...), ["removed field source"]),
        (changed(payload={"type": ["object", "array"]}), ["changed field payload"]),
        (changed(source={"type": "string", "pattern": "^[a-z]{1,128}$"}), ["changed field source"]),
        (changed(trace_id={"type": "string"}), ["changed field trace_id"]),
        (ENVELOPE | {"required": [*ENVELOPE["required"], "hint"]}, ["newly required field hint"]),
        (
            ENVELOPE | {"required": [name for name in ENVELOPE["required"] if name != "source"]},
            ["no longer required field source"],
        ),
        (ENVELOPE | {"additionalProperties": False}, ["changed demands on the envelope as a whole"]),
    ],
)
def test_a_minor_adds_optional_fields_and_changes_nothing_else(newer: Any, differences: list[str]) -> None:
    assert breaking_changes(ENVELOPE, newer) == differences


@pytest.mark.parametrize(
    ("version", "readers", "is_readable"),
    [
        ("1.0", ("1.0",), True),
        ("1.7", ("1.0",), True),
        ("1.10", ("1.9",), True),
        ("1.9", ("1.10",), False),
        ("0.9", ("1.0",), False),
        ("2.0", ("1.0",), False),
        ("2.0", ("1.0", "2.0"), True),
        ("1.0", ("2.0",), False),
        ("1.0", (), False),
    ],
)
def test_a_reader_takes_its_own_and_later_minors_of_its_major(
    version: str, readers: tuple[str, ...], is_readable: bool
) -> None:
    assert readable(version, readers) is is_readable
