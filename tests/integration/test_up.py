"""`frostgate up`, the real one: what it starts, keeps running, tells, and leaves behind."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ops.clock import SystemClock
from ops.commands.up import first_request
from ops.embedded.directory import OUTSIDE
from ops.instance import Stack, read_stack

BOUND_S = 120.0


def until(what: str, holds: Callable[[], bool]) -> None:
    """Return once it holds; fail when it does not within a bound far above what is needed."""
    deadline = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {BOUND_S} s: {what}"
        time.sleep(0.02)


def sessions() -> dict[int, int]:
    """The session of every process that has not ended. Each child of `up` leads one of its own."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _parent, _group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in "ZX":
                found[int(entry.name)] = int(session)
    return found


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


UNHURRIED = {"FG_REDIS_TIMEOUT_MS": "5000", "FG_DP_CB_LATENCY_P95_MS": "60000"}
"""On a busy machine a sound Redis is late, and circuits open for it: no promise of these tests."""


class Up:
    """One `frostgate up` on free ports, its output in a file."""

    def __init__(self, home: Path, *options: str, **variables: str) -> None:
        self.data_dir = home / "data"
        self.ready_file = home / "ready.json"
        self._output = home / f"output-{time.monotonic_ns()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from ops.cli import main; main()", "up"),
                    *("--data-dir", str(self.data_dir), "--ready-file", str(self.ready_file)),
                    *("--http-port", "0", "--admin-port", "0", *options),
                ],
                env={name: value for name, value in os.environ.items() if not name.startswith("FG_")}
                | UNHURRIED
                | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.seen: set[int] = set()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def ready(self) -> Stack:
        until("ready", lambda: self._is_ready() or self.process.poll() is not None)
        assert self.process.poll() is None, self.output
        return self.stack()

    def _is_ready(self) -> bool:
        """Whether this process has written the file; one that was killed leaves its own behind."""
        return (
            self.ready_file.exists()
            and json.loads(self.ready_file.read_bytes())["pids"]["supervisor"] == self.process.pid
        )

    def stack(self) -> Stack:
        stack = read_stack(self.data_dir)
        assert stack is not None
        self.seen |= set(self.children(stack).values())
        return stack

    def children(self, stack: Stack) -> dict[str, int]:
        pids = stack.pids
        return {name: getattr(pids, name) for name in ("edge", "worker", "nats", "postgres", "valkey")}

    def left_behind(self) -> list[int]:
        """Processes of any child, or of a child of one, that have not ended."""
        return [pid for pid, session in sessions().items() if session in self.seen]

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(BOUND_S)


def clean(up: Up) -> None:
    """End it, and remove what it keeps outside of its data directory when root runs it."""
    if up.process.poll() is None:
        up.end(signal.SIGTERM)
    secrets = up.data_dir / "secrets.json"
    if secrets.exists():
        shutil.rmtree(OUTSIDE / json.loads(secrets.read_bytes())["instance_id"], ignore_errors=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that runs through the whole module."""
    up = Up(tmp_path_factory.mktemp("up"))
    try:
        up.ready()
        yield up
    finally:
        clean(up)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts one over the test's own directory, every time it is called."""
    started: list[Up] = []

    def begin(*options: str) -> Up:
        started.append(Up(tmp_path, *options))
        return started[-1]

    yield begin
    for up in reversed(started):
        clean(up)


def get(url: str, api_key: str = "") -> tuple[int, str]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=BOUND_S)
    with closing(connection):
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def run_as_pasted(line: str) -> dict[str, Any]:
    """Run the shell line by a real shell."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_ready_file_tells_where_everything_is_and_is_private(running: Up) -> None:
    stack = running.stack()
    assert json.loads(running.ready_file.read_bytes()) == json.loads((running.data_dir / "stack.json").read_bytes())
    for file in (running.ready_file, running.data_dir / "stack.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stack.pids.supervisor == running.process.pid
    assert set(running.children(stack).values()) <= set(sessions())


def test_the_line_printed_at_the_first_start_publishes_an_event_as_it_stands(running: Up) -> None:
    (line,) = [line for line in running.output.splitlines() if line.startswith("curl ")]
    assert running.stack().api_key in running.output
    assert run_as_pasted(line)["status"] == "accepted"


def test_the_admin_port_speaks_for_both_services(running: Up) -> None:
    stack = running.stack()
    status, body = get(f"{stack.admin_url}/readyz")
    document = json.loads(body)
    assert (status, document["ready"], document["reasons"]) == (200, True, [])
    assert set(document["services"]) == {"edge", "worker"}
    _status, metrics = get(f"{stack.admin_url}/metrics")
    assert "# TYPE frostgate_ingest_requests counter" in metrics
    assert "# TYPE frostgate_stage_events counter" in metrics
    assert metrics.count("# EOF") == 1


@pytest.mark.parametrize("name", ["edge", "worker", "nats", "postgres", "valkey"])
def test_a_child_that_is_killed_is_started_again_and_the_files_follow(running: Up, name: str) -> None:
    before = running.stack()
    os.kill(running.children(before)[name], signal.SIGKILL)
    until("another process id", lambda: running.children(running.stack())[name] != running.children(before)[name])
    until("ready again", lambda: get(f"{before.admin_url}/readyz")[0] == 200)
    after = running.stack()
    assert json.loads(running.ready_file.read_bytes())["pids"][name] == running.children(after)[name]
    assert (after.url, after.redis_url, after.postgres_dsn) == (before.url, before.redis_url, before.postgres_dsn)
    assert f"{name} ended with status -9" in running.output
    line = first_request(after, SystemClock())
    until("an event is accepted again", lambda: run_as_pasted(line)["status"] == "accepted")


def test_each_service_holds_its_own_credentials_alone(running: Up) -> None:
    stack = running.stack()
    passwords = json.loads((running.data_dir / "secrets.json").read_bytes())["passwords"]
    own = {
        "edge": {"nats_edge", "nats_system", "fg_edge", "valkey"},
        "worker": {"nats_worker", "fg_worker"},
    }
    for service, expected in own.items():
        environment = Path(f"/proc/{running.children(stack)[service]}/environ").read_text()
        assert {name for name, password in passwords.items() if password in environment} == expected


def test_a_directory_in_use_is_refused_and_its_stack_unharmed(running: Up) -> None:
    second = Up(running.data_dir.parent, "--ready-file", str(running.data_dir.parent / "second.json"))
    assert second.process.wait(BOUND_S) == 1
    assert f"is in use by process {running.process.pid}" in second.output
    assert get(f"{running.stack().admin_url}/readyz")[0] == 200


@pytest.mark.parametrize("option", ["--http-port", "--admin-port"])
def test_a_port_in_use_is_refused_by_the_name_of_its_option(start: Callable[..., Up], option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        up = start(option, str(port))
        assert up.process.wait(BOUND_S) == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use; choose another with {option}" in up.output
    assert not up.ready_file.exists()


def test_what_was_accepted_is_there_at_the_next_start_and_no_process_outlives_a_stop(start: Callable[..., Up]) -> None:
    first = start()
    stack = first.ready()
    line = first_request(stack, SystemClock())
    receipt = run_as_pasted(line)
    assert first.end(signal.SIGTERM) == 0
    assert first.left_behind() == []
    assert not first.ready_file.exists()
    assert read_stack(first.data_dir) is None

    second = start()
    again = second.ready()
    assert again.api_key == stack.api_key
    assert again.api_key not in second.output
    life = f"{again.url}/v1/events/{receipt['event_id']}"
    until("a worker has taken the event over", lambda: get(life, again.api_key)[0] == 200)
    assert run_as_pasted(line.replace(stack.url, again.url)) == receipt
    assert second.end(signal.SIGINT) == 0
    assert second.left_behind() == []


def test_no_process_outlives_a_killed_supervisor_and_the_next_start_goes_on(start: Callable[..., Up]) -> None:
    first = start()
    stack = first.ready()
    line = first_request(stack, SystemClock())
    receipt = run_as_pasted(line)
    first.end(signal.SIGKILL)
    assert read_stack(first.data_dir) is None

    second = start()  # at once: it waits for the servers that are still ending
    assert run_as_pasted(line.replace(stack.url, second.ready().url)) == receipt
    assert first.left_behind() == []


def test_a_stop_in_the_middle_of_the_start_leaves_nothing_running(start: Callable[..., Up]) -> None:
    up = start()
    nats_log = up.data_dir / "logs" / "nats.log"
    until("a first server", lambda: nats_log.exists() or up.process.poll() is not None)
    up.seen |= {session for pid, session in sessions().items() if parent_of(pid) == up.process.pid}
    assert up.end(signal.SIGTERM) == 0
    assert up.left_behind() == []
    assert not up.ready_file.exists()
