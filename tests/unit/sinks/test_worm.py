"""The WORM directory: whole or not at all, once, and nowhere else."""

import asyncio
import os
from pathlib import Path

import pytest

from schemas.answers import NoAnswer, Refusal
from schemas.codes import Code, DeadReason
from sinks.worm import DirectoryWorm

KEY = "segments/2026-01-01/p07/a.dsse"


@pytest.fixture
def worm(tmp_path: Path) -> DirectoryWorm:
    return DirectoryWorm(tmp_path)


async def test_what_was_put_is_read_back_whole_and_in_part(worm: DirectoryWorm, tmp_path: Path) -> None:
    await worm.put(KEY, b"evidence", retain_days=7)
    assert await worm.get(KEY) == b"evidence"
    assert await worm.get_range(KEY, 2, 3) == b"ide"
    assert await worm.get_range(KEY, 6, 100) == b"ce"
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "segments").stat().st_mode & 0o077 == 0


async def test_what_is_not_there_is_none(worm: DirectoryWorm) -> None:
    assert await worm.get(KEY) is None
    assert await worm.get_range(KEY, 0, 1) is None


async def test_the_same_bytes_again_are_no_error_and_other_bytes_change_nothing(worm: DirectoryWorm) -> None:
    await worm.put(KEY, b"evidence", retain_days=7)
    await worm.put(KEY, b"evidence", retain_days=7)
    for other in (b"Evidence", b"evidence and more", b""):
        with pytest.raises(Refusal) as refused:
            await worm.put(KEY, other, retain_days=7)
        assert refused.value.reason is DeadReason.STORE_REFUSED
    assert await worm.get(KEY) == b"evidence"


async def test_of_many_at_once_one_wins_and_the_others_are_refused(worm: DirectoryWorm, tmp_path: Path) -> None:
    offers = [b"%d" % number * 10_000 for number in range(8)]
    ends = await asyncio.gather(*(worm.put(KEY, data, retain_days=7) for data in offers), return_exceptions=True)
    winners = [data for data, end in zip(offers, ends, strict=True) if end is None]
    assert len(winners) == 1
    assert all(isinstance(end, Refusal) for end in ends if end is not None)
    assert await worm.get(KEY) == winners[0]
    assert [path.name for path in (tmp_path / KEY).parent.iterdir()] == ["a.dsse"]


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/etc/passwd", "a//b", "a/", "../a", "a/../b", "a/..", ".", "..", "a/.b", ".new-x", "-rf"),
        *("a\0b", "a b", "a\nb", "a\\b", "ä", "a/" * 8 + "a", "a" * 129, "a\n"),
    ],
)
async def test_a_key_outside_the_alphabet_reaches_no_file(worm: DirectoryWorm, tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        await worm.put(key, b"x", retain_days=7)
    with pytest.raises(ValueError, match="not a key"):
        await worm.get(key)
    with pytest.raises(ValueError, match="not a key"):
        await worm.get_range(key, 0, 1)
    assert list(tmp_path.iterdir()) == []


async def test_a_writer_that_dies_half_way_leaves_nothing_under_the_key(
    worm: DirectoryWorm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(NoAnswer) as away:
        patch.setattr(os, "fsync", dies)
        await worm.put(KEY, b"evidence", retain_days=7)
    assert away.value.code is Code.STORE_UNAVAILABLE
    assert await worm.get(KEY) is None
    assert list((tmp_path / KEY).parent.iterdir()) == []
    await worm.put(KEY, b"evidence", retain_days=7)
    assert await worm.get(KEY) == b"evidence"


async def test_every_directory_on_the_way_is_synced_before_put_returns(
    worm: DirectoryWorm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def noting(descriptor: int) -> None:
        real(descriptor)
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noting)
        await worm.put(KEY, b"evidence", retain_days=7)
        first = list(synced)
        synced.clear()
        await worm.put(KEY, b"evidence", retain_days=7)
    directories = {str(tmp_path), *(str(tmp_path / part) for part in ("segments", "segments/2026-01-01"))}
    directories.add(str((tmp_path / KEY).parent))
    assert directories < set(first)
    assert any(Path(name).name.startswith(".new-") for name in first)
    assert directories <= set(synced)


async def test_a_store_that_is_not_mounted_takes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "worm"
    with pytest.raises(NotADirectoryError):
        DirectoryWorm(root)
    root.mkdir()
    worm = DirectoryWorm(root)
    root.rmdir()
    with pytest.raises(NoAnswer):
        await worm.put(KEY, b"x", retain_days=7)
    assert not root.exists()
