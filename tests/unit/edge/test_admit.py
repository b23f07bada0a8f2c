"""The contract of one envelope: every finding, in the specification's order."""

import json
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from edge.admit import FIELDS, Admitted, Contract, Unfit
from edge.settings import EdgeSettings
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.units import UnixMs, format_rfc3339
from tests.unit.edge.conftest import DAY_MS, NOW_MS, TRACE_ID, body_of, envelope

SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)
CONTRACT = Contract(SETTINGS)
STRICT = Contract(EdgeSettings(integrity_required=True, event_age_ms_max=7 * DAY_MS))


def codes(body: bytes, contract: Contract = CONTRACT) -> list[Code]:
    result = contract.admit(body, NOW_MS)
    return [one.error_code for one in result.findings] if isinstance(result, Unfit) else []


def sealed(**changes: Any) -> dict[str, Any]:
    fields = envelope(**changes)
    return fields | {"integrity_hash": f"sha256:{sha256_hex(rfc8785.dumps(fields))}"}


def test_a_sound_envelope_is_admitted_with_its_canonical_hash() -> None:
    admitted = CONTRACT.admit(body_of(), NOW_MS)
    assert isinstance(admitted, Admitted)
    assert admitted.body_sha256 == sha256_hex(rfc8785.dumps(envelope()))
    assert (admitted.tenant_id, admitted.event_id, admitted.trace_id) == ("acme", "evt-1", TRACE_ID)
    assert not admitted.aged


@given(st.permutations(sorted(envelope())), st.sampled_from([None, 2]))
def test_order_and_white_space_do_not_change_the_fingerprint(order: list[str], indent: int | None) -> None:
    fields = envelope()
    admitted = CONTRACT.admit(json.dumps({name: fields[name] for name in order}, indent=indent).encode(), NOW_MS)
    assert isinstance(admitted, Admitted)
    assert admitted.body_sha256 == sha256_hex(rfc8785.dumps(fields))


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), st.floats(-1e9, 1e9))
)
def test_the_fingerprint_is_rfc_8785_for_floats_and_foreign_keys_too(payload: dict[str, float]) -> None:
    admitted = CONTRACT.admit(body_of(payload=payload), NOW_MS)
    assert isinstance(admitted, Admitted)
    assert admitted.body_sha256 == sha256_hex(rfc8785.dumps(envelope(payload=payload)))


@pytest.mark.parametrize("absent", [..., None, ""])
@pytest.mark.parametrize("field", [one for one in FIELDS if one != "integrity_hash"])
def test_a_field_that_is_absent_null_or_empty_is_required(field: str, absent: object) -> None:
    assert codes(body_of(**{field: absent})) == [Code[f"{field.upper()}_REQUIRED"]]


@pytest.mark.parametrize("wrong", [0, 1.5, True, [], {}, ["x"], "\x00", "a\x00b", 2**60, "x" * 129, " ", "\u00e9\x85"])
@pytest.mark.parametrize("field", [one for one in FIELDS if one not in {"payload", "integrity_hash", "source"}])
def test_a_field_that_is_there_and_wrong_is_invalid(field: str, wrong: object) -> None:
    assert codes(body_of(**{field: wrong})) == [Code[f"{field.upper()}_INVALID"]]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("tenant_id", "a.b"),
        ("tenant_id", "-a"),
        ("tenant_id", "a" * 64),
        ("tenant_id", "a\n"),
        ("event_id", "a/b"),
        ("event_id", "a b"),
        ("event_id", "\u0661"),
        ("agent_id", ">"),
        ("trace_id", TRACE_ID.upper()),
        ("trace_id", "018f7e20-6d6f-4e20-a3f1-9eb6b7a1f112"),
        ("trace_id", "018f7e20-6d6f-7e20-73f1-9eb6b7a1f112"),
        ("trace_id", TRACE_ID.replace("-", "")),
        ("schema_version", "1"),
        ("schema_version", "1.0.0"),
        ("schema_version", "01.0"),
        ("schema_version", "1.00"),
        ("schema_version", "v1.0"),
        ("source", "a\nb"),
        ("source", "\x7f"),
        ("source", "x" * 129),
        ("source", 1),
        ("created_at", "2026-01-01"),
        ("created_at", "2026-01-01T00:00:00"),
        ("created_at", "2026-01-01 00:00:00Z"),
        ("created_at", "2026-02-30T00:00:00Z"),
        ("created_at", "2026-W01-1T00:00:00Z"),
        ("integrity_hash", 1),
        ("integrity_hash", "sha256:"),
        ("integrity_hash", "sha256:" + "A" * 64),
        ("integrity_hash", "a" * 64),
        ("payload", []),
        ("payload", "x"),
        ("payload", 0),
        ("payload", False),
        ("payload", {"a": 2**53}),
        ("payload", {"a": "\x00"}),
        ("payload", {"\x00": 1}),
    ],
)
def test_each_field_keeps_its_form(field: str, wrong: object) -> None:
    assert codes(body_of(**{field: wrong})) == [Code[f"{field.upper()}_INVALID"]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant_id", "A" * 63),
        ("event_id", "urn:x.y_z-0"),
        ("source", "\u00fcber die Br\u00fccke " + "x" * 100),
        ("source", "\U0001f600" * 128),
        ("payload", {}),
        ("payload", {"text": "\\u0000 spelled out"}),
        ("schema_version", "1.7"),
        ("created_at", "2026-01-01T01:00:00.123456+01:00"),
        ("created_at", "2026-01-01t00:00:00z"),
        ("integrity_hash", None),
        ("integrity_hash", ""),
        ("unknown_field", {"of": ["a", "later", "minor"]}),
    ],
)
def test_what_is_unusual_and_sound_is_admitted(field: str, value: object) -> None:
    assert codes(body_of(**{field: value})) == []


def test_all_findings_are_listed_in_the_order_of_the_specification() -> None:
    assert codes(b"{}", STRICT) == [Code[f"{field.upper()}_REQUIRED"] for field in FIELDS]
    assert codes(b'{"payload":[],"source":3,"tenant_id":"acme"}') == [
        Code.EVENT_ID_REQUIRED,
        Code.TRACE_ID_REQUIRED,
        Code.AGENT_ID_REQUIRED,
        Code.SCHEMA_VERSION_REQUIRED,
        Code.CREATED_AT_REQUIRED,
        Code.SOURCE_INVALID,
        Code.PAYLOAD_INVALID,
    ]


def test_the_sound_ids_of_an_unfit_envelope_are_known() -> None:
    unfit = CONTRACT.admit(body_of(source=..., event_id="?"), NOW_MS)
    assert isinstance(unfit, Unfit)
    assert (unfit.event_id, unfit.trace_id) == (None, TRACE_ID)


@pytest.mark.parametrize("version", ["2.0", "0.9", "0.0", "999999.0"])
def test_an_unknown_major_is_unsupported(version: str) -> None:
    assert codes(body_of(schema_version=version)) == [Code.SCHEMA_VERSION_UNSUPPORTED]


def test_a_minor_below_every_known_one_is_unsupported() -> None:
    settings = EdgeSettings(integrity_required=False, event_age_ms_max=DAY_MS, schema_versions=("1.2", "1.4", "2.0"))
    contract = Contract(settings)
    assert codes(body_of(schema_version="1.1"), contract) == [Code.SCHEMA_VERSION_UNSUPPORTED]
    assert codes(body_of(schema_version="1.2"), contract) == []
    assert codes(body_of(schema_version="1.3"), contract) == []
    assert codes(body_of(schema_version="2.9"), contract) == []


def test_five_seconds_of_the_future_are_allowed_and_no_more() -> None:
    assert codes(body_of(created_at=format_rfc3339(UnixMs(NOW_MS + 5_000)))) == []
    assert codes(body_of(created_at=format_rfc3339(UnixMs(NOW_MS + 5_001)))) == [Code.CREATED_AT_INVALID]


def test_an_old_event_is_admitted_as_aged_because_it_may_be_a_duplicate() -> None:
    oldest = UnixMs(NOW_MS - 7 * DAY_MS)
    for created_ms, aged in ((oldest, False), (UnixMs(oldest - 1), True)):
        admitted = CONTRACT.admit(body_of(created_at=format_rfc3339(created_ms)), NOW_MS)
        assert isinstance(admitted, Admitted)
        assert admitted.aged is aged


def test_a_wrong_number_in_a_text_field_is_that_fields_fault_alone() -> None:
    assert codes(body_of(event_id=2**70)) == [Code.EVENT_ID_INVALID]
    assert codes(body_of(event_id=2**70, payload={"n": 2**70})) == [Code.EVENT_ID_INVALID, Code.PAYLOAD_INVALID]


def test_an_unknown_field_is_data_and_must_be_storable() -> None:
    assert codes(body_of(extra=2**53)) == [Code.PAYLOAD_INVALID]


def test_the_payload_is_measured_as_sent() -> None:
    limit = SETTINGS.payload_bytes_max
    just_fits = {"x": "a" * (limit - len('{"x":""}'))}
    assert codes(body_of(payload=just_fits)) == []
    assert codes(body_of(payload={"x": just_fits["x"] + "a"})) == [Code.PAYLOAD_INVALID]
    spaced = msgspec.json.encode(envelope(payload=...))[:-1] + b',"payload":{' + b" " * limit + b"}}"
    assert codes(spaced) == [Code.PAYLOAD_INVALID]


@pytest.mark.parametrize("payload", [{"a": 1}, {"a": 1.0, "b": 1e21, "\u00e9": "\U0001f600"}])
def test_a_right_integrity_hash_passes_and_a_wrong_one_is_a_mismatch(payload: dict[str, Any]) -> None:
    fields = sealed(payload=payload)
    assert codes(json.dumps(fields, indent=1).encode(), STRICT) == []
    for changed in (fields | {"source": "elsewhere"}, fields | {"integrity_hash": "sha256:" + "0" * 64}):
        assert codes(msgspec.json.encode(changed)) == [Code.INTEGRITY_HASH_MISMATCH]


def test_the_integrity_hash_is_required_only_where_the_mode_is_on() -> None:
    assert codes(body_of()) == []
    assert codes(body_of(), STRICT) == [Code.INTEGRITY_HASH_REQUIRED]


def test_a_hash_is_not_judged_while_anything_else_is_wrong() -> None:
    fields = sealed() | {"source": None}
    assert codes(msgspec.json.encode(fields)) == [Code.SOURCE_REQUIRED]


names = st.sampled_from(FIELDS)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(names, anything))
def test_no_envelope_at_all_raises(changes: dict[str, Any]) -> None:
    body = json.dumps(envelope() | changes).encode()
    assert isinstance(CONTRACT.admit(body, NOW_MS), Admitted | Unfit)


@given(st.text(alphabet="0123456789-:TtZz+., W\u0661", max_size=32))
def test_no_created_at_at_all_raises(text: str) -> None:
    assert codes(body_of(created_at=text)) in (
        [],
        [Code.CREATED_AT_INVALID],
        [Code.CREATED_AT_REQUIRED],
    )
