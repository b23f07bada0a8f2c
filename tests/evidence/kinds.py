"""Every kind of change with its weight, and those kinds that look right at first sight.

Of two, only who knows something from elsewhere can tell.
"""

import base64
import json
import random
from collections.abc import Callable

from tests.evidence import bundle_maker as make
from tests.evidence.mutations import (
    BAD_SIGNATURE,
    BLOCK,
    COUNT,
    FORKED,
    MALFORMED,
    OK,
    TAMPERED,
    UNKNOWN_KEY,
    Mutation,
    Sample,
    cut_entries,
    cut_file,
    cut_history,
    delete,
    edit_checkpoints,
    edit_claims,
    edit_members,
    exchange,
    flip,
    flip_frame,
    fork_entries,
    insert,
    made,
    nothing,
    other_rings,
    parts,
    rearrange,
    restyle,
    rewrite_history,
    samples,
    shift_file,
    shuffle,
    truncate,
    wear_a_name,
    wrong_keys,
)

TENANT_KEY = make.sha256(make.tenant_key("acme")).hex()
OTHER_SECRET = make.sha256(b"another checkpoint secret")


def second_history(choose: random.Random, sample: Sample) -> Mutation:
    """The operator led two chains for one tenant, each under its own key. Every signature of each is right."""
    chain = make.chain_of("acme", COUNT, "another story")
    recipe = sample.recipe.but(chain=chain, checkpoints=make.lines_of(chain, OTHER_SECRET), secret=OTHER_SECRET)
    pinned = choose.random() < 0.5
    mutation = made("second history", recipe, {FORKED if pinned else OK})
    return mutation._replace(tenant_key=TENANT_KEY if pinned else None)


def stolen_key(choose: random.Random, sample: Sample) -> Mutation:
    """Signed by a key whose end lies among the entries or before them, and which says otherwise."""
    ends_s = choose.choice((-86_400, sample.recipe.first_seq - 1))
    ended = make.RingKey(make.SIGNER, not_after=make.moment(ends_s))
    now = make.keyring(keys=(ended, *make.RING[1:]), version=3)
    how = choose.choice(("old ring", "old ring, new one known", "backdated"))
    recipe, status = sample.recipe.but(keyring=make.keyring(version=1)), OK
    if how == "backdated":
        chain = _backdated(sample, ends_s)
        recipe = recipe.but(chain=chain, checkpoints=make.lines_of(chain), keyring=now, created_at=make.moment(ends_s))
        # Of moments, five minutes are left to the clocks of different machines; of keys, nothing.
        status = TAMPERED if ends_s < 0 else UNKNOWN_KEY
    elif how != "old ring":
        status = UNKNOWN_KEY
    return made(f"stolen key: {how}", recipe, {status})._replace(ring=now if status == UNKNOWN_KEY else b"")


def _backdated(sample: Sample, ends_s: float) -> make.Chain:
    """The chain, and the bundle's last entry says that it came before the key's end."""
    last = sample.recipe.last
    chain = make.Chain("acme", *(part[: last - 1] for part in parts(sample)))
    chain = chain.grown("late", ingest_ts=make.moment(ends_s))
    while len(chain.entries) < COUNT:
        chain = chain.grown("late")
    return chain


def edit_last(choose: random.Random, sample: Sample) -> Mutation:
    """The last entry and its artifact fit each other and the entry before, and only the manifest knows of others."""
    recipe = sample.recipe
    entries, artifacts = (sample.members[name].splitlines() for name in ("entries.jsonl", "artifacts.jsonl"))
    artifact = choose.choice(
        (
            make.canonical(make.record_of("acme", recipe.last, f"another {choose.random()}")),
            b'{"spans":[{"end_us":%d}]}' % choose.randrange(100),
            b'{"spans":' + choose.randbytes(9).hex().encode() + b"}",
            choose.randbytes(30).hex().encode(),
        )
    )
    changed = {"artifact_bytes": len(artifact), "artifact_sha256": make.sha256(artifact).hex()}
    entries[-1], artifacts[-1] = make.canonical({**json.loads(entries[-1]), **changed}), artifact
    members = {"entries.jsonl": make.joined(entries), "artifacts.jsonl": make.joined(artifacts)}
    tar = make.archive({**sample.members, **members})
    return Mutation("edit the last entry", tar, frozenset({TAMPERED}), frozenset({recipe.last}))


def lengthen(choose: random.Random, sample: Sample) -> Mutation:
    """A line or a document longer than any of its kind."""
    name = choose.choice([name for name in sample.members if name != "checkpoints.jsonl"])
    data, size = sample.members[name], 4_300_000 if name.endswith(".jsonl") else 1_100_000
    at = choose.randrange(len(data) - 1)
    status = BAD_SIGNATURE if name in ("keyring.json", "manifest.json") else TAMPERED
    tar = make.archive({**sample.members, name: data[:at] + b"x" * size + data[at:]})
    return Mutation(f"lengthen {name}", tar, frozenset({status}))


def sign_more(choose: random.Random, sample: Sample) -> Mutation:
    """One signature more on an envelope: one of its own again, a stranger's, or any number of them."""
    name = choose.choice(("keyring.json", "manifest.json"))
    value = json.loads(sample.members[name])
    own, strange = value["signatures"][0], {"keyid": make.STRANGER.key_id, "sig": base64.b64encode(bytes(64)).decode()}
    more = [choose.choice((own, strange))] * choose.choice((1, 1, 2, 500))
    value["signatures"] = choose.choice(([own, *more], [*more, own], []))
    tar = make.archive({**sample.members, name: make.canonical(value)})
    return Mutation(f"sign {name} more", tar, frozenset({BAD_SIGNATURE}))


def fill_header(choose: random.Random, sample: Sample) -> Mutation:
    """Something in a place of a header that nobody reads, and its sum made to fit."""
    starts = [0]
    for data in list(sample.members.values())[:-1]:
        starts.append(starts[-1] + BLOCK + len(data) + -len(data) % BLOCK)
    start = choose.choice(starts)
    header = bytearray(sample.tar[start : start + BLOCK])
    header[choose.choice((*range(265, 345), *range(500, BLOCK)))] = choose.randrange(1, 256)
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    header[148:156] = b"%06o\0 " % total
    tar = sample.tar[:start] + bytes(header) + sample.tar[start + BLOCK :]
    return Mutation("fill a header", tar, frozenset({MALFORMED}))


KINDS: tuple[tuple[int, Callable[[random.Random, Sample], Mutation]], ...] = (
    (20, flip),
    (8, insert),
    (8, delete),
    (6, truncate),
    (8, shuffle),
    (2, cut_entries),
    (5, exchange),
    (5, cut_file),
    (5, flip_frame),
    (4, shift_file),
    (5, rearrange),
    (3, rewrite_history),
    (2, cut_history),
    (2, fork_entries),
    (2, wrong_keys),
    (3, edit_checkpoints),
    (2, edit_claims),
    (3, edit_members),
    (2, other_rings),
    (2, second_history),
    (2, stolen_key),
    (1, wear_a_name),
    (2, restyle),
    (3, edit_last),
    (1, lengthen),
    (3, sign_more),
    (3, fill_header),
    (1, nothing),
)


def mutate(seed: str) -> Mutation:
    """The mutation of this seed, always the same one."""
    choose = random.Random(seed)
    [kind] = choose.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])
    return kind(choose, choose.choice(samples()))
