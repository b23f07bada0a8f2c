"""Bytes to one meaning: duplicates, depth, nodes, NUL, huge numbers, and the canonical form."""

import json
import re
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from edge import jsonguard
from edge.jsonguard import KEY_CHARS_MAX, NUMBER_CHARS_MAX, Decoded, decode
from schemas.canonical import canonical_plain
from schemas.codes import Code

DEPTH_MAX, NODES_MAX = 32, 2_000

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)
objects = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), values, max_size=5)
spellings = st.sampled_from(
    [
        {"separators": (",", ":"), "ensure_ascii": False},
        {"separators": (", ", ": "), "ensure_ascii": True},
        {"indent": 2, "ensure_ascii": False},
    ]
)


def guard(body: bytes) -> Decoded | Code:
    return decode(body, DEPTH_MAX, NODES_MAX)


@given(objects, spellings)
def test_an_object_without_duplicate_keys_passes_and_plain_means_canonical(
    value: dict[str, Any], spelling: dict[str, Any]
) -> None:
    decoded = guard(json.dumps(value, **spelling).encode())
    assert isinstance(decoded, Decoded)
    assert decoded.value == value
    if decoded.plain:
        assert canonical_plain(decoded.value) == rfc8785.dumps(value)


@given(objects.filter(bool), st.data(), spellings)
def test_a_member_repeated_at_any_depth_is_found(
    value: dict[str, Any], data: st.DataObject, spelling: dict[str, Any]
) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    inner = json.dumps(value, **spelling)
    member = f"{json.dumps(key, ensure_ascii=data.draw(st.booleans()))}:{json.dumps(data.draw(scalars))}"
    doubled = f"{inner[:-1]},{member}}}"
    for _ in range(data.draw(st.integers(0, 5))):
        doubled = data.draw(st.sampled_from(['{"x":%s}', '{"x":[1,%s]}'])) % doubled
    assert guard(doubled.encode()) is Code.DUPLICATE_KEY


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_called_plain_is_spelled_as_rfc_8785_spells_it(number: float) -> None:
    decoded = guard(msgspec.json.encode({"x": number}))
    assert isinstance(decoded, Decoded)
    if decoded.plain:
        assert canonical_plain({"x": number}) == rfc8785.dumps({"x": number})


def test_keys_beyond_the_basic_plane_are_not_plain_because_their_order_differs() -> None:
    value = {"\U00010000": 1, "\uffff": 2}
    for body in (json.dumps(value).encode(), msgspec.json.encode(value)):
        decoded = guard(body)
        assert isinstance(decoded, Decoded)
        assert not decoded.plain
    assert canonical_plain(value) != rfc8785.dumps(value)


def test_ordinary_fractions_stay_on_the_fast_way() -> None:
    decoded = guard(b'{"load":0.75,"lat":52.520008,"whole":3.5}')
    assert isinstance(decoded, Decoded)
    assert decoded.plain


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,\\u0dD8tfn1e.-\x00\xe9 ', max_size=40).map(str.encode))
def test_no_input_at_all_raises(body: bytes) -> None:
    assert isinstance(guard(body), Decoded | Code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"12",
        b"{",
        b'{"a":1,}',
        b'{"a":1}x',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":01}',
        b'{"a":"\x01"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\ud800\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
    ],
)
def test_what_is_not_one_json_object_in_utf8_is_malformed(body: bytes) -> None:
    assert guard(body) is Code.MALFORMED_JSON


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"tenant_id":1,"tenant\\u005fid":2}',
        b'{"\xc3\xa9":1,"\\u00e9":2}',
        b'{"a":{"b":[{"c":1,"c":2}]}}',
        b'{"a":{"deep":[[[1]]]},"a":1}',
        b'{"n":' + b"9" * NUMBER_CHARS_MAX + b',"n":1}',
    ],
)
def test_the_same_key_twice_is_found_however_it_is_spelled(body: bytes) -> None:
    assert guard(body) is Code.DUPLICATE_KEY


def nested(levels: int) -> bytes:
    """An object of so many levels, itself the first."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_the_deepest_level_allowed_passes_and_the_next_does_not() -> None:
    assert isinstance(guard(nested(DEPTH_MAX)), Decoded)
    assert guard(nested(DEPTH_MAX + 1)) is Code.JSON_TOO_DEEP


@pytest.mark.parametrize("levels", [900, 5_000, 40_000])
def test_a_depth_bomb_is_too_deep_and_nothing_worse(levels: int) -> None:
    assert guard(nested(levels)) is Code.JSON_TOO_DEEP
    assert guard(b'{"a":' * levels + b"1" + b"}" * levels) is Code.JSON_TOO_DEEP


def test_the_most_nodes_allowed_pass_and_one_more_does_not() -> None:
    zeros = b",".join([b"0"] * (NODES_MAX - 2))
    assert isinstance(guard(b'{"a":[' + zeros + b"]}"), Decoded)
    assert guard(b'{"a":[0,' + zeros + b"]}") is Code.JSON_TOO_DEEP


@pytest.mark.parametrize(
    "member",
    [
        b'"a":"\\u0000"',
        b'"a\\u0000":1',
        b'"a":["x\\u0000y"]',
        b'"a":9007199254740992',
        b'"a":-9007199254740992',
        b'"a":[18446744073709551616]',
    ],
)
def test_nul_and_huge_ints_are_noticed_anywhere(member: bytes) -> None:
    decoded = guard(b"{" + member + b"}")
    assert isinstance(decoded, Decoded)
    assert decoded.unstorable


@pytest.mark.parametrize(
    "member", [b'"a":"\\\\u0000"', b'"a":9007199254740991', b'"a":-9007199254740991', b'"a":1e300']
)
def test_what_only_looks_like_it_is_storable(member: bytes) -> None:
    decoded = guard(b"{" + member + b"}")
    assert isinstance(decoded, Decoded)
    assert not decoded.unstorable


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5_000])
def test_a_number_nothing_can_hold_is_refused(number: bytes) -> None:
    assert guard(b'{"a":' + number + b"}") is Code.PAYLOAD_INVALID


@pytest.mark.parametrize("letter", ["k", "\u00e9", "\U0001f600", '"', "\\"])
def test_the_longest_key_allowed_passes_and_one_more_character_does_not(letter: str) -> None:
    for wrap in ('{"a":[{%s:1}]}', "{%s:1}"):
        for ascii_only in (True, False):
            fits, too_long = (json.dumps(letter * chars, ensure_ascii=ascii_only) for chars in (256, 257))
            assert isinstance(guard((wrap % fits).encode()), Decoded)
            assert guard((wrap % too_long).encode()) is Code.JSON_TOO_DEEP
    assert KEY_CHARS_MAX == 256


@pytest.mark.parametrize("spelling", ["%s", "-%s", "0.%s", "1e-%s", "[1,%s]", '{"b":%s}', "  %s\n"])
def test_a_number_of_more_characters_than_any_has_is_refused_wherever_it_stands(spelling: str) -> None:
    for digits in ("1" * (NUMBER_CHARS_MAX + 1), "9" * 70_000, "0" * 70_000):
        assert guard(b'{"t":"\\"","a":' + (spelling % digits).encode() + b"}") is Code.PAYLOAD_INVALID


@pytest.mark.parametrize("number", ["1" * NUMBER_CHARS_MAX, "0." + "1" * 30, "-1." + "0" * 25 + "e-10"])
def test_a_number_of_as_many_characters_as_allowed_is_read(number: str) -> None:
    assert isinstance(guard(f'{{"a":{number}}}'.encode()), Decoded)


@pytest.mark.parametrize("text", ["7" * 10_000, "-" * 10_000, '\\"' + "7" * 40, "7" * 40 + "\\\\", "1.5e+" * 100])
def test_a_text_of_digits_is_no_number(text: str) -> None:
    assert isinstance(guard(f'{{"a":"{text}","{"8" * 256}":["{text}"]}}'.encode()), Decoded)


@pytest.mark.parametrize(
    "body", [b'{"a":"' + b'\\"' * 40_000, b'"' * 80_000, b"\\" * 80_000, b"-" * 80_000, b"1 " * 40_000]
)
def test_a_bomb_of_quotes_and_signs_is_malformed_and_nothing_worse(body: bytes) -> None:
    assert guard(body + b"0" * 33 if body.endswith(b'\\"') else body) is Code.MALFORMED_JSON


@given(st.lists(st.sampled_from(['"', "\\", "1" * 33, "1" * 16, ",", " ", "a", "\n"]), max_size=12))
def test_the_search_for_long_numbers_reads_strings_as_the_decoder_does(parts: list[str]) -> None:
    text = f'{{"a":{"".join(parts)}}}'
    verdict = guard(text.encode())
    if isinstance(verdict, Decoded):
        assert not any(len(str(value)) > NUMBER_CHARS_MAX for value in verdict.value.values() if type(value) is int)
    try:
        numbers: list[str] = []
        json.loads(text, parse_int=numbers.append, parse_float=numbers.append)
    except ValueError:
        return
    assert (verdict is Code.PAYLOAD_INVALID) == any(len(number) > NUMBER_CHARS_MAX for number in numbers)


@given(st.lists(st.sampled_from(['"', "\\", "0123456789" * 3, "7", "12e+5", "-", ",", "x", "[", "\n"]), max_size=30))
def test_a_long_number_is_found_wherever_no_string_hides_it(pieces: list[str]) -> None:
    body = "".join(pieces).encode()
    outside = re.sub(rb'"(?:[^"\\]|\\.)*("|\\?\Z)', b" ", body, flags=re.DOTALL)
    expected = re.search(rb"[0-9][0-9.eE+-]{32}", outside) is not None
    assert jsonguard._has_long_number(body) is expected
