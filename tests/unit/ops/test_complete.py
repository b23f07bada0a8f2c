"""What `frostgate send` adds to an event that lacks something."""

import msgspec
import pytest

from edge.admit import Admitted, Contract
from edge.settings import EdgeSettings
from ops.clock import SystemClock
from ops.commands.send import complete

STRICT = EdgeSettings(integrity_required=True, event_age_ms_max=60_000)


def test_a_completed_event_passes_where_integrity_is_required() -> None:
    text = b'{"agent_id": "a", "schema_version": "1.0", "source": "s", "payload": {"rate": 1.50, "\xc3\xa9": 1}}'
    clock = SystemClock()
    event = complete(text, "acme", clock)
    assert isinstance(Contract(STRICT).admit(event, clock.now_ms()), Admitted)
    assert event.endswith(text[1:]), "what was there keeps its bytes"


def test_a_whole_event_is_sent_as_it_is() -> None:
    names = ("tenant_id", "event_id", "trace_id", "created_at")
    text = msgspec.json.encode(dict.fromkeys(names, "x"))
    assert complete(text, "acme", SystemClock()) == text


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"payload": {"huge": 9007199254740993}}'])
def test_what_is_no_object_or_has_no_hash_is_not_sent(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        complete(text, "acme", SystemClock())
