"""Files made to hurt whoever reads them: each has a verdict, without a traceback and in bounded memory."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.evidence import bundle_maker as make
from tests.evidence.conftest import Verify
from tests.evidence.loading import SCRIPT

MEMORY_BYTES_MAX = 160 * 1024 * 1024
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""A program under a limit of its memory: LIMIT PROGRAM ARGUMENT..."""
BLOCK = 512


def checksummed(header: bytes) -> bytes:
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def put(header: bytes, at: int, data: bytes) -> bytes:
    return checksummed(header[:at] + data + header[at + len(data) :])


ENTRIES = make.header("entries.jsonl", 0)
MEMBERS = make.recipe().members()


def _frames() -> Iterator[tuple[str, bytes, int]]:
    yield "nothing", b"", 2
    yield "one letter", b"x", 6
    yield "zeros", bytes(1024), 6
    yield "another file", b"PK\x03\x04" + bytes(2000), 6
    yield "a size of 8 GiB", put(ENTRIES, 124, b"77777777777\0"), 2
    yield "a size in base 256", put(ENTRIES, 124, b"\x80" + b"\0" * 10 + b"\x01"), 6
    yield "a negative size", put(ENTRIES, 124, b"\xff" * 12), 6
    yield "a signed size", put(ENTRIES, 124, b"-0000000001\0"), 6
    yield "a size without an end", put(ENTRIES, 124, b"000000000001"), 6
    yield "a key ring of 8 GiB", _only("keyring.json", b"77777777777\0"), 2
    yield "a path that climbs", put(ENTRIES, 0, b"../../../etc/passwd\0"), 6
    yield "a path in the prefix", put(ENTRIES, 345, b"/etc"), 6
    yield "control characters", put(ENTRIES, 0, b"\x1b]0;owned\x07\x1b[2J.jsonl\0"), 6
    yield "a name that is no text", put(ENTRIES, 0, b"\xff\xfe"), 6
    yield "a name after its end", put(ENTRIES, 20, b"x"), 6
    for kind in b"123456LKxgS":
        yield f"a member of type {chr(kind)}", put(ENTRIES, 156, bytes([kind])), 6
    yield "a symbolic link", put(put(ENTRIES, 156, b"2"), 157, b"/etc/passwd"), 6
    yield "a link's name on a file", put(ENTRIES, 157, b"/etc/passwd"), 6
    yield "a file that others may write", put(ENTRIES, 100, b"0000666\0"), 6
    yield "a wrong checksum", ENTRIES[:148] + b"000000\0 " + ENTRIES[156:], 6
    for at, what in ((265, "owner"), (297, "group"), (329, "device"), (337, "minor device"), (500, "padding")):
        yield f"a header with something as its {what}", put(ENTRIES, at, b"x"), 6
    yield "a size with another end", put(ENTRIES, 135, b" "), 6
    yield "a time in base 256", put(ENTRIES, 136, b"\x80"), 6
    yield "old magic", put(ENTRIES, 257, b"ustar  \0"), 6
    yield "the same member for ever", ENTRIES * 4000, 6
    yield "something after the end", make.archive(MEMBERS) + b"\0" * BLOCK, 6


def _only(name: str, size: bytes) -> bytes:
    members = dict(list(MEMBERS.items())[: list(MEMBERS).index(name)])
    return make.archive(members)[: -2 * BLOCK] + put(make.header(name, 0), 124, size)


def _signed(payload: bytes) -> bytes:
    return make.envelope(make.MANIFEST_TYPE, payload, (make.SIGNER,))


def _of(name: str, data: bytes) -> bytes:
    """The member is this, and a manifest is signed over it."""
    return make.recipe().but(edits=((name, lambda _: data),)).tar()


DEEP = b"[" * 500_000 + b"]" * 500_000
BOMBS = {
    "deep": DEEP,
    "deep object": b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
    "not a number": b"NaN}",
    "infinity": b'{"size":Infinity}',
    "a huge integer": b'{"size":' + b"9" * 100_000 + b"}",
    "a float": b'{"size":1e999}',
    "invalid UTF-8": b'{"size":"\xff"}',
    "a lone surrogate": rb'{"size":"\ud800"}',
    "a null byte": b"\0}",
    "many members": make.canonical({f"{at:06d}": at for at in range(60_000)}),
    "many lists": b"[" + b"[]," * 300_000 + b"[]]",
    "two of a name": b'{"size":1,"size":2}',
    "no object": b'"}',
}


def _documents() -> Iterator[tuple[str, bytes, int]]:
    for name, bomb in BOMBS.items():
        closed = bomb if bomb.endswith(b"}") else b'{"a":' + bomb + b"}"
        yield f"key ring: {name}", make.archive({**MEMBERS, "keyring.json": closed}), 4
        yield f"manifest: {name}", make.archive({**MEMBERS, "manifest.json": closed}), 4
        yield f"signed manifest: {name}", make.archive({**MEMBERS, "manifest.json": _signed(bomb[:600_000])}), 6
        yield f"signed proof: {name}", _of("proof.json", closed), 6
        yield f"signed checkpoints: {name}", _of("checkpoints.jsonl", bomb + b"\n"), 6
        yield f"entries: {name}", make.archive({**MEMBERS, "entries.jsonl": bomb + b"\n"}), 1
        yield f"signed note: {name}", _of("head.note", bomb + b"\n"), 6
    root = base64.b64encode(make.ROOT.public).decode()
    ring = make.canonical({"root_public_key": root, "keys": [[[[[]]]]]})
    yield (
        "a key ring of nonsense",
        make.archive({**MEMBERS, "keyring.json": make.envelope(make.KEYRING_TYPE, ring, (make.ROOT,))}),
        6,
    )
    yield "a line without an end", make.archive({**MEMBERS, "entries.jsonl": b"x" * 9_000_000 + b"\n"}), 1
    yield "an entry after a line without an end", _more("entries.jsonl", b"x" * 9_000_000 + b"\n"), 1
    yield "an artifact without an end", _more("artifacts.jsonl", b"x" * 9_000_000 + b"\n"), 1
    yield "a trace without an end", _more("traces.jsonl", b"x" * 9_000_000 + b"\n"), 1
    yield (
        "signed artifact without an end",
        _of("artifacts.jsonl", MEMBERS["artifacts.jsonl"] + b"x" * 9_000_000 + b"\n"),
        6,
    )
    for name, status in (("proof.json", 1), ("head.note", 1), ("keyring.json", 4), ("manifest.json", 4)):
        end = b"}" if name.endswith(".json") else b"\n"
        yield f"a {name} of 2 MiB", make.archive({**MEMBERS, name: b"x" * 2_000_000 + end}), status
    yield "signed proof of 2 MiB", _of("proof.json", b"x" * 2_000_000 + b"}"), 6
    yield "a hundred thousand lines", make.archive({**MEMBERS, "entries.jsonl": b"\n" * 100_000}), 1
    yield "a hundred thousand checkpoints", _of("checkpoints.jsonl", b"{}\n" * 100_000), 6
    yield "a signature for every key", _of("head.note", MEMBERS["head.note"] * 500), 6
    yield from _promises()
    yield from _escapes()


def _more(name: str, data: bytes) -> bytes:
    return make.archive({**MEMBERS, name: MEMBERS[name] + data})


def _promises() -> Iterator[tuple[str, bytes, int]]:
    """A manifest that promises so many entries that any number of checkpoints would fit them."""
    many = (("last_seq", 10**15), ("tree_size", 10**15))
    recipe = make.recipe()
    [line] = recipe.checkpoints
    note = json.loads(line)["note"]
    unknown = [f"\N{EM DASH} witness-{number}+00000000 AAAAAAAAAAA=\n" for number in range(20_000)]
    signed = make.canonical({**json.loads(line), "note": note + "".join(unknown)})
    for name, lines in (("checkpoints", (line,) * 24_000), ("signatures", (signed,) * 16)):
        yield f"room for many {name}", recipe.but(checkpoints=lines, claims=many).tar(), 2
    yield "many signatures", recipe.but(checkpoints=(signed,)).tar(), 6
    yield "more signatures than a note has", _of("head.note", MEMBERS["head.note"] + "".join(unknown[:40]).encode()), 6


def _escapes() -> Iterator[tuple[str, bytes, int]]:
    """Texts of nothing but escapes: a pattern that matches them remembers each one."""
    entry = make.chain_of("acme", 1).entries[0].replace(b'"e-1"', b'"' + b"\\n" * 2_000_000 + b'"')
    yield "an entry of escapes", make.archive({**MEMBERS, "entries.jsonl": entry + b"\n"}), 1
    name = b"\\n" * 2_000_000
    span = b'{"end_us":1,"name":"' + name + b'","parent_span_id":"","span_id":"","start_us":1}'
    for what, spans in (
        ("escapes", span),
        ("lists", b"[],"[:2] + b",[]" * 1_300_000),
        ("objects", b"{}" + b",{}" * 1_300_000),
    ):
        artifact = b'{"spans":[' + spans + b"]}"
        yield f"an artifact of {what}", _with_artifact(artifact), 1
        yield f"signed artifact of {what}", _with_artifact(artifact, signed=True), 6


@pytest.mark.parametrize(
    "span",
    [
        b'{"start_us":1}',
        b'{"abcde":1234567890123456}',
        b'{"start_us":1234567890123456}',
        b'{"end_us":1234567890123456}',
        b'{"end_us":x,"start_us":1}',
        b'{"end_us":1,"start_us":1x}',
        b'{"end_us":1,"start_us":' + b"9" * 100_000 + b"}",
    ],
)
def test_spans_that_are_none_are_malformed_where_they_were_signed_and_altered_where_not(
    span: bytes, verify: Verify
) -> None:
    artifact = b'{"event_id":"e-1","spans":[' + span + b"]}"
    assert verify(_with_artifact(artifact, signed=True), None).status == 6
    altered = verify(_with_artifact(artifact), None)
    assert (altered.status, altered.seq) == (1, 1)


def test_spans_count_only_where_they_are_the_artifacts_own(verify: Verify) -> None:
    span = b'{"end_us":1,"start_us":1}'
    for record in (b'{"a":"b,","x\\"spans":[%b]}', b'{"a":{"b":1,"spans":[%b]}}', b'{"a":1,"spans":[],"spans_":[%b]}'):
        assert verify(_with_artifact(record % span), None).text == "artifacts.jsonl is not what the manifest says"


def _with_artifact(artifact: bytes, *, signed: bool = False) -> bytes:
    """A chain of one entry, well linked, with this artifact; the manifest was signed over it, or over another."""
    prev_hash = make.Chain("acme").prev_hash
    entry = make.canonical(make.entry_of("acme", 1, prev_hash, artifact))
    chain = make.Chain("acme", (entry,), (make.sha256(b"\x00" + entry),), (b"{}",))
    [this] = make.rounds_of(chain, (), (1,))
    made = make.Recipe(chain, (make.checkpoint_line(this, make.leaf_of(chain, 1)),), include_trace=False)
    if signed:
        return made.but(edits=(("artifacts.jsonl", lambda _: artifact + b"\n"),)).tar()
    return make.archive({**made.members(), "artifacts.jsonl": artifact + b"\n"})


CASES = [*_frames(), *_documents()]


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_every_hostile_file_has_its_verdict(data: bytes, status: int, verify: Verify) -> None:
    verdict = verify(data, None)
    assert verdict.status == status, verdict
    assert verdict.text.isascii()
    assert verdict.text.isprintable()


_IN_BOUNDS = """
import importlib.util, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
spec = importlib.util.spec_from_file_location("verifier", sys.argv[1])
verifier = sys.modules["verifier"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verifier)
for name in sys.stdin.read().splitlines():
    with open(name, "rb") as file:
        verdict = verifier.verify_file(file)
    print(verdict.status, verdict.text)
"""


def test_every_hostile_file_is_judged_in_bounded_memory(tmp_path: Path) -> None:
    """In one process after the other file, with less address space than the page promises memory."""
    for number, (_, data, _) in enumerate(CASES):
        (tmp_path / f"{number}.tar").write_bytes(data)
    names = "\n".join(str(tmp_path / f"{number}.tar") for number in range(len(CASES)))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _IN_BOUNDS, SCRIPT, str(MEMORY_BYTES_MAX)],
        input=names, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found = [line.partition(" ") for line in done.stdout.splitlines()]
    wrong = [
        (name, status, text)
        for (name, _, expected), (status, _, text) in zip(CASES, found, strict=True)
        if status != str(expected) or text == "more than a bundle holds"
    ]
    assert wrong == []


def _many_entries() -> bytes:
    return _more("entries.jsonl", b"x" * 60_000_000 + b"\n")


@pytest.mark.parametrize(
    ("make_it", "status"),
    [
        (lambda: _with_artifact(b'{"spans":' + b"[" * 1_900_000 + b"]" * 1_900_000 + b"}", signed=True), 6),
        (_many_entries, 1),
        (lambda: _of("proof.json", b'{"a":' + DEEP[250_000:-250_000] + b"}"), 6),
    ],
)
def test_the_command_answers_in_bounded_memory(make_it: Callable[[], bytes], status: int, tmp_path: Path) -> None:
    file = tmp_path / "hostile.tar"
    file.write_bytes(make_it())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LIMITED, str(MEMORY_BYTES_MAX), sys.executable, "-I", "-S", SCRIPT, file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert "more than a bundle holds" not in done.stdout


def test_control_characters_of_a_file_never_reach_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "hostile.tar"
    file.write_bytes(put(ENTRIES, 0, b"\x1b]0;owned\x07\x1b[2J.jsonl\0"))
    for words in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-I", "-S", SCRIPT, file, *words], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 6
        assert done.stdout.replace(b"\n", b"").decode("ascii").isprintable()
