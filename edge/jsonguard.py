"""Bytes to a JSON object that means the same to every reader: no duplicate key, no depth bomb, nothing unstorable.

The decoder is fast and trusting: of two equal keys it keeps the last one, and it takes NUL and
numbers that neither Postgres nor RFC 8785 can hold. All of that is looked for here, in one walk.
Numbers are measured before it: to decode one of many digits costs the square of their count.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from schemas.codes import Code

INTEGER_LIMIT = 2**53
NUL = "\x00"
KEY_CHARS_MAX = 256
NUMBER_CHARS_MAX = 32
"""The longest spelling of any number that an int below 2**53 or a double can hold has 24."""
DECIMAL_FLOAT_MIN = 1e-4
DECIMAL_FLOAT_MAX = 1e15
"""Between these, the encoder and RFC 8785 spell a float with a fraction alike: shortest digits, no exponent."""


class Decoded(NamedTuple):
    """A JSON object within the limits.

    `plain`: only ASCII keys and no float that RFC 8785 spells in its own way, so that sorted
    encoding is its RFC 8785 form, at a fiftieth of the cost.
    `unstorable`: somewhere in it is a NUL or an int of 2**53 or more.
    """

    value: dict[str, Any]
    plain: bool
    unstorable: bool


class _DuplicateKeyError(Exception):
    """An object has the same key twice."""


_NUMERIC = bytes(ord("0") if chr(byte) in "0123456789.eE+-" else ord(" ") for byte in range(256))
_LONG_RUN = b"0" * (NUMBER_CHARS_MAX + 1)
_SHORT_NUMBERS_ONLY = re.compile(
    rb"""(?: [^"0-9]++
           | "(?:[^"\\]++|\\.)*+(?:"|\\?\Z)
           | [0-9][0-9.eE+-]{0,%d}+(?![0-9.eE+-])
         )*+"""
    % (NUMBER_CHARS_MAX - 1),
    re.DOTALL | re.VERBOSE,
)
"""As much of a text as holds no long number outside its strings. Nothing is looked at twice, and a string is taken
whole, closed or not: one step of the interpreter for each would block everybody for 50 ms."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode(body: bytes, depth_max: int, nodes_max: int) -> Decoded | Code:
    """The object in `body`, or why there is none: MALFORMED_JSON, JSON_TOO_DEEP, DUPLICATE_KEY or PAYLOAD_INVALID.

    PAYLOAD_INVALID is a number that no int or double can hold, or one spelled with more than NUMBER_CHARS_MAX
    characters. JSON_TOO_DEEP is also a key of more than KEY_CHARS_MAX characters.
    """
    value = Code.PAYLOAD_INVALID if _has_long_number(body) else _object(body)
    if isinstance(value, Code):
        return value
    # An escape or a byte beyond ASCII is the only way a NUL or a non-ASCII key can be spelled.
    survey = _Survey(scans_text=not body.isascii() or b"\\u" in body)
    if not survey.within(value, depth_max, nodes_max):
        return Code.JSON_TOO_DEEP
    refused = _refused_keys(body, value)
    return Decoded(value, survey.plain, survey.unstorable) if refused is None else refused


def _object(body: bytes) -> dict[str, Any] | Code:
    try:
        value = _decode(body)
    except RecursionError:
        return Code.JSON_TOO_DEEP
    except msgspec.ValidationError:
        return Code.PAYLOAD_INVALID
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Code.MALFORMED_JSON
    return value if type(value) is dict else Code.MALFORMED_JSON


def is_storable(value: dict[str, Any], depth_max: int, nodes_max: int) -> bool:
    """Whether the object is within the limits and nowhere in it is a NUL or an int of 2**53 or more."""
    survey = _Survey(scans_text=True)
    return survey.within(value, depth_max, nodes_max) and not survey.unstorable


class _Survey:
    """What one walk over a decoded object sees."""

    __slots__ = ("plain", "scans_text", "unstorable")

    def __init__(self, *, scans_text: bool) -> None:
        self.scans_text = scans_text
        self.plain = True
        self.unstorable = False

    def within(self, root: dict[str, Any], depth_max: int, nodes_max: int) -> bool:
        """Level by level, so that no input can exhaust the stack. False as soon as a limit is passed."""
        level: list[Any] = [root]
        depth, nodes = 0, 1
        while level:
            depth += 1
            nodes += sum(map(len, level))
            if depth > depth_max or nodes > nodes_max:
                return False
            below: list[Any] = []
            for container in level:
                if type(container) is dict:
                    if container and max(map(len, container)) > KEY_CHARS_MAX:
                        return False
                    if self.scans_text:
                        self._keys(container)
                    self._values(container.values(), below)
                else:
                    self._values(container, below)
            level = below
        return True

    def _keys(self, keys: Iterable[str]) -> None:
        for key in keys:
            if not key.isascii():
                self.plain = False
            if NUL in key:
                self.unstorable = True

    def _values(self, values: Iterable[Any], below: list[Any]) -> None:
        for value in values:
            kind = type(value)
            if kind is str:
                if self.scans_text and NUL in value:
                    self.unstorable = True
            elif kind is dict or kind is list:
                below.append(value)
            elif kind is float:
                if not (value % 1 and DECIMAL_FLOAT_MIN < abs(value) < DECIMAL_FLOAT_MAX):
                    self.plain = False
            elif kind is int and not -INTEGER_LIMIT < value < INTEGER_LIMIT:
                self.unstorable = True


def _has_long_number(body: bytes) -> bool:
    """Whether a number of more than NUMBER_CHARS_MAX characters stands outside the strings."""
    if _LONG_RUN not in body.translate(_NUMERIC):  # no such run, in a string or out of one: nearly every body
        return False
    read = _SHORT_NUMBERS_ONLY.match(body)
    return read is None or read.end() < len(body)


def _refused_keys(body: bytes, value: dict[str, Any]) -> Code | None:
    """DUPLICATE_KEY when an object in `body` has the same key twice.

    A text equal to the encoding of what it decodes to has lost no member on the way, so most
    bodies need no second reading; white space between tokens is set aside for the comparison.
    """
    text = _encode(value)
    if text == body or text == msgspec.json.format(body, indent=-1):
        return None
    try:
        _second_reading.decode(body.decode())
    except _DuplicateKeyError:
        return Code.DUPLICATE_KEY
    except RecursionError:  # depth hidden in a member that a later one of the same key replaced
        return Code.JSON_TOO_DEEP
    except ValueError:  # the two readers disagree about what JSON is: nobody behind us should have to choose
        return Code.MALFORMED_JSON
    return None


def _no_key_twice(members: list[tuple[str, Any]]) -> None:
    if len(members) != len({key for key, _ in members}):
        raise _DuplicateKeyError


_second_reading = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_int=len, parse_float=len)
