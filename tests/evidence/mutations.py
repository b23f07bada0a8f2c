"""Random changes to bundles, each with the statuses that the verifier may answer it with.

What is expected is worked out here from the change alone, as docs/evidence.md says it, and is as narrow as that.
An outsider changes the file. An insider has the signing key as well, and makes everything that needs only that key.
"""

import base64
import json
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tests.evidence import bundle_maker as make
from tests.evidence.bundle_maker import Recipe

OK, TAMPERED, TRUNCATED, FORKED, BAD_SIGNATURE, UNKNOWN_KEY, MALFORMED = range(7)
COUNT = 12
SIZES = (5, COUNT)
BLOCK = 512
LINES = ("entries.jsonl", "artifacts.jsonl", "traces.jsonl", "checkpoints.jsonl")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
WHOLE_FILE = frozenset({"keyring.json", "manifest.json"})


class Mutation(NamedTuple):
    """A changed bundle. `seqs` are the first bad sequences it may be answered with, empty where none is promised.

    With `pinned` the root is known from elsewhere, and a tenant key's fingerprint and a key ring where they are given.
    """

    name: str
    data: bytes
    statuses: frozenset[int]
    seqs: frozenset[int] = frozenset()
    pinned: bool = True
    tenant_key: str | None = None
    ring: bytes = b""


class Sample(NamedTuple):
    """A correct bundle and what there is to change in it."""

    recipe: Recipe
    members: dict[str, bytes]
    tar: bytes


def _others() -> tuple[make.Chain, ...]:
    return tuple(make.chain_of(f"other-{number}", 6) for number in range(3))


@lru_cache
def samples() -> tuple[Sample, ...]:
    """A whole chain, one without traces, and a part of a longer one; and the same of a plain one."""
    found = []
    for plain in (False, True):
        whole = make.recipe("acme", COUNT, sizes=SIZES, others=_others(), plain=plain)
        found += [whole, whole.but(include_trace=False), whole.but(first_seq=4, last_seq=9)]
    return tuple(Sample(one, one.members(), one.tar()) for one in found)


@lru_cache
def foreign() -> tuple[Sample, ...]:
    """Another tenant's bundle, and an older one of the same tenant."""
    globex = make.recipe("globex", COUNT, sizes=SIZES, others=_others())
    older = make.recipe("acme", 9, sizes=(5,), others=_others())
    return tuple(Sample(one, one.members(), one.tar()) for one in (globex, older))


# --- What an outsider can do to one member ---


def _ends_early(name: str, data: bytes) -> bool:
    if not data:
        return not name.endswith(".jsonl")
    return data[-1:] != (b"}" if name.endswith(".json") else b"\n")


def expected(name: str, data: bytes, original: bytes) -> frozenset[int]:
    """The statuses for a bundle in which only this member is another one."""
    if data == original:
        return frozenset({OK})
    if _ends_early(name, data):
        return frozenset({TRUNCATED})
    if name in WHOLE_FILE:
        return frozenset({BAD_SIGNATURE, UNKNOWN_KEY})
    cut = name == "entries.jsonl" and original.startswith(data)
    return frozenset({TRUNCATED if cut else TAMPERED})


def _replaced(what: str, sample: Sample, name: str, data: bytes, seqs: frozenset[int] = frozenset()) -> Mutation:
    tar = make.archive({**sample.members, name: data})
    return Mutation(f"{what} {name}", tar, expected(name, data, sample.members[name]), seqs)


def _seqs_around(sample: Sample, name: str, data: bytes) -> frozenset[int]:
    """The line in which the first difference lies. A last entry's bad link may be the fault of the one before it."""
    original = sample.members[name]
    if name not in LINES[:3] or _ends_early(name, data):
        return frozenset()
    at = next((at for at, (a, b) in enumerate(zip(data, original, strict=False)) if a != b), None)
    at = min(len(data), len(original)) if at is None else at
    seq = sample.recipe.first_seq + original.count(b"\n", 0, at)
    near = {seq - 1, seq} if name == "entries.jsonl" and seq >= sample.recipe.last else {seq}
    return frozenset(near | ({seq - 1} if at and original[at - 1 : at] == b"\n" else set()))


def flip(choose: random.Random, sample: Sample) -> Mutation:
    name = choose.choice(list(sample.members))
    data = bytearray(sample.members[name])
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return _replaced("flip", sample, name, bytes(data), _seqs_around(sample, name, bytes(data)))


def insert(choose: random.Random, sample: Sample) -> Mutation:
    name = choose.choice(list(sample.members))
    data, at = sample.members[name], choose.randrange(len(sample.members[name]) + 1)
    return _replaced("insert", sample, name, data[:at] + choose.randbytes(choose.randrange(1, 5)) + data[at:])


def delete(choose: random.Random, sample: Sample) -> Mutation:
    name = choose.choice(list(sample.members))
    data, at = sample.members[name], choose.randrange(len(sample.members[name]))
    return _replaced("delete", sample, name, data[:at] + data[at + choose.randrange(1, 40) :])


def truncate(choose: random.Random, sample: Sample) -> Mutation:
    name = choose.choice(list(sample.members))
    return _replaced("truncate", sample, name, sample.members[name][: choose.randrange(len(sample.members[name]))])


def shuffle(choose: random.Random, sample: Sample) -> Mutation:
    """Lines dropped, doubled, swapped, or put in from another bundle."""
    name = choose.choice([name for name in LINES if name in sample.members])
    lines = sample.members[name].splitlines(keepends=True)
    at, to = choose.randrange(len(lines)), choose.randrange(len(lines))
    how = choose.choice(("drop", "double", "swap", "splice"))
    if how == "drop":
        del lines[at]
    elif how == "double":
        lines.insert(at, lines[at])
    elif how == "swap":
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = foreign()[0].members[name].splitlines(keepends=True)[at]
    return _replaced(how, sample, name, b"".join(lines))


def cut_entries(choose: random.Random, sample: Sample) -> Mutation:
    lines = sample.members["entries.jsonl"].splitlines(keepends=True)
    kept = choose.randrange(len(lines))
    missing = frozenset({sample.recipe.first_seq + kept})
    return _replaced("cut", sample, "entries.jsonl", b"".join(lines[:kept]), missing)


def exchange(choose: random.Random, sample: Sample) -> Mutation:
    """A member of another bundle in place of this one's. Every bundle has the same key ring."""
    name = choose.choice([name for name in sample.members if name != "keyring.json"])
    other = choose.choice([one for one in (*foreign(), *samples()) if name in one.members])
    data = other.members[name]
    mutation = _replaced("exchange", sample, name, data)
    if name not in ("entries.jsonl", "manifest.json") or data == sample.members[name]:
        return mutation
    # Fewer entries than the manifest knows are a truncation, whichever of the two is another's.
    mine, theirs = sample.recipe, other.recipe
    same = mine.chain.tenant_id == theirs.chain.tenant_id and mine.first_seq == theirs.first_seq
    fewer = theirs.last > mine.last if name == "manifest.json" else theirs.last < mine.last
    return mutation._replace(statuses=frozenset({TRUNCATED if same and fewer else TAMPERED}))


# --- What an outsider can do to the archive ---


def cut_file(choose: random.Random, sample: Sample) -> Mutation:
    return Mutation("cut the file", sample.tar[: choose.randrange(len(sample.tar))], frozenset({TRUNCATED}))


def _frame(sample: Sample) -> list[int]:
    """The places of the archive that belong to no member."""
    places: list[int] = []
    at = 0
    for data in sample.members.values():
        places += range(at, at + BLOCK)
        end = at + BLOCK + len(data)
        at = end + -len(data) % BLOCK
        places += range(end, at)
    return [*places, *range(at, len(sample.tar))]


def flip_frame(choose: random.Random, sample: Sample) -> Mutation:
    data = bytearray(sample.tar)
    data[choose.choice(_frame(sample))] ^= 1 << choose.randrange(8)
    return Mutation("flip the frame", bytes(data), frozenset({MALFORMED}))


def shift_file(choose: random.Random, sample: Sample) -> Mutation:
    at = choose.randrange(len(sample.tar))
    if choose.random() < 0.5:
        data = sample.tar[:at] + choose.randbytes(1) + sample.tar[at:]
        return Mutation("insert into the file", data, frozenset({MALFORMED}))
    last = len(make.archive({})) + BLOCK + len(sample.members["manifest.json"]) // BLOCK * BLOCK + BLOCK
    in_last = at >= len(sample.tar) - last + BLOCK
    data = sample.tar[:at] + sample.tar[at + 1 :]
    return Mutation("delete from the file", data, frozenset({TRUNCATED, MALFORMED} if in_last else {MALFORMED}))


def rearrange(choose: random.Random, sample: Sample) -> Mutation:
    """Members left out, twice, in another order or under another name."""
    names = list(sample.members)
    at = choose.randrange(len(names))
    how = choose.choice(("leave out", "double", "swap", "rename", "foreign"))
    statuses = frozenset({MALFORMED})
    if how == "leave out":
        gone = names.pop(at)
        if gone == "traces.jsonl":
            statuses = frozenset({TAMPERED})
        elif at == len(names):
            statuses = frozenset({TRUNCATED})
    elif how == "double":
        names.insert(at, names[at])
    elif how == "swap":
        other = choose.choice([place for place in range(len(names)) if place != at])
        names[at], names[other] = names[other], names[at]
    else:
        renamed = choose.choice(("../etc/passwd", "/entries.jsonl", "entries.json", "manifest.json\n", "\x1b[31m"))
        names[at : at + (how == "rename")] = [renamed]
    members = [(name, sample.members.get(name, b"}")) for name in names]
    data = b"".join(make.archive({name: data})[: -2 * BLOCK] for name, data in members)
    return Mutation(f"{how} a member", data + b"\0" * 2 * BLOCK, statuses)


# --- What an insider can do ---


def rewrite_history(choose: random.Random, sample: Sample) -> Mutation:
    """Everything from one entry on is another story, well chained and signed. The checkpoints remember."""
    first = choose.randrange(1, COUNT + 1)
    chain = make.Chain("acme", *(part[: first - 1] for part in parts(sample)))
    while len(chain.entries) < COUNT:
        chain = chain.grown(f"rewritten {choose.random()}")
    return made("rewrite history", sample.recipe.but(chain=chain), {FORKED})


def parts(sample: Sample) -> tuple[tuple[bytes, ...], ...]:
    chain = sample.recipe.chain
    return chain.entries, chain.hashes, chain.artifacts


def cut_history(choose: random.Random, sample: Sample) -> Mutation:
    kept = choose.randrange(sample.recipe.first_seq, COUNT)
    chain = make.Chain("acme", *(part[:kept] for part in parts(sample)))
    last = min(sample.recipe.last, kept)
    # A checkpoint from after the part's end proves nothing here, unless the tree ends there.
    lost = [size for size in SIZES if size <= kept and size != kept and not sample.recipe.first_seq <= size <= last]
    status = TAMPERED if lost else TRUNCATED
    return made("cut history", sample.recipe.but(chain=chain, last_seq=last), {status})


def fork_entries(choose: random.Random, sample: Sample) -> Mutation:
    """Two entries for one place, both linked to the same one before; the signed manifest is of that."""
    recipe = sample.recipe
    seq = choose.randrange(recipe.first_seq, recipe.last + 1)
    before = make.Chain("acme", *(part[: seq - 1] for part in parts(sample)))
    sibling = before.grown(f"fork {choose.random()}")
    lines = {"entries.jsonl": sibling.entries[-1], "artifacts.jsonl": sibling.artifacts[-1]}
    at = seq - recipe.first_seq + choose.randrange(2)

    def beside(name: str) -> Callable[[bytes], bytes]:
        def edit(data: bytes) -> bytes:
            found = data.splitlines(keepends=True)
            return b"".join([*found[:at], lines[name] + b"\n", *found[at:]])

        return edit

    edits = tuple((name, beside(name)) for name in lines)
    return made("fork entries", recipe.but(edits=edits), {FORKED}, {seq})


def wrong_keys(choose: random.Random, sample: Sample) -> Mutation:
    """Signed by a key that the ring does not know, or whose time is over, wherever a signature is."""
    key = choose.choice((make.OLD, make.STRANGER))
    what = choose.choice(("manifest", "head", "checkpoints", "backdated", "witness"))
    recipe = sample.recipe
    if what == "manifest":
        changed = recipe.but(signer=key)
    elif what == "head":
        changed = recipe.but(head_signer=key)
    elif what == "backdated":
        changed = recipe.but(signer=key, head_signer=key, created_at="2024-06-01T00:00:00.000Z")
    elif what == "checkpoints":
        changed = recipe.but(checkpoints=_checkpoints(recipe, key))
    else:
        changed = recipe.but(signer=make.WITNESS)
    return made(f"wrong key: {what}", changed, {TAMPERED if what == "backdated" and key is make.OLD else UNKNOWN_KEY})


def _checkpoints(recipe: Recipe, key: make.Key) -> tuple[bytes, ...]:
    rounds = make.rounds_of(recipe.chain, (), SIZES, key=key)
    return tuple(
        make.checkpoint_line(this, make.leaf_of(recipe.chain, size)) for this, size in zip(rounds, SIZES, strict=True)
    )


def edit_checkpoints(choose: random.Random, sample: Sample) -> Mutation:
    """One thing in a checkpoint is another one, and the manifest is signed over it."""
    recipe = sample.recipe
    lines = [json.loads(line) for line in recipe.checkpoints]
    at = choose.randrange(len(lines))
    how = choose.choice(("swap notes", "root", "size", "name", "index", "path", "double", "signature", "cosignature"))
    statuses = {TAMPERED}
    if how == "swap notes":
        lines[0]["note"], lines[1]["note"] = lines[1]["note"], lines[0]["note"]
    elif how == "double":
        lines.insert(at, lines[at])
    elif how.endswith("signature"):
        lines[at]["note"] = _bad_signature(choose, lines[at]["note"], last=how == "cosignature")
        statuses = {BAD_SIGNATURE}
    elif how == "path":
        lines[at]["path"][choose.randrange(len(lines[at]["path"]))] = choose.randbytes(32).hex()
    elif how == "index":
        lines[at]["index"] = choose.choice([place for place in range(9) if place != lines[at]["index"]])
    elif how == "size":
        lines[at]["leaf"]["size"] += choose.randrange(1, 9)
    else:
        lines[at]["leaf"][how] = choose.randbytes(32).hex()
    return made(f"checkpoint: {how}", recipe.but(checkpoints=tuple(map(make.canonical, lines))), statuses)


def _bad_signature(choose: random.Random, note: str, *, last: bool) -> str:
    """The note with one bit of the key hash's signature changed: of the last line, or of the one before."""
    lines = note.split("\n")
    at = -2 if last else -3
    dash, name, encoded = lines[at].split(" ")
    blob = bytearray(base64.b64decode(encoded))
    blob[choose.randrange(4, len(blob))] ^= 1 << choose.randrange(8)
    lines[at] = f"{dash} {name} {base64.b64encode(bytes(blob)).decode()}"
    return "\n".join(lines)


def edit_claims(choose: random.Random, sample: Sample) -> Mutation:
    """The signed manifest says something else than what is in the bundle."""
    last, size = sample.recipe.last, COUNT
    bundle = {"first_span_at": "", "last_span_at": "", "span_count": 0, "spans_sha256": "0" * 64}
    cases: Sequence[tuple[tuple[tuple[str, Any], ...], int]] = (
        ((("tenant_id", "globex"),), TAMPERED),
        ((("tenant_key", choose.randbytes(32).hex()),), TAMPERED),
        ((("partition", choose.randrange(8, 64)),), TAMPERED),
        ((("include_trace", not sample.recipe.include_trace),), TAMPERED),
        ((("first_seq", sample.recipe.first_seq + 1),), TAMPERED),
        ((("last_seq", last - 1),), TAMPERED),
        ((("tree_size", size + choose.randrange(1, 9)),), TAMPERED),
        ((("last_seq", last + 1), ("tree_size", size + 1)), TRUNCATED),
        ((("trace_bundle", bundle),), TAMPERED),
        ((("extra", 1),), MALFORMED),
        ((("last_seq", "7"),), MALFORMED),
        ((("created_at", "yesterday"),), MALFORMED),
        ((("created_at", "2024-06-01T00:00:00.000Z"),), UNKNOWN_KEY),
        ((("created_at", "2030-06-01T00:00:00.000Z"),), OK),
    )
    claims, status = choose.choice(cases)
    return made(f"claim {claims[0][0]}", sample.recipe.but(claims=claims), {status})


def edit_members(choose: random.Random, sample: Sample) -> Mutation:
    """A member is another one, and the manifest is signed over it."""
    recipe = sample.recipe
    older = make.recipe("acme", 9)
    seq = choose.randrange(recipe.first_seq, recipe.last + 1)
    cases: list[tuple[str, Callable[[bytes], bytes], int, set[int]]] = [
        ("head.note", lambda _: older.members()["head.note"], TAMPERED, set()),
        ("head.note", lambda data: data.replace(b"/main", b"/side"), BAD_SIGNATURE, set()),
        ("head.note", lambda _: _other_head(choose), TAMPERED, set()),
        ("head.note", lambda _: b"frostgate\n", MALFORMED, set()),
        ("head.note", lambda data: data + "\N{EM DASH} x+y AAAAAAAAAAA=\n".encode(), OK, set()),
        ("proof.json", lambda _: older.members()["proof.json"], TAMPERED, set()),
        ("proof.json", lambda _: b"{}", MALFORMED, set()),
        ("proof.json", lambda _: b'{"a":' * 90_000 + b"}", MALFORMED, set()),
        ("checkpoints.jsonl", lambda _: b"[]\n", MALFORMED, set()),
        ("checkpoints.jsonl", lambda data: data * 9, MALFORMED, set()),
        ("artifacts.jsonl", lambda data: _line(data, seq - recipe.first_seq, b'{"spans":[]}'), TAMPERED, {seq}),
        ("artifacts.jsonl", lambda data: data + b"{}\n", TAMPERED, set()),
        ("artifacts.jsonl", lambda data: data[: data[:-1].rindex(b"\n") + 1], TAMPERED, {recipe.last}),
    ]
    if recipe.include_trace:
        cases.append(("traces.jsonl", lambda data: _line(data, seq - recipe.first_seq, b"{}"), TAMPERED, {seq}))
        cases.append(("traces.jsonl", lambda data: data + b"{}\n", TAMPERED, set()))
    name, edit, status, seqs = choose.choice(cases)
    return made(f"signed {name}", recipe.but(edits=((name, edit),)), {status}, seqs)


def _other_head(choose: random.Random) -> bytes:
    return make.note("frostgate/tenant/acme/main", COUNT, choose.randbytes(32)).encode()


def _line(data: bytes, at: int, line: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    lines[at] = line + b"\n"
    return b"".join(lines)


def wear_a_name(choose: random.Random, sample: Sample) -> Mutation:
    """A part of another tenant's chain, signed as this one's."""
    theirs = foreign()[0].recipe.chain
    recipe = sample.recipe.but(chain=make.Chain("acme", theirs.entries, theirs.hashes, theirs.artifacts))
    first = choose.randrange(2, COUNT + 1)
    changed = recipe.but(checkpoints=_checkpoints(recipe, make.SIGNER)[1:], first_seq=first, last_seq=COUNT)
    return made("wear a name", changed, {TAMPERED}, {first})


def restyle(choose: random.Random, sample: Sample) -> Mutation:
    """The same envelope in another form: what is signed did not change, and yet there is one form only."""
    name = choose.choice(("keyring.json", "manifest.json"))
    value = json.loads(sample.members[name])
    how = choose.choice(("spaces", "order", "stray bits", "a member more"))
    if how == "spaces":
        data = json.dumps(value, sort_keys=True).encode()
    elif how == "order":
        data = json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode()
    elif how == "stray bits":
        signature = value["signatures"][0]["sig"]
        # The last digit before the padding says two bits and has four more, which no decoder looks at.
        digit = ALPHABET[ALPHABET.index(signature[-3]) ^ 1]
        value["signatures"][0]["sig"] = f"{signature[:-3]}{digit}=="
        data = make.canonical(value)
    else:
        data = make.canonical({**value, "x": ""})
    tar = make.archive({**sample.members, name: data})
    return Mutation(f"restyle {name}: {how}", tar, frozenset({BAD_SIGNATURE}))


def other_rings(choose: random.Random, sample: Sample) -> Mutation:
    """A key ring of another root, of other keys, or of rotations that nobody signed."""
    strange = tuple(make.RingKey(make.STRANGER) if one.key is make.SIGNER else one for one in make.RING)
    how = choose.choice(("root", "outside root", "keys", "no old key", "stranger's bundle"))
    recipe, pinned, status = sample.recipe, True, UNKNOWN_KEY
    if how == "root":
        recipe = recipe.but(keyring=make.keyring(make.OTHER_ROOT))
    elif how == "outside root":
        # The digest of the key ring is in the manifest, so even unpinned no other root's fits.
        data = make.archive({**sample.members, "keyring.json": make.keyring(make.OTHER_ROOT)})
        return Mutation("key ring: outside root", data, frozenset({TAMPERED}), pinned=False)
    elif how == "keys":
        recipe = recipe.but(keyring=make.keyring(keys=strange, rotated=False))
    elif how == "no old key":
        recipe = recipe.but(keyring=make.keyring(keys=make.RING[:2]))
    else:
        recipe, pinned, status = recipe.but(keyring=make.keyring(make.OTHER_ROOT), signer=make.STRANGER), False, 5
    return made(f"key ring: {how}", recipe, {status})._replace(pinned=pinned)


def nothing(choose: random.Random, sample: Sample) -> Mutation:
    """Made anew, and just the same: what finds everything finds fault with this too."""
    return Mutation("nothing", sample.recipe.tar(), frozenset({OK}), pinned=choose.random() < 0.5)


def made(name: str, recipe: Recipe, statuses: set[int], seqs: set[int] | None = None) -> Mutation:
    return Mutation(name, recipe.tar(), frozenset(statuses), frozenset(seqs or ()))
