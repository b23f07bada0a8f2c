"""Following a log ships every line exactly once, through restarts, crashes, rotation and truncation."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.clock import SystemClock
from ops.commands.edge_client import EdgeClient, EdgeRefusedError
from ops.commands.follower import Follower, GaveUpError
from ops.commands.log_events import Origin
from ops.commands.position import PositionError, locked
from ops.commands.publish_client import Patience, Publisher
from ops.commands.tally import Tally
from tests.unit.ops.stand_in import API_KEY, Reply, StandIn, stand_in


class Crash(BaseException):
    """The process is gone: nothing may catch this."""


class Log:
    """A log, its position, and the edge its lines go to."""

    def __init__(self, directory: Path, edge: StandIn) -> None:
        self.path = directory / "app.log"
        self.positions = directory / "positions" / "app.json"
        self.edge = edge
        self.tenant_id = "tenant-1"
        self.path.touch()

    def append(self, *lines: str) -> None:
        with self.path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def rotate(self) -> None:
        for number in range(8, 0, -1):
            older = self.path.with_name(f"app.log.{number}")
            if older.exists():
                older.rename(self.path.with_name(f"app.log.{number + 1}"))
        self.path.rename(self.path.with_name("app.log.1"))
        self.path.touch()

    def follow(self, *, once: bool = True, idle: Callable[[], None] = lambda: None) -> Tally:
        tally = Tally()
        client = EdgeClient(self.edge.url, API_KEY)
        try:
            with locked(self.positions) as positions:
                publisher = Publisher(client, Patience(0.0))
                origin = Origin(self.tenant_id, "agent", "app.log", self.path, "1.0")
                Follower(origin, positions, publisher, tally, SystemClock()).run(
                    once=once, turn=lambda nothing_to_do: idle() if nothing_to_do else None
                )
        finally:
            client.close()
        return tally

    def shipped(self) -> list[str]:
        """The lines the edge holds, in the order it took them."""
        return [json.loads(body)["payload"]["line"] for body in self.edge.events.values()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with stand_in() as edge:
        yield Log(tmp_path, edge)


def script(*actions: Callable[[], None]) -> Callable[[], None]:
    """Do one action at each idle turn, then end the run as a signal would."""
    left = list(actions)

    def idle() -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    return idle


def test_each_run_ships_what_is_new_and_nothing_again(log: Log) -> None:
    log.append(*(f"line {number}" for number in range(1_201)))
    assert log.follow().document()["accepted"] == 1_201
    assert [len(request) for request in log.edge.requests] == [500, 500, 201]
    log.append("later")
    assert log.follow().document() == {
        "lines": 1, "accepted": 1, "replayed": 0, "refused": {}, "unsettled": {}, "reports": [],
    }  # fmt: skip
    assert log.shipped() == [f"line {number}" for number in range(1_201)] + ["later"]


@pytest.mark.parametrize("taken", [False, True])
def test_a_crash_around_a_request_loses_no_line_and_repeats_none(log: Log, taken: bool) -> None:
    def crash(number: int, _lines: list[bytes]) -> Reply | None:
        if number == 1:
            return Reply(0, take=taken)
        return None

    log.append(*(f"line {number}" for number in range(1_200)))
    with stand_in(crash) as edge:
        log.edge = edge
        with pytest.raises(GaveUpError):
            log.follow()
        tally = log.follow()
    assert edge.requests[1] == edge.requests[2], "the same bytes go again"
    assert tally.document()["replayed"] == (500 if taken else 0)
    assert log.shipped() == [f"line {number}" for number in range(1_200)]


def test_a_crash_at_any_moment_of_a_run_changes_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the run before or after each of its writes to disk in turn, and let the next one go on."""
    replace = os.replace
    lines = [f"line {number}" for number in range(1_100)]
    log.append(*lines)
    for moment in range(12):
        left = moment // 2

        def dying(source: str, target: str, after: bool = moment % 2 == 1) -> None:
            nonlocal left
            if left == 0 and not after:
                raise Crash
            replace(source, target)
            if left == 0:
                raise Crash
            left -= 1

        monkeypatch.setattr(os, "replace", dying)
        try:
            log.follow()
        except Crash:
            log.append(f"after {moment}")
            lines.append(f"after {moment}")
    monkeypatch.undo()
    log.follow()
    assert log.shipped() == lines


def test_a_line_is_not_shipped_before_its_newline_and_once_takes_the_end_of_the_file_for_one(log: Log) -> None:
    def begin() -> None:
        with log.path.open("a") as file:
            file.write("ha")

    def look() -> None:
        assert log.shipped() == ["first"]

    log.append("first")
    with pytest.raises(KeyboardInterrupt):
        log.follow(once=False, idle=script(begin, look))
    log.append("lf")
    assert log.follow().document()["accepted"] == 1
    begin()
    log.follow()
    assert log.shipped() == ["first", "half", "ha"]


def test_rotation_while_following_finishes_the_old_file_first(log: Log) -> None:
    def rotate_in_the_middle() -> None:
        with log.path.open("a") as writer:
            log.rotate()
            writer.write("last of the old\nno newline")
        log.append("first of the new")

    def rotate_twice_at_once() -> None:
        log.append("a")
        log.rotate()
        log.append("b")
        log.rotate()
        log.append("c")

    log.append("one")
    with pytest.raises(KeyboardInterrupt):
        log.follow(once=False, idle=script(rotate_in_the_middle, rotate_twice_at_once, lambda: None))
    assert log.shipped() == ["one", "last of the old", "no newline", "first of the new", "a", "b", "c"]


def test_an_empty_successor_is_not_taken_for_the_end_of_the_old_file(log: Log) -> None:
    """The writer has been told to reopen, and has not done so yet."""
    log.append("one")
    old = log.path.open("a")

    def late() -> None:
        old.write("two\n")
        old.close()

    with pytest.raises(KeyboardInterrupt):
        log.follow(once=False, idle=script(log.rotate, late, lambda: log.append("three"), lambda: None))
    assert log.shipped() == ["one", "two", "three"]


def test_rotation_while_nobody_followed_is_caught_up_in_order(log: Log) -> None:
    log.append("one")
    log.follow()
    for name in ("two", "three", "four"):
        log.append(name)
        log.rotate()
    log.append("five")
    log.follow()
    assert log.shipped() == ["one", "two", "three", "four", "five"]


def test_dated_rotation_is_caught_up_in_order(log: Log) -> None:
    log.append("one")
    log.follow()
    log.path.rename(log.path.with_name("app.log-20260101"))
    log.path.with_name("app.log-20260102").write_text("two\n")
    log.path.with_name("app.log.old").write_text("no generation\n")
    log.append("three")
    log.follow()
    assert log.shipped() == ["one", "two", "three"]


def test_a_truncated_file_begins_again_without_colliding(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    def truncate() -> None:
        log.path.write_text("")
        log.append("same head", "new")

    def truncate_to_more() -> None:
        log.path.write_text("another head, and longer than everything that was read before it\n")

    log.append("same head", "old and longer than the new text")
    with pytest.raises(KeyboardInterrupt):
        log.follow(once=False, idle=script(truncate, truncate_to_more, lambda: None))
    assert log.shipped() == [
        "same head", "old and longer than the new text",
        "same head", "new",
        "another head, and longer than everything that was read before it",
    ]  # fmt: skip
    assert capsys.readouterr().err.count("was truncated") == 2


def test_a_file_that_vanished_between_runs_is_reported(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.append("one")
    log.follow()
    log.rotate()
    log.path.with_name("app.log.1").unlink()
    log.append("two")
    log.follow()
    assert log.shipped() == ["one", "two"]
    assert "is gone" in capsys.readouterr().err


def test_an_inode_used_again_is_another_file(log: Log) -> None:
    log.append("one", "two")
    log.follow()
    log.path.write_text("uno\ndue\ntre\n")
    log.follow()
    assert log.shipped() == ["one", "two", "uno", "due", "tre"]


def test_following_waits_for_a_file_that_is_not_there_yet(log: Log) -> None:
    log.path.unlink()
    with pytest.raises(KeyboardInterrupt):
        log.follow(once=False, idle=script(log.path.touch, lambda: log.append("born"), lambda: None))
    assert log.shipped() == ["born"]


def test_lines_refused_for_good_are_counted_and_not_sent_again(log: Log) -> None:
    log.edge.refuse = lambda event: (
        {"status": 400, "error_code": "PAYLOAD_INVALID", "detail": "no"} if event["payload"]["line"] == "bad" else None
    )
    log.append("good", "bad", "fine")
    tally = log.follow()
    assert tally.document()["refused"] == {"PAYLOAD_INVALID": 1}
    assert not tally.all_accepted
    assert log.follow().lines == 0
    assert log.shipped() == ["good", "fine"]


def test_lines_an_edge_refuses_as_a_whole_wait_for_the_next_run(log: Log) -> None:
    log.append("one")
    with stand_in(lambda number, _lines: Reply(403, {"error_code": "SCOPE_DENIED"}) if number == 0 else None) as edge:
        log.edge = edge
        with pytest.raises(EdgeRefusedError, match="SCOPE_DENIED"):
            log.follow()
        log.follow()
        assert log.shipped() == ["one"]


def test_two_agents_cannot_hold_one_position(log: Log) -> None:
    with locked(log.positions), pytest.raises(PositionError, match="another agent"):
        log.follow()


def test_a_position_is_never_used_for_another_tenant(log: Log) -> None:
    log.append("one")
    log.follow()
    log.tenant_id = "tenant-2"
    with pytest.raises(PositionError, match="tenant-1, not tenant-2"):
        log.follow()


def test_a_file_that_is_no_position_is_not_overwritten(log: Log) -> None:
    log.positions.parent.mkdir()
    log.positions.write_text("something else\n")
    with pytest.raises(PositionError, match="no position file"):
        log.follow()
    assert log.positions.read_text() == "something else\n"


def test_a_position_file_is_for_its_owner_alone(log: Log) -> None:
    log.append("one")
    log.follow()
    assert log.positions.stat().st_mode & 0o777 == 0o600
