"""A tenant's policy data: what can be stored and hashed exactly, and nothing else."""

import json

import pytest

from schemas.policy_data import NO_POLICY_DATA, POLICY_DATA_BYTES_MAX, read_policy_data


def test_the_same_data_has_the_same_hash_however_it_is_written() -> None:
    spaced = read_policy_data(b'{ "b": [1, "\\u00e9"],\n "a": {"x": null, "y": -9007199254740991} }')
    dense = read_policy_data('{"a":{"y":-9007199254740991,"x":null},"b":[1,"é"]}'.encode())
    assert spaced == dense
    assert spaced.document == '{"a":{"x":null,"y":-9007199254740991},"b":[1,"é"]}'.encode()
    assert read_policy_data(b'{"a": 1}').sha256 != read_policy_data(b'{"a": 2}').sha256


def test_an_empty_object_is_no_data() -> None:
    assert read_policy_data(b" {} ") == NO_POLICY_DATA
    assert NO_POLICY_DATA.sha256 == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": "\xff"}', "not a JSON object"),
        (b'{"a": "\\ud800"}', "not a JSON object"),
        (b'{"a": 1.5}', "fraction"),
        (b'{"a": 1e3}', "fraction"),
        (b'{"a": 9007199254740992}', "2\\^53"),
        (b'{"a": [{"b": "\\u0000"}]}', "NUL"),
        ('{"ä": 1}'.encode(), "name"),
        (b'{"": 1}', "name"),
        (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "levels"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a JSON object"),
        (json.dumps({"a": "x" * POLICY_DATA_BYTES_MAX}).encode(), "bytes"),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused_in_words(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_policy_data(text)


def test_64_kib_fit() -> None:
    text = json.dumps({"a": "x" * (POLICY_DATA_BYTES_MAX - 8)}, separators=(",", ":")).encode()
    assert len(read_policy_data(text).document) == POLICY_DATA_BYTES_MAX
