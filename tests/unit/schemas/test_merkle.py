"""The frontier, the proofs and a tree built the long way agree, for every size up to 70."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.merkle import EMPTY_ROOT, Frontier, audit_path, cover, parent, root_from

SIZE_MAX = 70
LEAVES = [hashlib.sha256(b"\x00%d" % number).digest() for number in range(SIZE_MAX)]


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return parent(_root(leaves[:split]), _root(leaves[split:]))


def _frontier(size: int) -> Frontier:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    return frontier


@pytest.mark.parametrize("size", range(SIZE_MAX + 1))
def test_a_frontier_knows_the_root_of_its_tree(size: int) -> None:
    frontier = _frontier(size)
    assert frontier.root() == _root(LEAVES[:size])
    assert Frontier.of(size, frontier.hashes).root() == frontier.root()


@given(first=st.integers(0, SIZE_MAX), more=st.integers(0, SIZE_MAX))
def test_an_old_frontier_and_the_cover_of_what_came_since_make_the_new_root(first: int, more: int) -> None:
    end = min(first + more, SIZE_MAX)
    frontier = _frontier(first)
    for place in cover(first, end):
        begin = place.position << place.level
        frontier.append(_root(LEAVES[begin : begin + (1 << place.level)]), place.level)
    assert (frontier.size, frontier.root()) == (end, _root(LEAVES[:end]))


@pytest.mark.parametrize("size", range(1, SIZE_MAX + 1))
def test_every_leaf_of_every_tree_is_proved_by_its_path_alone(size: int) -> None:
    root = _root(LEAVES[:size])
    for index in range(size):
        path = [_root(LEAVES[first:end]) for first, end in audit_path(index, size)]
        assert root_from(LEAVES[index], index, size, path) == root
        assert root_from(LEAVES[index - 1], index, size, path) != root or size == 1
        with pytest.raises(ValueError, match="too long"):
            root_from(LEAVES[index], index, size, [*path, root])


def test_a_path_cut_short_proves_nothing() -> None:
    with pytest.raises(ValueError, match="too short"):
        root_from(LEAVES[0], 0, 2, [])


def test_hashes_of_another_size_are_no_frontier() -> None:
    with pytest.raises(ValueError, match="not a frontier"):
        Frontier.of(3, b"x" * 32)
    with pytest.raises(ValueError, match="begins at a multiple"):
        _frontier(1).append(LEAVES[1], level=1)
    assert Frontier().root() == EMPTY_ROOT
