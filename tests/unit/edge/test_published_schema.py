"""The published schema says of every field what the edge really demands."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.admit import FIELDS, SOURCE, Admitted, Contract
from edge.settings import EdgeSettings
from schemas.ids import AGENT_ID, EVENT_ID, INTEGRITY_HASH, SCHEMA_VERSION, TENANT_ID, UUID7
from schemas.registry import PUBLISHED
from tests.unit.edge.conftest import DAY_MS, NOW_MS, envelope

ENVELOPE: Any = PUBLISHED["1.0"]
PATTERNS = {name: field["pattern"] for name, field in ENVELOPE["properties"].items() if "pattern" in field}
CONTRACT = Contract(EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS))
VALIDATOR = jsonschema_rs.validator_for(ENVELOPE, validate_formats=True)


def test_the_edge_demands_the_fields_of_the_schema_in_its_own_order() -> None:
    assert set(ENVELOPE["properties"]) == set(FIELDS)
    assert set(ENVELOPE["required"]) == set(FIELDS) - {"integrity_hash"}


def test_each_pattern_is_the_one_the_edge_matches_by() -> None:
    major, minor = SCHEMA_VERSION.pattern.split(r"\.")
    assert major == minor
    demanded = {
        "tenant_id": f"^{TENANT_ID.pattern}$",
        "event_id": f"^{EVENT_ID.pattern}$",
        "trace_id": f"^{UUID7.pattern}$",
        "agent_id": f"^{AGENT_ID.pattern}$",
        "schema_version": rf"^1\.{minor}$",
        "source": f"^{SOURCE.pattern}$".replace(r"\x", r"\u00"),
        "integrity_hash": f"^({INTEGRITY_HASH.pattern})?$",
    }
    assert demanded == PATTERNS


def edge_finds_nothing_wrong_with(field: str, value: object) -> bool:
    verdict = CONTRACT.admit(msgspec.json.encode(envelope(**{field: value})), NOW_MS)
    return isinstance(verdict, Admitted) or field not in {one.field for one in verdict.findings}


def agrees(field: str, value: object) -> bool:
    """Whether both say the same of this field. Whether a claimed hash is the right one only the edge can say."""
    sound = VALIDATOR.is_valid(envelope(**{field: value}))
    if field == "integrity_hash" and sound and value:
        verdict = CONTRACT.admit(msgspec.json.encode(envelope(integrity_hash=value)), NOW_MS)
        return not isinstance(verdict, Admitted) and verdict.findings[0].error_code == "INTEGRITY_HASH_MISMATCH"
    return sound == edge_finds_nothing_wrong_with(field, value)


@given(st.sampled_from(sorted(PATTERNS)), st.data())
def test_what_the_schema_allows_the_edge_admits(field: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(PATTERNS[field].removesuffix("$") + r"\Z"))
    assert VALIDATOR.is_valid(envelope(**{field: text}))
    assert agrees(field, text)


ALPHABET = "aAzZ019.-_:/ \n\x00\x7f\x9f\xa0\u00e9\U0001f600"
NEARLY = st.text(ALPHABET, max_size=3).flatmap(lambda ends: st.integers(0, 130).map(lambda count: ends + "a" * count))


@given(st.sampled_from(sorted(PATTERNS)), NEARLY | st.none() | st.booleans() | st.integers(-9, 9))
def test_schema_and_edge_agree_about_any_value_of_any_text(field: str, value: object) -> None:
    assert agrees(field, value)


@given(st.sampled_from(sorted(PATTERNS)), st.data())
def test_schema_and_edge_agree_about_a_sound_text_with_one_character_changed(field: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(PATTERNS[field].removesuffix("$") + r"\Z"))
    at = data.draw(st.integers(0, len(text)))
    spoilt = text[:at] + data.draw(st.sampled_from(ALPHABET)) + text[at + data.draw(st.integers(0, 1)) :]
    assert agrees(field, spoilt)


@pytest.mark.parametrize("field", sorted(PATTERNS))
@pytest.mark.parametrize("value", ["", None, 7, [], {}])
def test_schema_and_edge_agree_about_what_is_no_text_and_about_the_empty_one(field: str, value: object) -> None:
    assert agrees(field, value)


@pytest.mark.parametrize("field", ["created_at", "payload"])
@pytest.mark.parametrize("value", [None, "", "x", 0, 1.5, True, [], ...])
def test_schema_and_edge_agree_about_what_is_no_date_and_no_object(field: str, value: object) -> None:
    assert agrees(field, value)
    assert not edge_finds_nothing_wrong_with(field, value)
