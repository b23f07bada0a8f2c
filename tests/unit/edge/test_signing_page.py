"""The worked example of docs/signing.md signs what this edge accepts, and the page tells the truth."""

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.request import Request as Call

import pytest

from edge.signature import Signed
from edge.signature_profile import BATCH, SINGLE
from ops.clock import SystemClock
from schemas.codes import TABLE, Code
from tests.signing import TRACE_ID, Agent
from tests.unit.edge.test_signature import Edge, Fields

PAGE = (Path(__file__).parents[3] / "docs" / "signing.md").read_text()


@pytest.fixture
def example() -> dict[str, Any]:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/signing.md", "exec"), names)  # noqa: S102  (the page's own example)
    return names


async def test_what_the_worked_example_signs_is_accepted(example: dict[str, Any], tmp_path: Path) -> None:
    agent = Agent()
    seed = base64.b64encode(agent.private.private_bytes_raw()).decode()
    key = {"key_id": agent.key_id, "tenant_id": "acme", "agent_id": "agent-7", "private_key": seed}
    (tmp_path / "host-1.key").write_text(json.dumps(key))
    event = {"tenant_id": "acme", "event_id": "evt-1", "trace_id": TRACE_ID}
    url = "https://edge.example:8443/ingest"
    call: Call = example["signed_request"](url, "fgk_secret", str(tmp_path / "host-1.key"), event, "req-1")
    fields: Fields = {name.lower().encode(): value.encode() for name, value in call.header_items()}
    assert isinstance(call.data, bytes)
    edge = Edge(agent.key(), required=True)
    edge.clock.now = SystemClock().now_ms()
    assert isinstance(await edge.answer(fields, call.data), Signed)


def test_the_page_names_the_components_and_every_code_of_a_signature() -> None:
    components = SINGLE.covered.decode().strip("()")
    assert f"`{components}`" in PAGE
    left_out = components.removesuffix(' "x-request-id"').removeprefix(
        BATCH.covered.decode().strip("()").removesuffix(' "x-request-id"')
    )
    assert f"the same without `{left_out.strip()}`" in PAGE
    rows = {code: int(status) for status, code in re.findall(r"^\| (\d{3}) `([A-Z_]+)` \|", PAGE, flags=re.MULTILINE)}
    assert rows == {code: TABLE[Code(code)].status for code in rows}
    assert {code for code in Code if code.startswith(("SIGNATURE_", "REPLAY_"))} <= set(rows)
