"""`frostgate agent tail`: each line of a log becomes one event, once, whatever happens to the process."""

import json
import random
import secrets
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.cli.commands import BOUND_S, Shell
from tests.integration.cli.conftest import Tenant
from tests.integration.test_up import until
from tests.unit.ops.stand_in import API_KEY, stand_in


def lines_of(tenant: Tenant, count: int) -> list[str]:
    """The lines the data plane holds, sorted; no event twice by the key of its table."""
    return sorted(json.loads(payload)["line"] for _event_id, payload in tenant.decided(count))


def test_once_ships_a_whole_file_and_the_next_run_only_what_is_new(tenant: Tenant) -> None:
    shell = tenant.shell.with_variables(FG_DATA_DIR=str(tenant.shell.directory / "data"))
    log = shell.directory / "auth.log"
    log.write_bytes(b"".join(b"line %04d\n" % number for number in range(1_500)) + b"no newline \xff")
    first = shell.run("agent", "tail", "--once", "auth.log", "--agent-id", "host-7", "--json")
    assert (first.status, first.document["accepted"]) == (0, 1_501)
    assert Path(first.document["position_file"]).parent == shell.directory / "data" / "positions"
    assert shell.run("agent", "tail", "--once", "auth.log", "--json").document["lines"] == 0
    with log.open("ab") as file:
        file.write(b"\nlater\n")
    again = shell.run("agent", "tail", "--once", "auth.log")
    assert again.stdout.startswith("2 lines: 2 accepted")
    expected = [f"line {number:04d}" for number in range(1_500)] + ["", "later", "no newline \N{REPLACEMENT CHARACTER}"]
    assert lines_of(tenant, 1_503) == sorted(expected)
    sources = tenant.rows("SELECT DISTINCT agent_id, source FROM ingest_events WHERE tenant_id = $1")
    assert min(map(tuple, sources)) == ("host-7", "auth.log")


def test_killed_at_any_moment_and_started_again_no_line_is_lost_and_none_is_repeated(tenant: Tenant) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    expected = [f"line {number:05d} {'x' * chance.randrange(200)}" for number in range(6_000)]
    log = tenant.shell.directory / "app.log"
    log.write_text("".join(f"{line}\n" for line in expected))
    position = tenant.shell.directory / "app.position"
    kills = 0
    while True:
        process = tenant.shell.start("agent", "tail", "--once", "app.log", "--position-file", str(position), "--json")
        try:
            output, errors = process.communicate(timeout=chance.uniform(0.3, 1.2) if kills < 12 else BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, (seed, output, errors)
        break
    assert kills, f"seed {seed}: the run was never killed"
    assert lines_of(tenant, len(expected)) == sorted(expected), f"seed {seed}"


def test_following_ships_lines_as_they_come_through_rotation_until_told_to_stop(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    with stand_in() as edge:
        shell = Shell(tmp_path, FG_URL=edge.url, FG_API_KEY=API_KEY)
        process = shell.start("agent", "tail", "app.log", "--tenant", "t1", "--json")
        log.write_text("one\n")
        until("the first line", lambda: len(edge.events) == 1)
        with log.open("a") as writer:
            log.rename(tmp_path / "app.log.1")
            writer.write("two\nthr")
            writer.flush()
            until("a line of the old file", lambda: len(edge.events) == 2)
            writer.write("ee\n")
        log.write_text("four\n")
        until("both files", lambda: len(edge.events) == 4)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, errors
    assert json.loads(output)["accepted"] == 4
    assert [json.loads(body)["payload"]["line"] for body in edge.events.values()] == ["one", "two", "three", "four"]


def test_an_edge_that_is_away_is_waited_for_and_the_lines_kept(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("one\ntwo\n")
    with stand_in() as gone:
        pass
    shell = Shell(tmp_path, FG_URL=gone.url, FG_API_KEY=API_KEY)
    arguments = ("agent", "tail", "--once", "app.log", "--tenant", "t1", "--json")
    ended = shell.run(*arguments, "--give-up-after", "0.3")
    assert ended.status == 1
    assert ended.document["unsettled"] == {"NO_ANSWER": 2}
    assert "the next run sends these lines again first" in ended.stderr
    with stand_in() as edge:
        assert shell.with_variables(FG_URL=edge.url).run(*arguments).document["accepted"] == 2


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("absent.log", "--once"), "there is no file absent.log"),
        (("app.log", "--position-file", "app.log"), "no position file"),
    ],
)
def test_what_cannot_work_is_said_at_once(tmp_path: Path, arguments: tuple[str, ...], advice: str) -> None:
    (tmp_path / "app.log").write_text("one\n")
    shell = Shell(tmp_path, FG_URL="http://127.0.0.1:9", FG_API_KEY=API_KEY)
    ended = shell.run("agent", "tail", *arguments, "--tenant", "t1")
    assert ended.status == 2
    assert advice in ended.stderr
    assert (tmp_path / "app.log").read_text() == "one\n"
