"""The words of checkpoints: rounds have one text, names hide tenants, growing trees are RFC 6962's."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.checkpoint import (
    Covering,
    GrowingTree,
    Leaf,
    Round,
    first_link,
    leaf_name,
    link_to,
    note_text,
    round_of,
    round_root,
    tenant_key,
)
from schemas.merkle import Frontier


def _leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(f"{number}".encode()).digest() for number in range(count)]


LEAVES = _leaves(70_000)


@given(st.integers(0, 1_500), st.integers(0, 1_500))
def test_a_tree_grown_from_its_frontier_is_the_tree(first: int, more: int) -> None:
    whole, part = Frontier(), Frontier()
    for node in LEAVES[: first + more]:
        whole.append(node)
    for node in LEAVES[:first]:
        part.append(node)
    tree, covering = GrowingTree(first, part.hashes), Covering(first, first + more)
    for node in LEAVES[first : first + more]:
        tree.append(node)
        covering.append(node)
    assert (tree.size, tree.hashes, tree.root()) == (whole.size, whole.hashes, whole.root())
    for level, node_hash in covering.nodes:
        part.append(bytes.fromhex(node_hash), level)
    assert part.root() == whole.root()


def test_each_complete_subtree_of_a_kept_level_is_given_once() -> None:
    tree = GrowingTree()
    complete = [done for node in LEAVES for done in tree.append(node)]
    places = [tuple(done.place) for done in complete]
    assert sorted(places) == [(8, at) for at in range(70_000 // 256)] + [(16, 0)]
    for done in complete:
        part = Frontier()
        start = done.place.position << done.place.level
        for leaf in LEAVES[start : start + (1 << done.place.level)]:
            part.append(leaf)
        assert part.root() == done.hash


def test_more_leaves_than_were_to_be_covered_are_refused() -> None:
    covering = Covering(3, 4).append(LEAVES[0])
    with pytest.raises(ValueError):
        covering.append(LEAVES[0])


def test_a_rounds_text_says_partition_number_and_root_in_one_form() -> None:
    this = Round(3, 7, LEAVES[0])
    text = note_text(this)
    assert text.startswith("frostgate/checkpoint/p03\n7\n")
    assert round_of(text) == this
    for other in (text[:-1], text + "\n", text.replace("\n7\n", "\n07\n"), text.replace("p03", "p3"), ""):
        with pytest.raises(ValueError):
            round_of(other)


def test_a_rounds_root_binds_the_round_before_and_every_leaf() -> None:
    leaves = [Leaf(f"{number:064x}", "a" * 64, number) for number in range(1, 6)]
    root = round_root(first_link(3), leaves)
    changed = [leaves[:-1], [*leaves, leaves[0]], [Leaf("0" * 64, "a" * 64, 1), *leaves[1:]]]
    others = [round_root(first_link(3), other) for other in changed]
    others += [round_root(first_link(4), leaves), round_root(link_to("text\n"), leaves)]
    assert root not in others
    assert len(set(others)) == len(others)


def test_a_name_follows_from_the_tenants_key_and_no_tenant_has_anothers() -> None:
    keys = {tenant_key(b"s" * 32, tenant) for tenant in ("a", "b")}
    assert len(keys) == 2
    assert leaf_name(tenant_key(b"s" * 32, "a"), "a") != leaf_name(tenant_key(b"t" * 32, "a"), "a")
