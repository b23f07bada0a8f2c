"""Private files, and who may pass through a directory."""

import os
import stat
from pathlib import Path

import pytest

from ops.embedded.files import User, can_enter, make_passable, write_private

STRANGER = User(65_000, 65_000)


@pytest.fixture
def passable(tmp_path: Path) -> Path:
    """A directory anyone may reach: pytest's own are closed to others, so the ones above are opened here."""
    for directory in (tmp_path, *tmp_path.parents[:3]):  # one more where tests run side by side
        if directory.stat().st_uid == os.getuid():
            directory.chmod(0o711)
    return tmp_path


def test_a_private_file_is_for_its_owner_alone_even_over_an_open_one(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text("old")
    file.chmod(0o644)
    write_private(file, b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_private(target, b"x")
    assert list(tmp_path.iterdir()) == [target]


def test_one_closed_directory_on_the_way_keeps_a_stranger_out(passable: Path) -> None:
    inner = passable / "closed" / "inner"
    inner.mkdir(parents=True)
    assert can_enter(inner, STRANGER)
    inner.parent.chmod(0o700)
    assert not can_enter(inner, STRANGER)
    assert can_enter(inner.parent, User(os.getuid(), 65_000))


def test_the_group_counts_before_everyone(passable: Path) -> None:
    shared = passable / "shared"
    shared.mkdir()
    shared.chmod(0o701)
    assert not can_enter(shared, User(65_000, shared.stat().st_gid))


def test_making_a_way_touches_no_directory_that_exists(passable: Path) -> None:
    closed = passable / "closed"
    closed.mkdir(mode=0o700)
    make_passable(closed / "a" / "b")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert stat.S_IMODE((closed / "a").stat().st_mode) == 0o711
    assert stat.S_IMODE((closed / "a" / "b").stat().st_mode) == 0o711
