"""The offline verifier: what is whole passes, every verdict has its status, and nobody else's code is needed."""

import base64
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.evidence import bundle_maker as make
from tests.evidence.conftest import Verify
from tests.evidence.loading import SCRIPT, verifier

# RFC 8032, 7.1: secret key (unused here), public key, message, signature.
RFC_8032 = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)
ORDER = 2**252 + 27742317777372353535851937790883648493


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a stranger runs it: no package of ours, nothing installed."""
    return subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, *words], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundle") / "acme.tar"
    file.write_bytes(make.recipe(sizes=(5,)).tar())
    return file


@pytest.mark.parametrize(("public_key", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_verify_and_no_bit_of_them_may_change(
    public_key: str, message: str, signature: str
) -> None:
    public, signed, wrong = bytes.fromhex(public_key), bytes.fromhex(signature), bytearray.fromhex(signature)
    assert verifier.ed25519_verifies(public, signed, bytes.fromhex(message))
    wrong[40] ^= 4
    assert not verifier.ed25519_verifies(public, bytes(wrong), bytes.fromhex(message))
    assert not verifier.ed25519_verifies(public, signed, bytes.fromhex(message) + b"x")


def _library_verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_signatures_good_and_damaged_are_judged_as_the_library_judges_them(seed: str) -> None:
    choose, good = random.Random(seed), 0
    for number in range(120):
        key, message = make.Key(f"{seed} {number}"), choose.randbytes(choose.randrange(80))
        signature = key.sign(message)
        scalar = int.from_bytes(signature[32:], "little")
        cases = (
            signature,
            signature[:32] + (scalar + ORDER).to_bytes(32, "little"),
            signature[:31] + bytes([signature[31] ^ 0x80]) + signature[32:],
            choose.randbytes(64),
            signature[:63],
            bytes(32) + signature[32:],
        )
        case = cases[number % len(cases)]
        mine = verifier.ed25519_verifies(key.public, case, message)
        assert mine == _library_verifies(key.public, case, message), (seed, number)
        good += mine
    assert good == 20


@pytest.mark.parametrize(
    "encoding",
    [
        (2**255 - 19).to_bytes(32, "little"),  # y = p, a second form of 0
        (2**255 - 18).to_bytes(32, "little"),  # y = p + 1, a second form of 1
        (1 | 1 << 255).to_bytes(32, "little"),  # x = 0 with a sign
        (2).to_bytes(32, "little"),  # on no point of the curve
        b"\xff" * 32,
    ],
)
def test_a_key_in_a_second_form_is_no_key(encoding: bytes) -> None:
    signature = make.SIGNER.sign(b"x")
    assert not verifier.ed25519_verifies(encoding, signature, b"x")
    assert not verifier.ed25519_verifies(make.SIGNER.public, encoding + signature[32:], b"x")


@pytest.mark.parametrize(
    "recipe",
    [
        make.recipe(count=1),
        make.recipe(count=2),
        make.recipe(count=31, sizes=(1, 30)),
        make.recipe(count=33, others=[make.chain_of("globex", 3), make.chain_of("initech", 4)]),
        make.recipe(count=20).but(first_seq=1, last_seq=1),
        make.recipe(count=20, sizes=(13,)).but(first_seq=7, last_seq=13),
        make.recipe(count=20).but(first_seq=20),
        make.recipe(count=20).but(include_trace=False),
        make.recipe(tenant_id="a"),
    ],
)
def test_what_is_whole_is_ok_whatever_part_of_a_chain_it_is(recipe: make.Recipe, verify: Verify, root: str) -> None:
    verdict = verify(recipe.tar(), root)
    assert (verdict.status, verdict.text) == (0, "the bundle is whole")
    assert (verdict.facts["first_seq"], verdict.facts["last_seq"]) == (recipe.first_seq, recipe.last)


def test_trees_are_those_of_the_recursive_definition() -> None:
    for size in range(40):
        leaves = [hashlib.sha256(bytes([at])).digest() for at in range(size)]
        tree = verifier.Tree()
        for leaf in leaves:
            tree.append(leaf)
        assert tree.root() == make.tree_root(leaves)
        for first in range(size):
            levels = verifier.cover_levels(first, size)
            assert levels == [level for level, _ in make.subtrees(leaves, first, size)]
            path = make.path(first, leaves)
            assert verifier.root_from(leaves[first], first, size, path) == tree.root()
            assert verifier.root_from(leaves[first], first, size, [*path, leaves[0]]) is None
            assert not path or verifier.root_from(leaves[first], first, size, path[:-1]) is None


def test_an_entry_has_one_form() -> None:
    [entry] = make.chain_of("acme", 1).entries
    escaped = make.canonical(
        {**json.loads(entry), "request_id": '\x00\b\x1f"\\/é\u2028\U0001f600\x7f', "break_glass": "x"}
    )
    assert verifier.entry_in(entry) is not None
    assert verifier.entry_in(escaped) is not None
    others = (
        entry.replace(b'":"', b'": "', 1),
        entry.replace(b"\\u00", b"\\u0a"),
        entry[:-1] + b',"z":1}',
        entry.replace(b'"v":1', b'"v":01'),
        entry.replace(b'"v":1', b'"v":1e0'),
        entry.replace(b'"e-1"', b'"e\x01"'),
        entry.replace(b'"e-1"', b'"e\xff"'),
        entry.replace(b'"e-1"', rb'"\u0065"'),
        entry.replace(b'"e-1"', rb'"\/"'),
        entry.replace(b'"e-1"', rb'"\u001F"'),
        entry.replace(b'"e-1"', b'"\xed\xa0\x80"'),
        json.dumps(json.loads(entry)).encode(),
    )
    assert [other for other in others[:1] + others[2:] if verifier.entry_in(other) is not None] == []


def taken_at_once(*lines: bytes, last_seq: int = 9) -> bool:
    return verifier.Chain("acme", 1, verifier.Tree()).take_all(lines, last_seq) is not None


def test_entries_are_taken_at_once_only_where_each_of_them_would_be(seed: str) -> None:
    choose, lines = random.Random(seed), make.chain_of("acme", 5, plain=True).entries
    assert taken_at_once(*lines)
    assert not taken_at_once(*lines, last_seq=4)
    assert not taken_at_once(*lines[1:])
    assert not taken_at_once(*lines, lines[-1])
    for number in range(3_000):
        changed = list(lines)
        at = choose.randrange(len(lines))
        data = bytearray(changed[at])
        place, how = choose.randrange(len(data)), choose.randrange(4)
        if how == 0:
            data[place] ^= 1 << choose.randrange(8)
        elif how == 1:
            data.insert(place, choose.randrange(256))
        elif how == 2:
            del data[place : place + choose.randrange(1, 9)]
        else:
            data[place:place] = choose.choice((b"\n", b'"', b'",', b"\n{", rb"\u0061"))
        changed[at] = bytes(data)
        if b"\n" in changed[at]:
            changed[at : at + 1] = changed[at].split(b"\n")
        chain = verifier.Chain("acme", 1, verifier.Tree())
        try:
            for line in changed:
                chain.take(line)
            chain.end()
        except verifier.FaultError:
            assert not taken_at_once(*changed), (seed, number)
        else:
            # Of the last entry nothing but its form is known yet.
            assert at == len(lines) - 1, (seed, number)


def test_entries_taken_at_once_make_the_same_tree() -> None:
    made = make.chain_of("acme", 40, plain=True)
    lines, hashes = made.entries, made.hashes
    one_by_one, at_once = (verifier.Chain("acme", 1, verifier.Tree()) for _ in range(2))
    for first, end in ((0, 1), (1, 4), (4, 11), (11, 12), (12, 40)):
        for line in lines[first:end]:
            one_by_one.take(line)
        bound = verifier.Bound.of([verifier.entry_in(line) for line in lines[first:end]])
        assert [*at_once.take_all(lines[first:end], 40)] == [tuple(column) for column in bound]
        assert at_once.tree.root() == one_by_one.tree.root() == make.tree_root(hashes[:end])
        assert (at_once.seq, at_once.heads, at_once.newest) == (one_by_one.seq, one_by_one.heads, one_by_one.newest)


def test_without_the_root_the_verdict_says_so(bundle: Path, root: str) -> None:
    alone, pinned = run(bundle), run(bundle, "--root", root)
    assert (alone.returncode, pinned.returncode) == (0, 0)
    assert "root not pinned" in alone.stdout
    assert root in alone.stdout
    assert "root not pinned" not in pinned.stdout
    told = json.loads(run(bundle, "--json").stdout)
    assert (told["status"], told["verdict"], told["root_pinned"]) == (0, "ok", False)
    assert (told["tenant_id"], told["witnessed_size"], told["first_bad_seq"]) == ("acme", 12, None)


def test_the_tenant_keys_fingerprint_is_always_said_and_another_one_is_a_fork(bundle: Path, root: str) -> None:
    fingerprint = hashlib.sha256(make.tenant_key("acme")).hexdigest()
    alone, pinned = run(bundle, "--root", root), run(bundle, "--root", root, "--tenant-key", fingerprint)
    assert (alone.returncode, "tenant key not pinned" in alone.stdout, fingerprint in alone.stdout) == (0, True, True)
    assert (pinned.returncode, "not pinned" in pinned.stdout, fingerprint in pinned.stdout) == (0, False, True)
    other = run(bundle, "--tenant-key", root, "--json")
    told = json.loads(other.stdout)
    assert (other.returncode, told["verdict"], told["tenant_key_pinned"]) == (3, "forked", True)
    assert told["tenant_key_sha256"] == fingerprint


def test_the_key_itself_is_no_fingerprint(verify: Verify, root: str) -> None:
    """Otherwise one pin would fit two keys: the one it is the hash of, and the one it is."""
    key = make.tenant_key("acme").hex()
    assert verify(make.recipe(count=1).tar(), root, key).status == 3


def test_a_newer_key_ring_of_the_same_root_judges_and_an_older_one_does_not(
    tmp_path: Path, bundle: Path, root: str
) -> None:
    ended = (make.RingKey(make.SIGNER, not_after=make.moment(3)), *make.RING[1:])
    rings = {"older": make.keyring(keys=ended, version=1), "newer": make.keyring(keys=ended, version=3)}
    rings["other root"] = make.keyring(make.OTHER_ROOT, version=9)
    for name, data in rings.items():
        (tmp_path / name).write_bytes(data)
    older = run(bundle, "--root", root, "--keyring", tmp_path / "older")
    assert (older.returncode, "key ring version 2 of 2025-06-01T00:00:00.000Z\n" in older.stdout) == (0, True)
    newer = run(bundle, "--root", root, "--keyring", tmp_path / "newer")
    assert (newer.returncode, "key ring version 3 of" in newer.stdout) == (5, True)
    assert run(bundle, "--keyring", tmp_path / "other root").returncode == 5
    assert run(bundle, "--root", root, "--keyring", tmp_path / "none").returncode == 69
    told = json.loads(run(bundle, "--json").stdout)
    assert (told["keyring_version"], told["keyring_created_at"]) == (2, make.KEY_BEGIN)


@pytest.mark.parametrize(
    ("ingest_ts", "status"),
    [
        (make.moment(1), 0),
        (make.moment(86_400), 0),
        (make.moment(86_400 + 301), 1),
        ("2026-02-30T00:00:00.000Z", 1),
        ("2025-02-29T00:00:00.000Z", 1),
        ("2026-01-01T24:00:00.000Z", 1),
        ("2026-01-01T00:00:00Z", 1),
        ("2026-01-01T00:00:00.000+00:00", 1),
        ("", 1),
    ],
)
def test_every_entry_came_at_a_moment_before_the_bundle_was_made(ingest_ts: str, status: int, verify: Verify) -> None:
    chain = make.chain_of("acme", 3).grown(ingest_ts=ingest_ts).grown()
    verdict = verify(make.Recipe(chain, make.lines_of(chain)).tar(), None)
    assert (verdict.status, verdict.seq) == (status, 4 if status else None)


def test_a_keys_end_is_held_against_the_newest_entry_and_not_the_last(verify: Verify) -> None:
    """Up to each checkpoint as well: one signed before a later entry came stays good."""
    chain = make.chain_of("acme", 4).grown(ingest_ts=make.moment(-86_400)).grown(ingest_ts=make.moment(1))
    rounds = make.rounds_of(chain, (), (3, 5), key=make.OLD)
    rounds.append(make.next_round(rounds, (make.leaf_of(chain, 6),), 7))
    lines = tuple(
        make.checkpoint_line(one, make.leaf_of(chain, size)) for one, size in zip(rounds, (3, 5, 6), strict=True)
    )

    def judged(ends_s: float) -> str:
        old = make.RingKey(make.OLD, not_after=make.moment(ends_s))
        ring = make.keyring(keys=(*make.RING[:2], old))
        return str(verify(make.Recipe(chain, lines, keyring=ring).tar(), None).text)

    assert judged(4) == "the bundle is whole"
    assert judged(3) == "the checkpoint of 5 entries is signed outside of its key's time"
    assert judged(2) == "the checkpoint of 3 entries is signed outside of its key's time"


def test_every_verdict_has_its_status_and_names_the_first_bad_entry(tmp_path: Path, root: str) -> None:
    made = make.recipe(sizes=(5,))
    members = made.members()
    other = make.recipe(note="another story").but(checkpoints=made.checkpoints)
    cases = {
        "tampered": (make.archive({**members, "entries.jsonl": members["entries.jsonl"].replace(b"e-7", b"e-8")}), 7),
        "truncated": (make.archive({**members, "entries.jsonl": make.joined(made.chain.entries[:9])}), 10),
        "forked": (other.tar(), 5),
        "bad signature": (
            make.archive({**members, "manifest.json": members["manifest.json"].replace(b'"ey', b'"ez')}),
            None,
        ),
        "unknown key": (made.but(signer=make.STRANGER).tar(), None),
        "malformed": (b"a letter, not a bundle" * 40, None),
    }
    for status, (verdict, (data, seq)) in enumerate(cases.items(), 1):
        file = tmp_path / f"{status}.tar"
        file.write_bytes(data)
        answer = run(file, "--root", root, "--json")
        told = json.loads(answer.stdout)
        assert (answer.returncode, told["status"], told["verdict"]) == (status, status, verdict)
        assert told["first_bad_seq"] == seq
        assert answer.stderr == ""
        said = run(file, "--root", root).stdout
        assert said.startswith(f"{verdict}: ")
        assert seq is None or f"entry {seq}" in said


def test_no_misuse_has_the_status_of_a_verdict(tmp_path: Path, bundle: Path) -> None:
    for words in (
        (),
        (bundle, "--dsn", "postgres://x"),
        (bundle, "--root", "ab"),
        (bundle, "--tenant", "a"),
        (bundle, "--tenant-key", "ab"),
        ("--dsn", "postgres://x", "--tenant-key", "0" * 64),
        ("--dsn", "postgres://x", "--root", "0" * 64),
        (bundle, "--worm", "x"),
        ("--no",),
    ):
        answer = run(*words)
        assert (answer.returncode, answer.stdout) == (64, "")
        assert "usage" in answer.stderr
    missing = run(tmp_path / "none.tar")
    assert (missing.returncode, missing.stdout) == (69, "")
    assert "cannot be read" in missing.stderr
    assert "Traceback" not in missing.stderr
    helped = run("--help")
    assert helped.returncode == 0
    assert "4 bad signature" in " ".join(helped.stdout.split())


def test_a_database_needs_asyncpg_and_the_answer_says_so() -> None:
    answer = run("--dsn", "postgresql://nobody:secret@127.0.0.1:1/none")
    assert answer.returncode == 69
    assert "pip install asyncpg" in answer.stderr
    assert "secret" not in answer.stderr


def test_nothing_is_imported_but_the_standard_library() -> None:
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in found.stderr.splitlines()}
    assert loaded - {"imported package", "__main__"} <= set(sys.stdlib_module_names) | {"encodings", "site"}
    assert {"tarfile", "asyncpg", "cryptography"} & loaded == set()


def test_a_key_rotation_counts_only_with_both_of_its_keys(verify: Verify) -> None:
    made = make.recipe()
    assert verify(made.but(keyring=make.keyring(keys=make.RING[:2])).tar(), None).status == 5
    spoiled = json.loads(base64.b64decode(json.loads(make.keyring())["payload"]))
    rotation = json.loads(spoiled["rotations"][0])
    rotation["signatures"][0]["sig"], rotation["signatures"][1]["sig"] = (
        rotation["signatures"][1]["sig"],
        rotation["signatures"][0]["sig"],
    )
    spoiled["rotations"] = [make.canonical(rotation).decode()]
    ring = make.envelope(make.KEYRING_TYPE, make.canonical(spoiled), (make.ROOT,))
    assert verify(made.but(keyring=ring).tar(), None).status == 4


def test_a_witness_outside_of_its_time_has_seen_nothing(verify: Verify) -> None:
    late = (make.RING[0], make.RingKey(make.WITNESS, "witness", make.moment(10_000)), make.RING[2])
    assert verify(make.recipe().tar(), None).facts["witnessed_size"] == 12
    assert verify(make.recipe().but(keyring=make.keyring(keys=late)).tar(), None).facts["witnessed_size"] == 0


def test_the_script_is_one_that_can_be_run() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert SCRIPT.read_text().startswith("#!/usr/bin/env python3\n")


def _record(choose: random.Random) -> bytes:
    """A record with spans, or what looks like them, in it, before it and after it."""
    words = ("", "", "", "", "", "}]", "]", "{", '","spans":[{', '"', '"}]', "\\", '}],"t":"')
    begin = choose.choice((1, 10**14, 10**15, 10**15, 10**15, 9 * 10**15, 10**16))

    def spans() -> list[dict[str, object]]:
        span = {"parent_span_id": "", "span_id": ""}
        starts = [begin + at for at in range(choose.randrange(4))]
        return [
            {**span, "name": choose.choice(words), "start_us": at, "end_us": at + choose.randrange(99)} for at in starts
        ]

    def value() -> object:
        nested = {"b": choose.choice(words), "spans": spans(), "t": choose.choice(words)}
        kept = {name: nested[name] for name in nested if choose.random() < 0.6}
        return choose.choice((choose.choice(words), choose.randrange(99), kept, [kept], spans(), [], {}))

    record = {name: value() for name in choose.sample(("a", "b", "t", "v"), choose.randrange(4))}
    return make.canonical({**record, "spans": spans()} if choose.random() < 0.7 else record)


def test_spans_are_cut_out_only_where_they_are_those_that_a_parser_finds(seed: str) -> None:
    choose, cut = random.Random(seed), 0
    for number in range(10_000):
        artifacts = [_record(choose) for _ in range(choose.randrange(1, 3))]
        bound = verifier.Bound(*([b"%d" % at for at in range(len(artifacts))] for _ in range(5)))
        at_once, one_by_one = verifier.Spans(), verifier.Spans()
        lines = at_once.take_all(bound, artifacts)
        if lines is None:
            assert (at_once.count, at_once.first, at_once.last) == (0, None, None)
            continue
        cut += 1
        parsed = [one_by_one.take(bound.part(at, at + 1), artifact) for at, artifact in enumerate(artifacts)]
        assert lines == parsed, (seed, number)
        assert at_once.bundle() == one_by_one.bundle(), (seed, number)
    assert cut > 200
