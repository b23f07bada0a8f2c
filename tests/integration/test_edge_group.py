"""`frostgate up --workers 2`: two edge processes as one service, with real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ops.clock import SystemClock, new_uuid7
from ops.instance import Stack
from schemas.units import format_rfc3339
from tests.integration.test_up import BOUND_S, Up, clean, get, parent_of, sessions, until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("group"), "--workers", "2")
    try:
        up.ready()
        yield up
    finally:
        clean(up)


def edges(up: Up) -> set[int]:
    """The processes that serve; the one that keeps them is their parent."""
    keeper = up.stack().pids.edge
    found = {pid for pid in sessions() if parent_of(pid) == keeper}
    up.seen |= found  # each leads a session of its own
    return found


def publish(stack: Stack) -> int:
    """The status of a sound event on a connection of its own."""
    trace_id = new_uuid7()
    envelope = {
        "tenant_id": stack.tenant_id,
        "event_id": trace_id,
        "trace_id": trace_id,
        "agent_id": "agent",
        "schema_version": "1.0",
        "created_at": format_rfc3339(SystemClock().now_ms()),
        "source": "group",
        "payload": {"kind": "log.line"},
    }
    headers = {"Authorization": f"Bearer {stack.api_key}", "Content-Type": "application/json"}
    with closing(HTTPConnection(urlsplit(stack.url).netloc, timeout=BOUND_S)) as connection:
        connection.request("POST", "/ingest", json.dumps(envelope), headers)
        return connection.getresponse().status


def accepted(stack: Stack) -> dict[str, float]:
    """Events accepted, by process."""
    _status, text = get(f"{stack.admin_url}/metrics")
    samples = re.findall(r'^frostgate_ingest_requests_total\{process="(\d)",([^}]*)\} (\S+)', text, re.MULTILINE)
    return {process: float(value) for process, labels, value in samples if 'outcome="accepted"' in labels}


def is_ready(stack: Stack) -> bool:
    return get(f"{stack.admin_url}/readyz")[0] == 200


def test_both_processes_serve_and_their_metrics_add_up(running: Up) -> None:
    stack = running.stack()
    assert len(edges(running)) == 2
    assert {publish(stack) for _ in range(60)} == {202}
    counted = accepted(stack)
    assert set(counted) == {"1", "2"}
    assert sum(counted.values()) == 60
    _status, text = get(f"{stack.admin_url}/metrics")
    assert text.count("# TYPE frostgate_ingest_requests counter") == 1
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_readiness_names_every_process(running: Up) -> None:
    document = json.loads(get(f"{running.stack().admin_url}/readyz")[1])
    assert set(document["services"]["edge"]["services"]) == {"1", "2"}


def published_again(stack: Stack) -> int:
    """As an agent does it: a connection that waited at the killed process is reset, and the next one is served."""
    try:
        return publish(stack)
    except ConnectionError:
        return publish(stack)


def test_a_process_that_is_killed_is_replaced_while_the_other_serves(running: Up) -> None:
    stack = running.stack()
    before = edges(running)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until("it is gone", lambda: victim not in sessions())
    assert {published_again(stack) for _ in range(10)} == {202}
    until("another in its place", lambda: len(edges(running) - before) == 1)
    until("ready again", lambda: is_ready(stack))
    assert before - {victim} < edges(running)
    assert {publish(stack) for _ in range(20)} == {202}


def test_no_edge_outlives_a_keeper_that_is_killed(running: Up) -> None:
    stack = running.stack()
    before = edges(running)
    os.kill(stack.pids.edge, signal.SIGKILL)
    until("the edges end", lambda: not before & set(sessions()))
    until("others in their place", lambda: len(edges(running)) == 2)
    until("ready again", lambda: is_ready(stack))
    assert publish(running.stack()) == 202


def test_a_port_in_use_is_refused(running: Up) -> None:
    """Also when those who use it would share it with others."""
    port = urlsplit(running.stack().url).port
    own = Path(f"/proc/{running.stack().pids.edge}/environ").read_text().split("\0")
    environment = dict(one.split("=", 1) for one in own if "=" in one) | {"FG_ADMIN_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", "from ops.cli import main; main()", "edge", "--workers", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_plain_http_beyond_this_machine_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from ops.cli import main; main()", "up", "--workers", "2"],
        env={**os.environ, "FG_HTTP_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 2
    assert "FG_HTTP_HOST 0.0.0.0 is not a loopback address" in done.stderr


def test_a_stop_leaves_nothing(running: Up) -> None:
    """The last of this module: the stack is gone afterwards."""
    stack = running.stack()
    assert len(edges(running)) == 2
    assert running.end(signal.SIGTERM) == 0
    assert running.left_behind() == []
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", urlsplit(stack.url).port)) != 0
