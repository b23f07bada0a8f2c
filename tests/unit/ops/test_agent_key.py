"""An agent's key: kept in a file of its own, never written over, and what it signs is accepted."""

import base64
import json
import stat
from pathlib import Path

import click
import pytest

from edge.signature import Signed
from ops.clock import SystemClock
from ops.commands.agent_key import AgentKey, new_agent_key, read_agent_key
from schemas.units import UnixMs
from tests.signing import TRACE_ID, Agent
from tests.unit.edge.test_signature import BODY, Edge

IDS = {"content-type": "application/json", "x-event-id": "evt-1", "x-trace-id": TRACE_ID, "x-request-id": "req-1"}


@pytest.fixture
def key() -> AgentKey:
    return new_agent_key("acme", "agent-7")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/ingest", IDS),
        ("/ingest/batch", {"content-type": "application/x-ndjson", "x-request-id": "req-1"}),
    ],
)
async def test_what_a_key_signs_an_edge_accepts_as_its_agents(key: AgentKey, path: str, fields: dict[str, str]) -> None:
    sent = key.sign("edge:8080", path, BODY, fields, SystemClock()) | {"host": "edge:8080"}
    edge = Edge(Agent().key(key_id=key.key_id, public_key=key.public_key))
    edge.clock.now = SystemClock().now_ms()
    answer = await edge.answer({name.encode(): value.encode() for name, value in sent.items()}, path=path)
    assert isinstance(answer, Signed)
    assert (answer.agent_id, answer.nonce.key_id) == ("agent-7", key.key_id)


def test_no_two_signatures_have_one_nonce(key: AgentKey) -> None:
    class Noon:
        def now_ms(self) -> UnixMs:
            return UnixMs(1_767_225_600_999)

    signed = {key.sign("edge", "/ingest", BODY, IDS, Noon())["signature-input"] for _ in range(100)}
    assert len(signed) == 100
    assert all(";created=1767225600;" in one for one in signed)


def test_a_kept_key_is_read_back_and_is_its_owners_alone(key: AgentKey, tmp_path: Path) -> None:
    file = tmp_path / "agent.key"
    with key.kept_in(file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = read_agent_key(file)
    assert (read.key_id, read.tenant_id, read.agent_id) == (key.key_id, "acme", "agent-7")
    assert read.public_key == key.public_key
    assert set(json.loads(file.read_text())) == {"key_id", "tenant_id", "agent_id", "private_key"}


def test_a_file_that_is_there_is_never_written_over(key: AgentKey, tmp_path: Path) -> None:
    file = tmp_path / "agent.key"
    file.write_text("precious")
    with pytest.raises(click.ClickException, match="is there already"), key.kept_in(file):
        raise AssertionError("entered")
    assert file.read_text() == "precious"


def test_a_file_that_cannot_be_written_is_said_to_be(key: AgentKey, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="cannot be written"), key.kept_in(tmp_path / "no" / "agent.key"):
        raise AssertionError("entered")


def test_a_key_nobody_knows_leaves_no_file(key: AgentKey, tmp_path: Path) -> None:
    file = tmp_path / "agent.key"
    with pytest.raises(RuntimeError), key.kept_in(file):
        raise RuntimeError("the database refused")
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_may_read_is_refused(key: AgentKey, tmp_path: Path) -> None:
    file = tmp_path / "agent.key"
    with key.kept_in(file):
        file.chmod(0o640)
    with pytest.raises(click.UsageError, match="chmod 600"):
        read_agent_key(file)


@pytest.mark.parametrize("spoil", ["", "{}", "[1]", "key_id", "private_key", "more"])
def test_a_file_whose_parts_do_not_belong_together_is_refused_and_not_shown(
    key: AgentKey, tmp_path: Path, spoil: str
) -> None:
    file = tmp_path / "agent.key"
    with key.kept_in(file):
        content = json.loads(file.read_text())
    secret = content["private_key"]
    changed = {
        "key_id": content | {"key_id": "0" * 16},
        "private_key": content | {"private_key": base64.b64encode(b"short").decode()},
        "more": content | {"more": 1},
    }
    file.write_text(json.dumps(changed[spoil]) if spoil in changed else spoil)
    with pytest.raises(click.UsageError) as refused:
        read_agent_key(file)
    assert secret not in str(refused.value)


def test_a_key_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="cannot be read"):
        read_agent_key(tmp_path / "none.key")
