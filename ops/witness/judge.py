"""What a witness countersigns: the next round of a history that only ever grows. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from schemas.checkpoint import Growth, Leaf, Round, first_link, hashes_of, link_to, note_text, round_root
from schemas.merkle import HASH_BYTES, Frontier
from schemas.subjects import PARTITIONS

LEAVES_MAX = 1_000
LEVEL_MAX = 53


class WitnessCode(StrEnum):
    """Why a witness does not countersign."""

    FORK = "WITNESS_FORK"
    ROLLBACK = "WITNESS_ROLLBACK"
    GAP = "WITNESS_GAP"
    MALFORMED = "WITNESS_MALFORMED"
    UNKNOWN_KEY = "WITNESS_UNKNOWN_KEY"


class Objection(Exception):
    """The round is not countersigned."""

    def __init__(self, code: WitnessCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round as it is sent: its note, what its tree begins with, its leaves, and how each tree grew, both by name."""

    note: str
    link: str
    leaves: tuple[Leaf, ...]
    growth: dict[str, Growth]


class Seen(NamedTuple):
    """What the witness holds of a partition: the text of the last note it countersigned, and its first round."""

    note_text: str
    number: int
    first_number: int


class Tree(NamedTuple):
    """The tree last seen under a name."""

    size: int
    hashes: bytes


def judge(this: Round, submission: Submission, seen: Seen | None, trees: Mapping[str, Tree]) -> dict[str, Tree]:
    """The trees as they are after this round, once everything about it is as it must be. Raises Objection.

    `trees` holds what was seen under the names of the round's leaves. Without anything seen of the
    partition, the round is where this witness begins: round 1, or any later one of a history it has
    not followed. Whoever sends that one must know everything its note signs, and so chooses nothing of it:
    a note alone is in every bundle.
    """
    _in_turn(this, seen)
    _linked(this, submission, seen)
    whole = this.number == 1 or (seen is not None and seen.first_number == 1)
    after = {}
    for leaf in submission.leaves:
        after[leaf.name] = _grown(leaf, submission.growth[leaf.name], trees.get(leaf.name), whole=whole)
    return after


def _in_turn(this: Round, seen: Seen | None) -> None:
    if not 0 <= this.partition < PARTITIONS:
        raise Objection(WitnessCode.MALFORMED, "no such partition")
    if seen is None:
        return
    if this.number == seen.number and note_text(this) != seen.note_text:
        raise Objection(WitnessCode.FORK, f"round {this.number} was another one")
    if this.number <= seen.number:
        raise Objection(WitnessCode.ROLLBACK, f"round {seen.number} was seen already")
    if this.number > seen.number + 1:
        raise Objection(WitnessCode.GAP, f"round {seen.number + 1} comes next")


def _linked(this: Round, submission: Submission, seen: Seen | None) -> None:
    """Whether the root follows from the leaves, behind the link to the round before, and the link is that of its note.

    Where the round before was never seen, the link is what the root says it is.
    """
    link = hashes_of(submission.link)
    if seen is not None and link != link_to(seen.note_text):
        raise Objection(WitnessCode.FORK, "the round does not link to the one before")
    if seen is None and this.number == 1 and link != first_link(this.partition):
        raise Objection(WitnessCode.FORK, "the first round does not begin its partition")
    if round_root(link, submission.leaves) != this.root:
        raise Objection(WitnessCode.FORK, "the root does not follow from the round before and the leaves")


def _grown(leaf: Leaf, growth: Growth, held: Tree | None, *, whole: bool) -> Tree:
    before = Tree(growth.before[0], hashes_of(growth.before[1]))
    if held is None:
        if whole and before.size:
            raise Objection(WitnessCode.FORK, f"the tree {leaf.name} was not there before")
    elif before.size < held.size:
        raise Objection(WitnessCode.ROLLBACK, f"the tree {leaf.name} had {held.size} leaves")
    elif before != held:
        raise Objection(WitnessCode.FORK, f"the tree {leaf.name} is not the one seen before")
    tree = Frontier.of(*before)
    for level, node in growth.grown:
        tree.append(hashes_of(node), level)
    if tree.size != leaf.size or tree.root().hex() != leaf.root:
        raise Objection(WitnessCode.FORK, f"the tree {leaf.name} did not grow into the one of its leaf")
    return Tree(tree.size, tree.hashes)


def checked(submission: Submission) -> Submission:
    """The submission, once everything in it has the form it must have. Raises Objection(MALFORMED)."""
    names = [leaf.name for leaf in submission.leaves]
    sound = (
        _is_hash(submission.link)
        and 0 < len(names) <= LEAVES_MAX
        and names == sorted(set(names))
        and set(submission.growth) == set(names)
        and all(_is_sound(submission.growth[leaf.name], leaf) for leaf in submission.leaves)
    )
    if not sound:
        raise Objection(WitnessCode.MALFORMED, "not a round with its leaves and their growth")
    return submission


def _is_sound(growth: Growth, leaf: Leaf) -> bool:
    """Whether sizes and hashes have their form; a tree that cannot be put together has not."""
    size, hashes = growth.before
    if not 0 <= size < leaf.size < 1 << LEVEL_MAX or size.bit_count() * HASH_BYTES * 2 != len(hashes):
        return False
    at = size
    try:
        hashes_of(hashes)
        for level, node in growth.grown:
            if not 0 <= level < LEVEL_MAX or at & ((1 << level) - 1) or len(hashes_of(node)) != HASH_BYTES:
                return False
            at += 1 << level
    except ValueError:
        return False
    return _is_hash(leaf.name) and _is_hash(leaf.root)


def _is_hash(text: str) -> bool:
    try:
        return len(hashes_of(text)) == HASH_BYTES
    except ValueError:
        return False
