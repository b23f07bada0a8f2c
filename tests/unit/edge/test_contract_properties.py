"""What holds of every envelope there can be: findings in order, unknown fields kept, one meaning, one hash."""

import copy
import json
from typing import Any

import msgspec
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from edge.admit import FIELDS, Admitted, Contract, Unfit
from edge.settings import EdgeSettings
from schemas.canonical import sha256_hex
from schemas.codes import TABLE, Code
from tests.unit.edge.conftest import DAY_MS, NOW_MS, envelope

SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=7 * DAY_MS)
CONTRACT = Contract(SETTINGS)
STRICT = Contract(EdgeSettings(integrity_required=True, event_age_ms_max=7 * DAY_MS))

any_text = st.text(st.characters(exclude_categories=["Cs"]))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)
storable_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
storable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable_text, inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(storable_text, storable, max_size=3)


def verdict_on(fields: dict[str, Any], contract: Contract = CONTRACT) -> Admitted | Unfit:
    return contract.admit(json.dumps(fields).encode(), NOW_MS)


def codes(fields: dict[str, Any], contract: Contract = CONTRACT) -> list[Code]:
    verdict = verdict_on(fields, contract)
    return [one.error_code for one in verdict.findings] if isinstance(verdict, Unfit) else []


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"integrity_hash": f"sha256:{sha256_hex(rfc8785.dumps(fields))}"}


@given(st.dictionaries(st.sampled_from(FIELDS), any_json), st.sampled_from([CONTRACT, STRICT]))
def test_whatever_the_fields_hold_the_findings_come_in_the_order_of_the_contract(
    changes: dict[str, Any], contract: Contract
) -> None:
    verdict = verdict_on(envelope() | changes, contract)
    if isinstance(verdict, Admitted):
        return
    ranks = [FIELDS.index(one.field) for one in verdict.findings if one.field is not None]
    assert ranks == sorted(set(ranks)), "each field at most once, the specification's first one first"
    assert len(ranks) == len(verdict.findings) or len(verdict.findings) == 1
    for one in verdict.findings:
        assert TABLE[one.error_code].status == 400


@given(st.sets(st.sampled_from([*FIELDS[:7], "payload"]), min_size=1))
def test_whatever_is_missing_is_listed_whole_and_in_order(missing: set[str]) -> None:
    fields = {name: value for name, value in envelope().items() if name not in missing}
    assert codes(fields) == [Code[f"{name.upper()}_REQUIRED"] for name in FIELDS if name in missing]


@given(st.dictionaries(storable_text.filter(lambda name: name not in FIELDS), storable, max_size=4))
def test_whatever_a_later_version_adds_is_admitted_and_part_of_the_fingerprint(extra: dict[str, Any]) -> None:
    fields = envelope() | extra
    verdict = verdict_on(fields)
    assert isinstance(verdict, Admitted)
    assert verdict.body_sha256 == sha256_hex(rfc8785.dumps(fields))


@given(payloads, st.data())
def test_the_same_json_spelled_otherwise_has_the_same_fingerprint(payload: dict[str, Any], data: st.DataObject) -> None:
    fields = envelope(payload=payload)
    first = CONTRACT.admit(msgspec.json.encode(fields), NOW_MS)
    again = CONTRACT.admit(
        json.dumps(
            _shuffled(fields, data), ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1]))
        ).encode(),
        NOW_MS,
    )
    assert isinstance(first, Admitted)
    assert isinstance(again, Admitted)
    assert first.body_sha256 == again.body_sha256


def _shuffled(value: Any, data: st.DataObject) -> Any:
    if isinstance(value, list):
        return [_shuffled(one, data) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _shuffled(value[name], data) for name in data.draw(st.permutations(list(value)))}


@given(payloads, st.sampled_from([CONTRACT, STRICT]))
def test_a_hash_over_the_rest_in_rfc_8785_form_holds_for_any_payload(
    payload: dict[str, Any], contract: Contract
) -> None:
    assert codes(seal(envelope(payload=payload)), contract) == []


@given(payloads, payloads, st.sampled_from([CONTRACT, STRICT]))
def test_a_hash_over_anything_else_is_a_mismatch_even_where_none_is_required(
    payload: dict[str, Any], other: dict[str, Any], contract: Contract
) -> None:
    sealed = seal(envelope(payload=payload))
    changed = sealed | {"payload": other}
    same = rfc8785.dumps(payload) == rfc8785.dumps(other)
    assert codes(changed, contract) == ([] if same else [Code.INTEGRITY_HASH_MISMATCH])
    assert codes(sealed | {"extra": True}, contract) == [Code.INTEGRITY_HASH_MISMATCH]


@given(st.sampled_from([None, ""]), st.booleans())
def test_an_empty_hash_is_no_hash_and_required_where_the_mode_says_so(empty: str | None, present: bool) -> None:
    fields = envelope() | ({"integrity_hash": empty} if present else {})
    assert codes(fields) == []
    assert codes(fields, STRICT) == [Code.INTEGRITY_HASH_REQUIRED]


shapes = st.recursive(
    st.just(0), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner)
)


@given(shapes, st.integers(1, 40), st.integers(1, 2_100))
def test_depth_and_nodes_are_counted_as_whoever_reads_the_text_counts_them(
    shape: Any, levels: int, leaves: int
) -> None:
    value: Any = [copy.deepcopy(shape), [0] * leaves]
    for _ in range(levels):
        value = {"in": value}
    fields = envelope(payload={"x": value})
    depth, nodes = _measured(fields)
    fits = depth <= SETTINGS.json_depth_max and nodes <= SETTINGS.json_nodes_max
    assert codes(fields) == ([] if fits else [Code.JSON_TOO_DEEP])


def _measured(value: Any) -> tuple[int, int]:
    """Levels of containers, and values in all."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    measured = [_measured(one) for one in inside]
    own = 1 if isinstance(value, dict | list) else 0
    return own + max((depth for depth, _ in measured), default=0), 1 + sum(nodes for _, nodes in measured)
