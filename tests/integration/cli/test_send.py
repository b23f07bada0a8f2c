"""`frostgate send`: every line of a file ends accepted or named, and sending it again changes nothing."""

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.cli.commands import PROGRAM, Shell, event, ndjson
from tests.integration.cli.conftest import Tenant
from tests.unit.ops.stand_in import API_KEY, Reply, stand_in


def test_every_event_of_a_file_is_accepted_decided_and_can_be_asked_for(tenant: Tenant) -> None:
    (tenant.shell.directory / "events.ndjson").write_bytes(ndjson(*(event(number) for number in range(1_200))))
    ended = tenant.shell.run("send", "--json", "--ids", "events.ndjson")
    assert ended.status == 0
    assert ended.document["accepted"] == 1_200
    rows = tenant.decided(1_200)
    assert sorted(row[0] for row in rows) == sorted(ended.document["event_ids"])
    why = tenant.shell.run("why", ended.document["event_ids"][0])
    assert why.status == 0
    for word in ("accepted", "deduped", "decided", "chained"):
        assert word in why.stdout


def test_sending_a_file_with_ids_again_replays_it(tenant: Tenant) -> None:
    complete = [
        event(
            number,
            tenant_id=tenant.tenant_id,
            event_id=f"event-{number}",
            trace_id="01a20521-a5c2-7649-85a3-933c37109b69",
            created_at=created_at(tenant),
        )
        for number in range(20)
    ]
    stdin = ndjson(*complete)
    first, again = (tenant.shell.run("send", "--json", "--ids", "-", stdin=stdin) for _ in range(2))
    assert (first.document["accepted"], again.document["replayed"]) == (20, 20)
    assert first.document["event_ids"] == again.document["event_ids"] == [f"event-{number}" for number in range(20)]
    changed = tenant.shell.run("send", "--json", "-", stdin=stdin.replace(b'"number": 3}', b'"number": 33}'))
    assert changed.status == 1
    assert changed.document["refused"] == {"EVENT_ID_PAYLOAD_MISMATCH": 1}
    assert len(tenant.decided(20)) == 20


def created_at(tenant: Tenant) -> str:
    return str(tenant.rows("SELECT app.rfc3339(now()) FROM tenants WHERE tenant_id = $1")[0][0])


def test_bad_lines_are_named_by_number_and_code_and_harm_no_other(tenant: Tenant) -> None:
    lines = ndjson(event(0)) + b"no json\n\n[1]\n" + ndjson(event(1, source=""), event(2, tenant_id="other"), event(3))
    ended = tenant.shell.run("send", "-", stdin=lines)
    assert ended.status == 1
    assert "6 lines: 2 accepted, 4 refused" in ended.stdout
    for place in (
        "line 2: MALFORMED_JSON",
        "line 4: MALFORMED_JSON",
        "line 5: SOURCE_REQUIRED",
        "line 6: TENANT_MISMATCH",
    ):
        assert place in ended.stdout
    assert len(tenant.decided(2)) == 2


def test_a_last_line_without_a_newline_is_sent_and_an_empty_file_is_fine(tenant: Tenant) -> None:
    assert tenant.shell.run("send", "--json", "-", stdin=ndjson(event(0)).rstrip()).document["accepted"] == 1
    empty = tenant.shell.run("send", "--json", "-")
    assert (empty.status, empty.document["lines"]) == (0, 0)


def test_what_the_data_plane_is_too_busy_for_is_sent_again_until_it_is_accepted(tmp_path: Path) -> None:
    def busy(number: int, _lines: list[bytes]) -> Reply | None:
        return Reply(503, {"error_code": "STREAM_UNAVAILABLE", "retry_after_ms": 20}) if number < 3 else None

    with stand_in(busy) as edge:
        shell = Shell(tmp_path, FG_URL=edge.url, FG_API_KEY=API_KEY)
        ended = shell.run("send", "--tenant", "t1", "--json", "-", stdin=ndjson(event(0), event(1)))
    assert (ended.status, ended.document["accepted"]) == (0, 2)
    assert len(edge.requests) == 4
    assert len({tuple(lines) for lines in edge.requests}) == 1, "filled in once, the same at every try"


def test_an_edge_that_is_away_is_given_up_with_the_lines_named(tmp_path: Path) -> None:
    with stand_in() as edge:
        pass
    shell = Shell(tmp_path, FG_URL=edge.url, FG_API_KEY=API_KEY)
    ended = shell.run("send", "--tenant", "t1", "--give-up-after", "0.3", "-", stdin=ndjson(event(0)))
    assert ended.status == 1
    assert "gave up after 0.3 s" in ended.stderr
    assert "line 1: NO_ANSWER" in ended.stdout


def test_a_refused_key_says_what_to_do_and_is_not_shown(tenant: Tenant) -> None:
    ended = tenant.shell.with_variables(FG_API_KEY="canary-key").run("send", "-", stdin=ndjson(event(0)))
    assert ended.status == 1
    assert "frostgate keys issue" in ended.stderr
    assert "canary-key" not in ended.stdout + ended.stderr


def test_without_a_stack_the_command_says_how_to_get_one(tmp_path: Path) -> None:
    ended = Shell(tmp_path).run("send", "-", stdin=ndjson(event(0)))
    assert ended.status == 2
    assert "frostgate up" in ended.stderr
    assert Shell(tmp_path).run("send", "absent.ndjson").status == 2


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""A small process in between: a child's greatest size counts what its parent had when it was forked."""


def test_a_line_of_any_length_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    size_bytes = 256 * 1024 * 1024
    with (tmp_path / "huge.ndjson").open("wb") as file:
        file.truncate(size_bytes)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + ndjson(event(0, tenant_id="t1")))
    with stand_in() as edge:
        shell = Shell(tmp_path, FG_URL=edge.url, FG_API_KEY=API_KEY)
        ended = subprocess.run(
            [sys.executable, "-c", MEASURED, *PROGRAM, "send", "--tenant", "t1", "huge.ndjson"],
            cwd=tmp_path,
            env=shell.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert "2 lines: 1 accepted, 1 refused" in ended.stdout
    resident_kib = int(ended.stderr.splitlines()[-1])
    assert resident_kib * 1024 < size_bytes / 2
