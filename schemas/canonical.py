"""RFC 8785 (JCS) bytes and the hashes made of them.

`msgspec`'s sorted encoding equals RFC 8785 for ASCII keys, strings and ints below 2**53, at a
fiftieth of the cost; anything with a float or a non-ASCII key goes to the `rfc8785` library.
`tests/unit/schemas/test_canonical.py` holds the two equal.
"""

import hashlib
from typing import Any

import msgspec
import rfc8785

_sorted = msgspec.json.Encoder(order="sorted")


def canonical_plain(value: Any) -> bytes:
    """RFC 8785 bytes of a value known to hold only ASCII keys, strings, booleans, null and ints < 2**53."""
    return _sorted.encode(value)


def canonical_any(value: Any) -> bytes:
    """RFC 8785 bytes of any JSON value.

    Raises rfc8785.CanonicalizationError for ints >= 2**53 and non-finite floats.
    """
    return rfc8785.dumps(value)


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
