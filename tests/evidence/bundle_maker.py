"""Makes correct bundles from docs/evidence.md alone, and bundles that somebody with the keys made on purpose.

Nothing here is shared with what exports bundles: two readings of one page have to agree.
"""

import base64
import hashlib
import hmac
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEYRING_TYPE = "application/vnd.frostgate.keyring+json"
ROTATION_TYPE = "application/vnd.frostgate.key-rotation+json"
MANIFEST_TYPE = "application/vnd.in-toto+json"
BEGIN_S = 1_767_225_600
"""2026-01-01T00:00:00Z: the first entry's `ingest_ts`; each further one comes a second later."""
REQUEST_ID, TRACE_ID = 'say "é"\n', "0199d7a0-0000-7000-8000-000000000000"
KEY_BEGIN, LONG_AGO, LONG_PAST = "2025-06-01T00:00:00.000Z", "2024-01-01T00:00:00.000Z", "2025-01-01T00:00:00.000Z"


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def moment(offset_s: float) -> str:
    return datetime.fromtimestamp(BEGIN_S + offset_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Key:
    """A key pair, the same for the same name."""

    def __init__(self, name: str) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(sha256(name.encode()))
        self.public = self.private.public_key().public_bytes_raw()
        self.key_id = sha256(self.public).hex()[:16]

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


class RingKey(NamedTuple):
    key: Key
    use: str = "evidence"
    not_before: str = KEY_BEGIN
    not_after: str = ""


ROOT, SIGNER, WITNESS = Key("root"), Key("signer"), Key("witness")
OLD, STRANGER, OTHER_ROOT = Key("old"), Key("stranger"), Key("other root")
SECRET = sha256(b"checkpoint secret")
RING = (
    RingKey(SIGNER),
    RingKey(WITNESS, "witness"),
    RingKey(OLD, "evidence", LONG_AGO, LONG_PAST),
)


def envelope(payload_type: str, payload: bytes, signers: Sequence[Key]) -> bytes:
    message = b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)
    return canonical(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [
                {"keyid": key.key_id, "sig": base64.b64encode(key.sign(message)).decode()} for key in signers
            ],
        }
    )


def keyring(root: Key = ROOT, keys: Sequence[RingKey] = RING, *, rotated: bool = True, version: int = 2) -> bytes:
    rotation = canonical(
        {
            "new_key_id": SIGNER.key_id,
            "old_key_id": OLD.key_id,
            "rotated_at": LONG_PAST,
            "type": "frostgate.key-rotation",
            "version": 2,
        }
    )
    listed = [
        {
            "key_id": one.key.key_id,
            "not_after": one.not_after,
            "not_before": one.not_before,
            "public_key": base64.b64encode(one.key.public).decode(),
            "use": one.use,
        }
        for one in keys
    ]
    ring = {
        "created_at": KEY_BEGIN,
        "keys": listed,
        "root_public_key": base64.b64encode(root.public).decode(),
        "rotations": [envelope(ROTATION_TYPE, rotation, (OLD, SIGNER)).decode()] if rotated else [],
        "type": "frostgate.keyring",
        "version": version,
    }
    return envelope(KEYRING_TYPE, canonical(ring), (root,))


# --- Trees, written down from the recursive definitions of RFC 6962 ---


def tree_root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"")
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + tree_root(leaves[:half]) + tree_root(leaves[half:]))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) < 2:
        return []
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < half:
        return [*path(index, leaves[:half]), tree_root(leaves[half:])]
    return [*path(index - half, leaves[half:]), tree_root(leaves[:half])]


def subtrees(leaves: Sequence[bytes], first: int, end: int) -> list[tuple[int, str]]:
    """The fewest complete subtrees over the leaves `first` up to, not with, `end`."""
    found = []
    while first < end:
        level = 0
        while first % (2 << level) == 0 and first + (2 << level) <= end:
            level += 1
        found.append((level, tree_root(leaves[first : first + (1 << level)]).hex()))
        first += 1 << level
    return found


# --- Notes ---


def signature_line(name: str, kind: bytes, key: Key, blob: bytes) -> str:
    key_hash = sha256(name.encode() + b"\n" + kind + key.public)[:4]
    return f"\N{EM DASH} {name} {base64.b64encode(key_hash + blob).decode()}\n"


def note(origin: str, size: int, root: bytes, key: Key = SIGNER) -> str:
    text = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    return f"{text}\n" + signature_line(f"frostgate+{key.key_id}", b"\x01", key, key.sign(text.encode()))


def cosignature(signed: str, time_s: int, key: Key = WITNESS) -> str:
    text = signed.partition("\n\n")[0] + "\n"
    signature = key.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    name = f"frostgate-witness+{key.key_id}"
    return signature_line(name, b"\x04", key, time_s.to_bytes(8, "big") + signature)


# --- Chains ---


def spans(seq: int) -> list[dict[str, Any]]:
    """Odd entries were traced."""
    start_us = (BEGIN_S + seq) * 1_000_000
    span = {"end_us": start_us + 250, "name": 'deci"de', "parent_span_id": "", "span_id": "a", "start_us": start_us}
    child = {**span, "name": "policy é", "parent_span_id": "a", "span_id": "b", "end_us": start_us + 90}
    return [span, child] if seq % 2 else []


@dataclass(frozen=True)
class Chain:
    """A tenant's chain: the entries' bytes, their hashes and their artifacts.

    A plain one has no text that JSON writes with a backslash or beyond ASCII, as most chains.
    """

    tenant_id: str
    entries: tuple[bytes, ...] = ()
    hashes: tuple[bytes, ...] = ()
    artifacts: tuple[bytes, ...] = ()
    plain: bool = field(default=False, kw_only=True)

    @property
    def prev_hash(self) -> str:
        genesis = sha256(f"fg-chain-v1\n{self.tenant_id}\nmain".encode())
        return (self.hashes[-1] if self.hashes else genesis).hex()

    def grown(self, note: str = "", **changes: str) -> "Chain":
        """One entry more; `changes` are what it says instead."""
        seq = len(self.entries) + 1
        artifact = canonical(record_of(self.tenant_id, seq, note))
        entry = canonical({**entry_of(self.tenant_id, seq, self.prev_hash, artifact), **changes})
        if self.plain:
            artifact = plainly(artifact)
            bound = {"artifact_bytes": len(artifact), "artifact_sha256": sha256(artifact).hex()}
            entry = canonical({**json.loads(plainly(entry)), **bound})
        return Chain(
            self.tenant_id,
            (*self.entries, entry),
            (*self.hashes, sha256(b"\x00" + entry)),
            (*self.artifacts, artifact),
            plain=self.plain,
        )


def plainly(text: bytes) -> bytes:
    return text.replace("é".encode(), b"e").replace(rb"\"", b"'").replace(rb"\n", b".")


def record_of(tenant_id: str, seq: int, note: str) -> dict[str, Any]:
    """What was decided, and a note that is in no record but makes this one another."""
    record: dict[str, Any] = {
        "agent_id": "a",
        "config_hash": "c" * 64,
        "contributions": [{"feature": "f", "points": 5}],
        "decided_at": moment(seq + 1),
        "event_id": f"e-{seq}",
        "features": {"f": True, "word": "é"},
        "ingest_ts": moment(seq),
        "note": note,
        "policy_code": "POLICY_DENY",
        "policy_hash": "p" * 64,
        "policy_reasons": ["first", 'say "no"'],
        "request_id": REQUEST_ID,
        "score": 5,
        "source": "s",
        "tenant_id": tenant_id,
        "trace_id": TRACE_ID,
        "v": 2,
        "verdict": "deny",
    }
    return {**record, "spans": spans(seq)} if spans(seq) else record


def entry_of(tenant_id: str, seq: int, prev_hash: str, artifact: bytes) -> dict[str, Any]:
    return {
        "artifact_bytes": len(artifact),
        "artifact_sha256": sha256(artifact).hex(),
        "body_bytes": 300,
        "body_sha256": sha256(b"body").hex(),
        "config_hash": "c" * 64,
        "event_id": f"e-{seq}",
        "ingest_ts": moment(seq),
        "kind": "decision",
        "policy_hash": "p" * 64,
        "prev_hash": prev_hash,
        "request_id": REQUEST_ID,
        "seq": seq,
        "tenant_id": tenant_id,
        "trace_id": TRACE_ID,
        "v": 1,
    }


def chain_of(tenant_id: str, count: int, note: str = "", *, plain: bool = False) -> Chain:
    chain = Chain(tenant_id, plain=plain)
    for _ in range(count):
        chain = chain.grown(note)
    return chain


# --- Rounds ---


class Round(NamedTuple):
    """A signed round: its leaves, sorted by name, and the hash of what it links to."""

    number: int
    link: bytes
    leaves: tuple[dict[str, Any], ...]
    note: str


def tenant_key(tenant_id: str, secret: bytes = SECRET) -> bytes:
    return hmac.digest(secret, tenant_id.encode(), "sha256")


def leaf_of(chain: Chain, size: int, secret: bytes = SECRET) -> dict[str, Any]:
    name = hmac.digest(tenant_key(chain.tenant_id, secret), chain.tenant_id.encode(), "sha256").hex()
    return {"name": name, "root": tree_root(chain.hashes[:size]).hex(), "size": size}


def next_round(
    rounds: Sequence[Round],
    leaves: Sequence[dict[str, Any]],
    partition: int,
    *,
    key: Key = SIGNER,
    witnessed: bool = True,
) -> Round:
    before = f"fg-checkpoint-v1\n{partition}" if not rounds else rounds[-1].note.partition("\n\n")[0] + "\n"
    link, number = sha256(b"\x00" + before.encode()), len(rounds) + 1
    ordered = tuple(sorted(leaves, key=lambda leaf: str(leaf["name"])))
    root = tree_root([link, *(sha256(b"\x00" + canonical(leaf)) for leaf in ordered)])
    signed = note(f"frostgate/checkpoint/p{partition:02d}", number, root, key)
    if witnessed:
        signed += cosignature(signed, BEGIN_S + max(int(leaf["size"]) for leaf in leaves) + 30)
    return Round(number, link, ordered, signed)


def checkpoint_line(this: Round, leaf: dict[str, Any]) -> bytes:
    hashes = [this.link, *(sha256(b"\x00" + canonical(one)) for one in this.leaves)]
    index = 1 + this.leaves.index(leaf)
    return canonical(
        {
            "index": index,
            "leaf": leaf,
            "note": this.note,
            "path": [node.hex() for node in path(index, hashes)],
            "tree_size": len(hashes),
        }
    )


def rounds_of(chain: Chain, others: Sequence[Chain], sizes: Sequence[int], *, key: Key = SIGNER) -> list[Round]:
    """One round for each of the sizes; the other tenants grow along."""
    rounds: list[Round] = []
    for size in sizes:
        leaves = [leaf_of(chain, size), *(leaf_of(other, min(size, len(other.entries))) for other in others)]
        rounds.append(next_round(rounds, leaves, 7, key=key))
    return rounds


def lines_of(chain: Chain, secret: bytes = SECRET) -> tuple[bytes, ...]:
    """The one checkpoint of all of a chain, countersigned."""
    leaf = leaf_of(chain, len(chain.entries), secret)
    return (checkpoint_line(next_round((), (leaf,), 7), leaf),)


# --- Bundles ---


@dataclass(frozen=True)
class Recipe:
    """What a bundle is made of. `edits` change members after they are made and before the manifest is signed."""

    chain: Chain
    checkpoints: tuple[bytes, ...]
    first_seq: int = 1
    last_seq: int = 0
    include_trace: bool = True
    created_at: str = moment(86_400)
    keyring: bytes = field(default_factory=keyring)
    signer: Key = SIGNER
    head_signer: Key = SIGNER
    secret: bytes = SECRET
    edits: tuple[tuple[str, Callable[[bytes], bytes]], ...] = ()
    claims: tuple[tuple[str, Any], ...] = ()

    @property
    def last(self) -> int:
        return self.last_seq or len(self.chain.entries)

    def members(self) -> dict[str, bytes]:
        """Name to bytes, in the order of the archive."""
        made = dict(self._bare())
        for name, edit in self.edits:
            made[name] = edit(made[name])
        return {**made, "manifest.json": self.manifest(made)}

    def tar(self) -> bytes:
        return archive(self.members())

    def _lines(self) -> list[bytes]:
        lines = []
        for seq in range(self.first_seq, self.last + 1):
            entry = json.loads(self.chain.entries[seq - 1])
            found = json.loads(self.chain.artifacts[seq - 1]).get("spans", [])
            told = {"event_id": entry["event_id"], "seq": seq, "spans": found, "trace_id": entry["trace_id"]}
            lines.append(canonical(told))
        return lines

    def _bare(self) -> list[tuple[str, bytes]]:
        chain, first, last, size = self.chain, self.first_seq, self.last, len(self.chain.hashes)
        proof = {
            "after": subtrees(chain.hashes, last, size),
            "before": subtrees(chain.hashes, 0, first - 1),
            "size": size,
        }
        made = [
            ("entries.jsonl", joined(chain.entries[first - 1 : last])),
            ("artifacts.jsonl", joined(chain.artifacts[first - 1 : last])),
            ("traces.jsonl", joined(self._lines())),
            ("proof.json", canonical(proof)),
            ("checkpoints.jsonl", joined(self.checkpoints)),
            ("head.note", self._head()),
            ("keyring.json", self.keyring),
        ]
        return [one for one in made if self.include_trace or one[0] != "traces.jsonl"]

    def _head(self) -> bytes:
        origin, hashes = f"frostgate/tenant/{self.chain.tenant_id}/main", self.chain.hashes
        return note(origin, len(hashes), tree_root(hashes), self.head_signer).encode()

    def manifest(self, made: dict[str, bytes]) -> bytes:
        tenant_id = self.chain.tenant_id
        artifacts = self.chain.artifacts[self.first_seq - 1 : self.last]
        found = [span for artifact in artifacts for span in json.loads(artifact).get("spans", [])]
        starts, ends = [span["start_us"] for span in found], [span["end_us"] for span in found]
        predicate = {
            "bundle_id": "b-1",
            "chain": "main",
            "created_at": self.created_at,
            "first_seq": self.first_seq,
            "include_trace": self.include_trace,
            "last_seq": self.last,
            "partition": 7,
            "tenant_id": tenant_id,
            "tenant_key": tenant_key(tenant_id, self.secret).hex(),
            "trace_bundle": {
                "first_span_at": micros(min(starts)) if found else "",
                "last_span_at": micros(max(ends)) if found else "",
                "span_count": len(found),
                "spans_sha256": sha256(joined(self._lines())).hex(),
            },
            "tree_size": len(self.chain.hashes),
        }
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "predicate": {**predicate, **dict(self.claims)},
            "predicateType": "https://frostgate.dev/evidence-bundle/v1",
            "subject": [{"digest": {"sha256": sha256(data).hex()}, "name": name} for name, data in made.items()],
        }
        return envelope(MANIFEST_TYPE, canonical(statement), (self.signer,))

    def but(self, **changes: Any) -> "Recipe":
        return replace(self, **changes)


def joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def micros(moment_us: int) -> str:
    seconds, rest = divmod(moment_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime(f"%Y-%m-%dT%H:%M:%S.{rest:06d}Z")


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.USTAR_FORMAT)


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    for name, data in members.items():
        file.write(header(name, len(data)) + data + b"\0" * (-len(data) % 512))
    file.write(b"\0" * 1024)
    return file.getvalue()


def recipe(
    tenant_id: str = "acme",
    count: int = 12,
    *,
    sizes: Sequence[int] = (),
    others: Sequence[Chain] = (),
    note: str = "",
    plain: bool = False,
) -> Recipe:
    """A bundle of a whole chain with checkpoints of these sizes and of all of it, countersigned."""
    chain = chain_of(tenant_id, count, note, plain=plain)
    every = sorted({*sizes, count})
    rounds = rounds_of(chain, others, every)
    lines = tuple(checkpoint_line(this, leaf_of(chain, size)) for this, size in zip(rounds, every, strict=True))
    return Recipe(chain, lines)
