"""What a tenant adds to the rules: a JSON object, given to them as `input.tenant`."""

import re
from typing import Any, NamedTuple

import msgspec

from schemas.canonical import canonical_plain, sha256_hex

POLICY_DATA_BYTES_MAX = 64 * 1024
POLICY_DATA_DEPTH_MAX = 16
_INTEGER_MAX = 2**53 - 1
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class PolicyData(NamedTuple):
    """The canonical bytes of a tenant's data and the hash of them; no data is `{}`, and has no hash."""

    document: bytes
    sha256: str


NO_POLICY_DATA = PolicyData(b"{}", "")


def read_policy_data(text: bytes) -> PolicyData:
    """Raises ValueError, in words for who wrote it, unless `text` is data that can be stored and hashed exactly."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError) as cause:
        raise ValueError("it is not a JSON object in UTF-8") from cause
    _check(found, POLICY_DATA_DEPTH_MAX)
    document = canonical_plain(found)
    if len(document) > POLICY_DATA_BYTES_MAX:
        raise ValueError(f"it has {len(document)} bytes; {POLICY_DATA_BYTES_MAX} are allowed")
    return PolicyData(document, sha256_hex(document)) if found else NO_POLICY_DATA


def _check(value: object, levels: int) -> None:
    if levels == 0:
        raise ValueError(f"it has more than {POLICY_DATA_DEPTH_MAX} levels")
    match value:
        case dict():
            for name, inner in value.items():
                if not _NAME.fullmatch(name):
                    raise ValueError("a name in it is not 1 to 64 letters, digits, '_', '.' or '-'")
                _check(inner, levels - 1)
        case list():
            for inner in value:
                _check(inner, levels - 1)
        case float():
            raise ValueError("a number in it has a fraction or an exponent: only whole numbers are kept exactly")
        case int() if abs(value) > _INTEGER_MAX:
            raise ValueError("a number in it is 2^53 or more")
        case str() if "\0" in value:
            raise ValueError("a text in it holds NUL")
