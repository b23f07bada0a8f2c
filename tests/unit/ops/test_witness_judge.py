"""What a witness countersigns: the next round of a history that only grows; everything else it names."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ops.witness.judge import Objection, Submission, WitnessCode
from ops.witness.service import Witness
from ops.witness.store import WitnessStore
from schemas.checkpoint import Covering, Growth, Leaf, Round, first_link, link_to, note_text, round_root
from schemas.merkle import Frontier
from schemas.units import UnixMs
from sinks.keyring import first, rotated
from sinks.notes import sign, text_of, verify_cosignature
from sinks.signing import Signer

NOW = UnixMs(1_700_000_000_000)
A, B = "a" * 64, "b" * 64


@dataclass
class _Clock:
    now: UnixMs = NOW

    def now_ms(self) -> UnixMs:
        return self.now


@dataclass
class _Log:
    """An honest log of one partition; a test makes it lie."""

    signer: Signer
    salt: str = ""
    trees: dict[str, int] = field(default_factory=dict)
    number: int = 0
    link: bytes = first_link(3)

    def node(self, name: str, at: int) -> bytes:
        return hashlib.sha256(f"{self.salt}{name}{at}".encode()).digest()

    def frontier(self, name: str, size: int) -> Frontier:
        whole = Frontier()
        for at in range(size):
            whole.append(self.node(name, at))
        return whole

    def round(self, **sizes: int) -> Submission:
        """The next round, in which the trees named have come to those sizes."""
        leaves, growth = [], {}
        for name, size in sorted(sizes.items()):
            name = name * 64  # noqa: PLW2901  (a letter stands for a name)
            before = self.frontier(name, self.trees.get(name, 0))
            covering = Covering(before.size, size)
            for at in range(before.size, size):
                covering.append(self.node(name, at))
            leaves.append(Leaf(name, self.frontier(name, size).root().hex(), size))
            growth[name] = Growth((before.size, before.hashes.hex()), tuple(covering.nodes))
            self.trees[name] = size
        self.number += 1
        link, text = self.link, note_text(Round(3, self.number, round_root(self.link, leaves)))
        self.link = link_to(text)
        return Submission(sign(text, self.signer), link.hex(), tuple(leaves), growth)

    def copy(self, **changes: object) -> "_Log":
        return dataclasses.replace(self, trees=dict(self.trees), **changes)  # type: ignore[arg-type]  # any field


@dataclass
class _Kit:
    witness: Witness
    log: _Log
    key: Signer
    root: Signer
    ring_file: Path
    clock: _Clock

    def refusal(self, submission: Submission) -> WitnessCode:
        with pytest.raises(Objection) as found:
            self.witness.countersign(submission)
        return found.value.code


@pytest.fixture
def made(tmp_path: Path) -> _Kit:
    root, signer, key = (Signer(Ed25519PrivateKey.generate()) for _ in range(3))
    ring_file = tmp_path / "keyring.json"
    ring_file.write_bytes(first(root, signer.public_key, NOW).envelope)
    clock = _Clock()
    witness = Witness(WitnessStore.open(tmp_path / "witness.sqlite"), key, ring_file, clock)
    return _Kit(witness, _Log(signer), key, root, ring_file, clock)


def test_a_history_that_grows_is_countersigned_round_by_round(made: _Kit) -> None:
    for sizes in ({"a": 3}, {"a": 7, "b": 300}, {"b": 301}, {"a": 1_000}):
        submission = made.log.round(**sizes)
        line = made.witness.countersign(submission)
        assert verify_cosignature(text_of(submission.note), line, made.key.public_key) == NOW // 1_000
    assert made.witness.latest(3)["round"] == 4


def test_a_round_sent_again_has_the_same_cosignature_also_after_later_ones(made: _Kit) -> None:
    submission = made.log.round(a=3)
    line = made.witness.countersign(submission)
    made.witness.countersign(made.log.round(a=4))
    made.clock.now = UnixMs(NOW + 5_000)
    assert made.witness.countersign(submission) == line


def test_a_round_missing_in_between_is_a_gap_that_the_missing_one_fills(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=3))
    missing, after = made.log.round(a=4), made.log.round(a=5)
    assert made.refusal(after) is WitnessCode.GAP
    made.witness.countersign(missing)
    made.witness.countersign(after)


def test_another_history_of_the_same_rounds_is_a_fork(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=3))
    fork = made.log.copy()
    made.witness.countersign(made.log.round(a=4))
    assert made.refusal(fork.round(a=5)) is WitnessCode.FORK
    made.witness.countersign(made.log.round(a=6))
    assert made.refusal(made.log.copy(number=1).round(a=9)) is WitnessCode.FORK, "an older round under another text"


def test_a_round_that_does_not_link_to_the_last_is_a_fork(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=3))
    made.log.link = first_link(3)
    assert made.refusal(made.log.round(a=4)) is WitnessCode.FORK


def test_a_root_that_does_not_follow_from_the_leaves_is_a_fork(made: _Kit) -> None:
    submission = made.log.round(a=3, b=4)
    left = tuple(leaf for leaf in submission.leaves if leaf.name == A)
    claimed = msgspec.structs.replace(submission, leaves=left, growth={A: submission.growth[A]})
    assert made.refusal(claimed) is WitnessCode.FORK


def test_a_tree_that_is_smaller_than_it_was_is_a_rollback(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=9))
    made.log.trees[A] = 5
    assert made.refusal(made.log.round(a=12)) is WitnessCode.ROLLBACK


def test_a_tree_with_another_past_is_a_fork(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=9))
    made.log.salt = "x"
    assert made.refusal(made.log.round(a=12)) is WitnessCode.FORK


def test_a_tree_that_did_not_grow_into_its_leaf_is_a_fork(made: _Kit) -> None:
    submission = made.log.round(a=9)
    grown = submission.growth[A].grown
    other = ((grown[0][0], "0" * 64), *grown[1:])
    for came in (grown[:-1], other):
        claimed = msgspec.structs.replace(submission, growth={A: Growth((0, ""), came)})
        assert made.refusal(claimed) is WitnessCode.FORK


def test_a_new_name_with_a_past_nobody_saw_is_a_fork_where_everything_was_seen(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=3))
    made.log.trees[B] = 5
    assert made.refusal(made.log.round(b=6)) is WitnessCode.FORK


def test_a_witness_that_comes_late_begins_where_it_is_and_holds_the_log_to_it_from_then_on(made: _Kit) -> None:
    for _ in range(5):
        made.log.round(a=made.log.trees.get(A, 0) + 3, b=made.log.trees.get(B, 0) + 1)
    made.witness.countersign(made.log.round(a=20))
    made.witness.countersign(made.log.round(b=9))
    made.log.trees[A] = 2
    assert made.refusal(made.log.round(a=30)) is WitnessCode.ROLLBACK


def test_a_note_alone_does_not_begin_a_witness_with_leaves_of_ones_own(made: _Kit) -> None:
    """Every bundle holds genuine notes; a late witness would hold the log to what a stranger made up for one."""
    for _ in range(5):
        genuine = made.log.round(a=made.log.trees.get(A, 0) + 3)
    invented = _Log(made.log.signer, salt="x", number=4).round(a=90, b=7)
    for link in (genuine.link, invented.link, link_to(text_of(genuine.note)).hex()):
        claimed = msgspec.structs.replace(invented, note=genuine.note, link=link)
        assert made.refusal(claimed) is WitnessCode.FORK
    assert made.witness.latest(3)["round"] == 0
    made.witness.countersign(genuine)
    made.witness.countersign(made.log.round(a=20))


def test_a_first_round_that_links_to_another_is_a_fork(made: _Kit) -> None:
    made.log.link = link_to("something\n")
    assert made.refusal(made.log.round(a=3)) is WitnessCode.FORK


def test_an_objection_changes_nothing_the_witness_remembers(made: _Kit) -> None:
    made.witness.countersign(made.log.round(a=3))
    before = made.witness.latest(3)
    fork = made.log.copy(salt="x")
    assert made.refusal(fork.round(a=9)) is WitnessCode.FORK
    assert made.witness.latest(3) == before
    made.witness.countersign(made.log.round(a=4))


def test_a_key_the_ring_does_not_know_or_whose_time_is_over_is_refused(made: _Kit) -> None:
    stranger = made.log.copy(signer=Signer(Ed25519PrivateKey.generate()))
    assert made.refusal(stranger.round(a=1)) is WitnessCode.UNKNOWN_KEY
    new = Signer(Ed25519PrivateKey.generate())
    ring = first(made.root, made.log.signer.public_key, NOW)
    made.ring_file.write_bytes(rotated(ring, made.root, made.log.signer, new, (NOW, UnixMs(NOW + 1_000))).envelope)
    made.witness.countersign(made.log.round(a=1))
    made.clock.now = UnixMs(NOW + 1_001)
    stolen = made.log.copy()
    assert made.refusal(stolen.round(a=2)) is WitnessCode.UNKNOWN_KEY
    made.log.signer = new
    made.witness.countersign(made.log.round(a=2))


@pytest.mark.parametrize(
    "change",
    [
        {"link": "00"},
        {"link": "zz" * 32},
        {"leaves": ()},
        {"growth": {}},
        {"growth": {A: Growth((1, ""), ((0, "0" * 64),))}},
        {"growth": {A: Growth((0, ""), ((60, "0" * 64),))}},
        {"growth": {A: Growth((0, ""), ((0, "zz"),))}},
        {"growth": {A: Growth((-1, ""), ())}},
        {"leaves": (Leaf("short", "0" * 64, 3),)},
    ],
)
def test_what_is_no_round_is_malformed_and_no_fault_of_the_witness(change: dict[str, object], made: _Kit) -> None:
    submission = msgspec.structs.replace(made.log.round(a=3), **change)
    assert made.refusal(submission) is WitnessCode.MALFORMED
