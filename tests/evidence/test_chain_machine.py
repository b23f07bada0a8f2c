"""A chain in any order of appending, checkpointing, exporting and tampering: it verifies exactly while it is whole."""

import functools
import io
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.checkpoint import GrowingTree, Leaf, round_of, round_root
from schemas.evidence import ChainEntry, EntryKind, genesis_hash, seal
from schemas.merkle import Frontier
from tests.evidence import bundle_maker as make
from tests.evidence.loading import verifier

SIZE_MAX = 24
REMEMBERED = functools.lru_cache(1 << 12)(verifier.ed25519_verifies)
"""The verifier's own check; the same few envelopes come again and again."""


class Chained(RuleBasedStateMachine):
    """Our own code seals and grows; the maker and the verifier, written from the page, must agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = make.Chain("acme")
        self.tree = GrowingTree()
        self.rounds: list[make.Round] = []
        self.sizes: list[int] = []

    @precondition(lambda self: len(self.chain.entries) < SIZE_MAX)
    @rule(note=st.text(max_size=8))
    def append(self, note: str) -> None:
        artifact = make.canonical({"note": note.encode(errors="ignore").decode()})
        prev_hash = self.chain.prev_hash if self.chain.entries else genesis_hash("acme")
        seq = len(self.chain.entries) + 1
        told = make.entry_of("acme", seq, prev_hash, artifact)
        entry, chain_hash = seal(ChainEntry(**{**told, "kind": EntryKind.DECISION}))
        self.chain = make.Chain(
            "acme",
            (*self.chain.entries, entry),
            (*self.chain.hashes, bytes.fromhex(chain_hash)),
            (*self.chain.artifacts, artifact),
        )
        self.tree.append(bytes.fromhex(chain_hash))

    @precondition(lambda self: len(self.chain.entries) > max(self.sizes, default=0))
    @rule(others=st.integers(0, 3))
    def checkpoint(self, others: int) -> None:
        size = len(self.chain.entries)
        leaf = make.leaf_of(self.chain, size)
        beside = [make.leaf_of(make.chain_of(f"t-{number}", 2), 2) for number in range(others)]
        this = make.next_round(self.rounds, [leaf, *beside], 7)
        root = round_root(this.link, [Leaf(**one) for one in this.leaves])
        assert round_of(this.note.partition("\n\n")[0] + "\n") == (7, len(self.rounds) + 1, root)
        self.rounds.append(this)
        self.sizes.append(size)

    def _lines(self, of: make.Chain) -> tuple[bytes, ...]:
        """The newest checkpoints, as many as a bundle of so few entries holds."""
        pairs = list(zip(self.rounds, self.sizes, strict=True))[-3:]
        return tuple(make.checkpoint_line(this, make.leaf_of(of, size)) for this, size in pairs)

    def _status(self, recipe: make.Recipe) -> int:
        with patch.object(verifier, "ed25519_verifies", REMEMBERED):
            status: int = verifier.verify_file(io.BytesIO(recipe.tar()), None).status
        return status

    @precondition(lambda self: self.sizes)
    @rule(part=st.data())
    def export(self, part: st.DataObject) -> None:
        last = part.draw(st.integers(1, len(self.chain.entries)))
        first = part.draw(st.integers(1, last))
        # Of older checkpoints only those of the part's own sizes can be proven by it.
        lines = tuple(
            line
            for line, size in zip(self._lines(self.chain), self.sizes[-3:], strict=True)
            if first <= size <= last or size == len(self.chain.entries)
        )
        traced = part.draw(st.booleans())
        assert self._status(make.Recipe(self.chain, lines, first, last, traced)) == 0

    @precondition(lambda self: self.sizes)
    @rule(place=st.data())
    def tamper(self, place: st.DataObject) -> None:
        """Whatever is rewritten before the newest checkpoint is found, however well it is chained and signed."""
        seq = place.draw(st.integers(1, self.sizes[-1]))
        rewritten = make.Chain("acme", *(part[: seq - 1] for part in self._parts()))
        while len(rewritten.entries) < len(self.chain.entries):
            rewritten = rewritten.grown("rewritten")
        lines = self._lines(self.chain)
        assert self._status(make.Recipe(rewritten, lines)) == verifier.FORKED

    @precondition(lambda self: self.sizes and self.sizes[-1] > 1)
    @rule(place=st.data())
    def forget(self, place: st.DataObject) -> None:
        kept = place.draw(st.integers(1, self.sizes[-1] - 1))
        shorter = make.Chain("acme", *(part[:kept] for part in self._parts()))
        [line] = self._lines(self.chain)[-1:]
        assert self._status(make.Recipe(shorter, (line,))) == verifier.TRUNCATED

    def _parts(self) -> tuple[tuple[bytes, ...], ...]:
        return self.chain.entries, self.chain.hashes, self.chain.artifacts

    @invariant()
    def every_tree_is_the_same_tree(self) -> None:
        root = make.tree_root(self.chain.hashes)
        assert self.tree.size == len(self.chain.hashes)
        assert self.tree.root() == root
        frontier, theirs = Frontier(), verifier.Tree()
        for node in self.chain.hashes:
            frontier.append(node)
            theirs.append(node)
        assert frontier.root() == theirs.root() == root
        assert self.tree.hashes == frontier.hashes


Chained.TestCase.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)
test_a_chain_verifies_exactly_while_it_is_whole = Chained.TestCase
