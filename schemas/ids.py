"""The alphabets of the identifiers, in one place.

A tenant id is one NATS subject token and one path segment: no dot, star, angle bracket or
slash can enter it (DESIGN decision 4).
"""

import re

TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
AGENT_ID = EVENT_ID
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SCHEMA_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
INTEGRITY_HASH = re.compile(r"sha256:[0-9a-f]{64}")
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
SPAN_ID = re.compile(r"[0-9a-f]{16}")


def is_tenant_id(text: str) -> bool:
    return TENANT_ID.fullmatch(text) is not None


def is_event_id(text: str) -> bool:
    return EVENT_ID.fullmatch(text) is not None
