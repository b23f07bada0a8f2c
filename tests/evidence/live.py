"""A database that holds two tenants' evidence, written from docs/evidence.md, and ways to damage its rows."""

import base64
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.evidence import bundle_maker as make

OK, TAMPERED, TRUNCATED, FORKED, BAD_SIGNATURE, UNKNOWN_KEY, MALFORMED = range(7)
COUNT = 12
ACME, GLOBEX = make.chain_of("acme", COUNT), make.chain_of("globex", COUNT)
ROUNDS = make.rounds_of(ACME, [GLOBEX], (5, COUNT))
PARTITION = 7
HASH = "0" * 64

# Whoever owns the database can drop what keeps such rows out.
UNLOCK = """
ALTER TABLE chain_entries DROP CONSTRAINT chain_hash_is_of_entry, DROP CONSTRAINT entry_binds_its_place;
ALTER TABLE chain_entries DROP CONSTRAINT chain_entries_pkey;
ALTER TABLE chain_entries DROP CONSTRAINT chain_entries_tenant_id_prev_hash_key;
ALTER TABLE chain_entries DROP CONSTRAINT chain_entries_tenant_id_event_id_kind_key;
SET session_replication_role = replica;
"""
_ENTRY = "INSERT INTO chain_entries (tenant_id, seq, kind, event_id, entry, prev_hash, chain_hash) VALUES "
_ENTRY_ROW = f"{_ENTRY} ($1, $2, 'decision', $3, $4, $5, $6)"
_DECISION = """
INSERT INTO decisions (tenant_id, decision_id, event_id, trace_id, request_id, agent_id, source, verdict, policy_code,
    policy_reasons, policy_hash, config_hash, score, features, contributions, ingest_ts, decided_at, prev_hash,
    chain_hash)
SELECT $1, $2, event_id, trace_id, request_id, agent_id, source, verdict, policy_code, policy_reasons, policy_hash,
    config_hash, score, features, contributions, ingest_ts, decided_at, $3, $4
FROM jsonb_populate_record(NULL::decisions, $5::jsonb)
"""
_ARTIFACT = """
INSERT INTO decision_evidence_artifacts (tenant_id, event_id, artifact_id, artifact_sha256, artifact_bytes, segment_id,
    trace_hash, segment_offset, chain_seq, stored_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now())
"""
_ROUND = """
INSERT INTO chain_checkpoints (partition, checkpoint_seq, tree_size, root_sha256, note, leaves, cosignature)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_FRONTIER = """
INSERT INTO chain_frontiers (tenant_id, size, hashes, root, name, partition, round) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""


def _root_of(note: str) -> str:
    return base64.b64decode(note.split("\n")[2]).hex()


def _split(note: str) -> tuple[str, str]:
    """The signed note and the witness's line."""
    *signed, witness, _ = note.split("\n")
    return "\n".join(signed) + "\n", witness + "\n"


async def fill(connection: Any) -> None:
    for chain in (ACME, GLOBEX):
        await connection.execute("INSERT INTO tenants (tenant_id) VALUES ($1)", chain.tenant_id)
        await add_entries(connection, chain, 1)
        head = "INSERT INTO chain_heads (tenant_id, seq, chain_hash) VALUES ($1, $2, $3)"
        await connection.execute(head, chain.tenant_id, COUNT, chain.prev_hash)
        await add_frontier(connection, chain, len(ROUNDS))
    for this in ROUNDS:
        await add_round(connection, this)


async def add_frontier(connection: Any, chain: make.Chain, number: int) -> None:
    """The tree of all of a chain, whose leaf is in that round."""
    size = len(chain.entries)
    leaf = make.leaf_of(chain, size)
    nodes = b"".join(bytes.fromhex(node) for _, node in make.subtrees(chain.hashes, 0, size))
    await connection.execute(_FRONTIER, chain.tenant_id, size, nodes, leaf["root"], leaf["name"], PARTITION, number)


async def add_round(connection: Any, this: make.Round) -> None:
    note, witness = _split(this.note)
    leaves = make.canonical(list(this.leaves)).decode()
    row = (this.number, 1 + len(this.leaves), _root_of(note), note, leaves, witness)
    await connection.execute(_ROUND, PARTITION, *row)


async def add_entries(connection: Any, chain: make.Chain, first: int) -> None:
    """The entries from `first` on, with what the database copies of them."""
    for seq in range(first, len(chain.entries) + 1):
        text, chain_hash = chain.entries[seq - 1].decode(), chain.hashes[seq - 1].hex()
        entry = json.loads(text)
        event_id, prev_hash = entry["event_id"], entry["prev_hash"]
        await connection.execute(_ENTRY_ROW, chain.tenant_id, seq, event_id, text, prev_hash, chain_hash)
        artifact = chain.artifacts[seq - 1]
        await connection.execute(_DECISION, chain.tenant_id, seq, prev_hash, chain_hash, artifact.decode())
        sha256, size = entry["artifact_sha256"], entry["artifact_bytes"]
        name = f"{chain.tenant_id}/{entry['ingest_ts'][:10]}/{event_id}/{sha256}"
        spans = make.canonical(json.loads(artifact).get("spans", []))
        place = (segment_of(chain), make.sha256(spans).hex(), len(_artifacts_before(chain, seq)), seq)
        await connection.execute(_ARTIFACT, chain.tenant_id, event_id, name, sha256, size, *place)


def segment_of(chain: make.Chain) -> str:
    """The id of the one segment that all of a tenant's artifacts are in."""
    return f"pro-2026-01-01-p{PARTITION:02d}-{make.sha256(chain.tenant_id.encode()).hex()[:32]}"


def _artifacts_before(chain: make.Chain, seq: int) -> bytes:
    """What stands in the segment before the artifact: the line with its signature, and the other artifacts."""
    return b"{}\n" + make.joined(chain.artifacts[: seq - 1])


def seal(worm: Path) -> list[Path]:
    """Both tenants' segments in a WORM directory."""
    files = []
    for chain in (ACME, GLOBEX):
        file = worm / f"segments/pro/2026-01-01/p{PARTITION:02d}" / f"{segment_of(chain)}.dsse"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_artifacts_before(chain, COUNT + 1))
        files.append(file)
    return files


def changed_segment(choose: random.Random, file: Path, whole: bytes) -> tuple[str, bytes, set[int]]:
    """Whose segment it is, the segment with a change in or before an artifact, and the first entry it is found at."""
    [chain] = [one for one in (ACME, GLOBEX) if file.stem == segment_of(one)]
    seq = choose.randrange(1, COUNT + 1)
    artifact, begin = chain.artifacts[seq - 1], len(_artifacts_before(chain, seq))
    at, how = begin + choose.randrange(len(artifact)), choose.choice(("flip", "insert", "delete", "cut", "exchange"))
    data = bytearray(whole)
    if how == "flip":
        data[at] ^= 1 << choose.randrange(8)
    elif how == "insert":
        data.insert(at, data[at] ^ 1)
    elif how == "delete":
        # A byte like the one after it is missing only where they are no longer alike.
        data[at : at + 1] = b"" if data[at] != data[at + 1] else bytes([data[at] ^ 1])
    elif how == "cut":
        del data[at:]
    else:
        other = chain.artifacts[seq % COUNT]
        data[begin : begin + len(artifact)] = other.ljust(len(artifact))[: len(artifact)]
    return chain.tenant_id, bytes(data), {seq}


class Grown:
    """Two entries more for each tenant's chain of what `fill` wrote, and their round, as workers commit them."""

    def __init__(self) -> None:
        self.done = False

    async def once(self, connection: Any) -> None:
        """Grow, the first time this is called."""
        if self.done:
            return
        self.done = True
        async with connection.transaction():
            chain = ACME.grown().grown()
            await add_entries(connection, chain, COUNT + 1)
            head = "UPDATE chain_heads SET seq = $2, chain_hash = $3 WHERE tenant_id = $1"
            await connection.execute(head, chain.tenant_id, COUNT + 2, chain.prev_hash)
            leaf = make.leaf_of(chain, COUNT + 2)
            await add_round(connection, make.next_round(ROUNDS, (leaf,), PARTITION))
            await connection.execute("DELETE FROM chain_frontiers WHERE tenant_id = $1", chain.tenant_id)
            await add_frontier(connection, chain, len(ROUNDS) + 1)

    async def undo(self, connection: Any) -> None:
        async with connection.transaction():
            await _forget(connection, COUNT + 1)
            head = "UPDATE chain_heads SET seq = $2, chain_hash = $3 WHERE tenant_id = $1"
            await connection.execute(head, "acme", COUNT, ACME.prev_hash)
            await connection.execute("DELETE FROM chain_checkpoints WHERE checkpoint_seq > $1", len(ROUNDS))
            await connection.execute("DELETE FROM chain_frontiers WHERE tenant_id = 'acme'")
            await add_frontier(connection, ACME, len(ROUNDS))


class Damage(NamedTuple):
    """What was done to the rows, the statuses it may be answered with and the first bad entries it may name."""

    name: str
    statuses: set[int]
    seqs: set[int]


Kind = Callable[[Any, random.Random], Awaitable[Damage]]


async def edit_entry(connection: Any, choose: random.Random) -> Damage:
    """An entry says something else; sometimes its hash follows."""
    seq, follows = choose.randrange(1, COUNT + 1), choose.random() < 0.5
    entry = json.loads(ACME.entries[seq - 1])
    word = choose.choice(("body_sha256", "policy_hash", "artifact_sha256", "ingest_ts", "request_id"))
    entry[word] = HASH if word != "ingest_ts" else make.moment(1000)
    text = make.canonical(entry)
    chain_hash = make.sha256(b"\x00" + text).hex() if follows else ACME.hashes[seq - 1].hex()
    change = "UPDATE chain_entries SET entry = $2, chain_hash = $3 WHERE tenant_id = 'acme' AND seq = $1"
    await connection.execute(change, seq, text.decode(), chain_hash)
    # A last entry that hashes as its row says breaks no link, but its tree is not the one that was signed.
    return Damage(
        f"edit {word}", {FORKED if follows and seq == COUNT else TAMPERED}, {seq, seq - 1} if seq == 11 else {seq}
    )


async def break_entry(connection: Any, choose: random.Random) -> Damage:
    seq, at = choose.randrange(1, COUNT + 1), choose.randrange(1, 600)
    change = "UPDATE chain_entries SET entry = overlay(entry PLACING $2 FROM $3) WHERE tenant_id = 'acme' AND seq = $1"
    old = ACME.entries[seq - 1].decode()[at - 1]
    await connection.execute(change, seq, choose.choice([sign for sign in "x0{~" if sign != old]), at)
    return Damage("break an entry", {TAMPERED}, {seq})


async def edit_column(connection: Any, choose: random.Random) -> Damage:
    seq = choose.randrange(1, COUNT + 1)
    column, value = choose.choice((("kind", "replay"), ("event_id", "e-0"), ("prev_hash", HASH), ("chain_hash", HASH)))
    change = "UPDATE chain_entries SET kind = $2 WHERE tenant_id = 'acme' AND seq = $1"
    await connection.execute(change.replace("kind", column), seq, value)
    return Damage(f"edit column {column}", {TAMPERED}, {seq})


async def delete_entry(connection: Any, choose: random.Random) -> Damage:
    seq = choose.randrange(1, COUNT + 1)
    await connection.execute("DELETE FROM chain_entries WHERE tenant_id = 'acme' AND seq = $1", seq)
    return Damage("delete an entry", {TRUNCATED if seq == COUNT else TAMPERED}, {seq})


async def _forget(connection: Any, first: int) -> None:
    for statement in (
        "DELETE FROM chain_entries WHERE tenant_id = 'acme' AND seq >= $1",
        "DELETE FROM decisions WHERE tenant_id = 'acme' AND decision_id >= $1",
        "DELETE FROM decision_evidence_artifacts WHERE tenant_id = 'acme' AND chain_seq >= $1",
    ):
        await connection.execute(statement, first)


async def cut_history(connection: Any, choose: random.Random) -> Damage:
    """As after the restore of an old backup, but for the rounds."""
    kept = choose.randrange(1, COUNT)
    await _forget(connection, kept + 1)
    change = "UPDATE chain_heads SET seq = $1, chain_hash = $2 WHERE tenant_id = 'acme'"
    await connection.execute(change, kept, ACME.hashes[kept - 1].hex())
    return Damage("cut history", {TRUNCATED}, {kept + 1})


async def rewrite_history(connection: Any, choose: random.Random) -> Damage:
    first = choose.randrange(1, COUNT + 1)
    parts = (part[: first - 1] for part in (ACME.entries, ACME.hashes, ACME.artifacts))
    chain = make.Chain("acme", *parts)
    while len(chain.entries) < COUNT:
        chain = chain.grown(f"rewritten {choose.random()}")
    await _forget(connection, first)
    await add_entries(connection, chain, first)
    await connection.execute("UPDATE chain_heads SET chain_hash = $1 WHERE tenant_id = 'acme'", chain.prev_hash)
    return Damage("rewrite history", {FORKED}, {COUNT})


async def fork(connection: Any, choose: random.Random) -> Damage:
    seq = choose.randrange(1, COUNT + 1)
    parts = (part[: seq - 1] for part in (ACME.entries, ACME.hashes, ACME.artifacts))
    sibling = make.Chain("acme", *parts).grown(f"fork {choose.random()}")
    row = (f"e-{seq}", sibling.entries[-1].decode(), json.loads(sibling.entries[-1])["prev_hash"], sibling.prev_hash)
    await connection.execute(_ENTRY_ROW, "acme", seq, *row)
    return Damage("fork", {FORKED}, {seq, COUNT})


async def swap_entries(connection: Any, choose: random.Random) -> Damage:
    first, second = sorted(choose.sample(range(1, COUNT + 1), 2))
    change = "UPDATE chain_entries SET seq = $1 + $2 - seq WHERE tenant_id = 'acme' AND seq IN ($1, $2)"
    await connection.execute(change, first, second)
    return Damage("swap entries", {TAMPERED}, {first})


async def splice(connection: Any, choose: random.Random) -> Damage:
    seq = choose.randrange(1, COUNT + 1)
    entry, chain_hash = GLOBEX.entries[seq - 1].decode(), GLOBEX.hashes[seq - 1].hex()
    change = "UPDATE chain_entries SET entry = $2, chain_hash = $3 WHERE tenant_id = 'acme' AND seq = $1"
    await connection.execute(change, seq, entry, chain_hash)
    return Damage("splice", {TAMPERED}, {seq})


async def _one_of(connection: Any, choose: random.Random, cases: Sequence[tuple[str, int]]) -> Damage:
    statement, status = choose.choice(cases)
    seq = choose.randrange(1, COUNT + 1)
    done = await connection.execute(statement.replace("$seq", str(seq)))
    assert done.split()[-1] != "0", statement
    return Damage(statement, {status}, set())


async def damage_head(connection: Any, choose: random.Random) -> Damage:
    cases = (
        ("UPDATE chain_heads SET seq = seq + 1 WHERE tenant_id = 'acme'", TRUNCATED),
        ("UPDATE chain_heads SET seq = seq - 1 WHERE tenant_id = 'acme'", TAMPERED),
        ("UPDATE chain_heads SET chain_hash = repeat('0', 64) WHERE tenant_id = 'acme'", TAMPERED),
        ("DELETE FROM chain_heads WHERE tenant_id = 'acme'", TAMPERED),
    )
    return await _one_of(connection, choose, cases)


async def damage_copies(connection: Any, choose: random.Random) -> Damage:
    """What other tables say of an entry."""
    decision = "UPDATE decisions SET %s WHERE tenant_id = 'acme' AND decision_id = $seq"
    artifact = "UPDATE decision_evidence_artifacts SET %s WHERE tenant_id = 'acme' AND chain_seq = $seq"
    changes = [
        *(
            decision % f"{column} = repeat('0', 64)"
            for column in ("prev_hash", "chain_hash", "policy_hash", "config_hash")
        ),
        decision % "event_id = 'other'",
        decision % "trace_id = 'other'",
        decision % "ingest_ts = ingest_ts + interval '1 ms'",
        decision % "decision_id = 100 + decision_id",
        "DELETE FROM decisions WHERE tenant_id = 'acme' AND decision_id = $seq",
        artifact % "artifact_sha256 = repeat('0', 64)",
        artifact % "artifact_bytes = artifact_bytes + 1",
        artifact % "artifact_id = 'other'",
        artifact % "artifact_class = 'replay'",
        artifact % "event_id = 'other'",
        artifact % "chain_seq = 100 + chain_seq",
    ]
    return await _one_of(connection, choose, [(change, TAMPERED) for change in changes])


async def damage_decisions(connection: Any, choose: random.Random) -> Damage:
    """What was decided, of which no entry holds a copy: only the artifact says it too."""
    changes = (
        "verdict = 'allow'", "policy_code = 'POLICY_ALLOW'", "policy_reasons = '{}'",
        "policy_reasons = ARRAY['first,say \"no\"']", "score = score + 1", "features = features || '{\"f\": 1}'",
        "features = '{}'", "contributions = '[]'", "agent_id = 'other'", "source = 'other'",
        "decided_at = decided_at - interval '1 ms'",
    )  # fmt: skip
    decision = "UPDATE decisions SET %s WHERE tenant_id = 'acme' AND decision_id = $seq"
    artifact = "UPDATE decision_evidence_artifacts SET %s WHERE tenant_id = 'acme' AND chain_seq = $seq"
    places = ("trace_hash = repeat('0', 64)", "segment_offset = segment_offset + 1", "segment_id = 'other'")
    cases = [*(decision % change for change in changes), *(artifact % change for change in places)]
    return await _one_of(connection, choose, [(change, TAMPERED) for change in cases])


_COSIGNATURE_OF_ANOTHER = """
UPDATE chain_checkpoints AS c SET cosignature = d.cosignature FROM chain_checkpoints AS d
WHERE c.checkpoint_seq = 1 AND d.checkpoint_seq = 2
"""
_SIGNATURE_OF_ANOTHER = r"""
UPDATE chain_checkpoints AS c SET note = left(c.note, position(E'\n\n' IN c.note) + 1)
    || substr(d.note, position(E'\n\n' IN d.note) + 2)
FROM chain_checkpoints AS d WHERE c.checkpoint_seq = 1 AND d.checkpoint_seq = 2
"""


async def damage_rounds(connection: Any, choose: random.Random) -> Damage:
    """Rounds, and what is kept of them for each tenant."""
    cases = (
        ("UPDATE chain_checkpoints SET note = overlay(note PLACING 'p08' FROM 22)", TAMPERED),
        ("UPDATE chain_checkpoints SET note = replace(note, E'\\n2\\n', E'\\n3\\n')", TAMPERED),
        ("UPDATE chain_checkpoints SET note = rtrim(note, E'\\n') WHERE checkpoint_seq = 2", TAMPERED),
        ("UPDATE chain_checkpoints SET note = replace(note, '=', '') WHERE checkpoint_seq = 2", TAMPERED),
        ("UPDATE chain_checkpoints SET leaves = replace(leaves, '5', '6') WHERE checkpoint_seq = 1", TAMPERED),
        ("UPDATE chain_checkpoints SET leaves = '[]' WHERE checkpoint_seq = 2", TAMPERED),
        ("UPDATE chain_checkpoints SET leaves = leaves || ' '", TAMPERED),
        ("UPDATE chain_checkpoints SET tree_size = tree_size + 1", TAMPERED),
        ("UPDATE chain_checkpoints SET root_sha256 = repeat('0', 64)", TAMPERED),
        ("UPDATE chain_checkpoints SET checkpoint_seq = 3 WHERE checkpoint_seq = 2", TAMPERED),
        ("UPDATE chain_checkpoints SET partition = 8", TAMPERED),
        ("DELETE FROM chain_checkpoints WHERE checkpoint_seq = 1", TAMPERED),
        ("DELETE FROM chain_checkpoints WHERE checkpoint_seq = 2", TRUNCATED),
        ("DELETE FROM chain_checkpoints", TRUNCATED),
        (_COSIGNATURE_OF_ANOTHER, BAD_SIGNATURE),
        (_SIGNATURE_OF_ANOTHER, BAD_SIGNATURE),
        ("UPDATE chain_checkpoints SET note = replace(note, 'frostgate+', 'stranger+')", UNKNOWN_KEY),
        ("UPDATE chain_frontiers SET root = repeat('0', 64) WHERE tenant_id = 'acme'", TAMPERED),
        ("UPDATE chain_frontiers SET hashes = hashes || hashes WHERE tenant_id = 'acme'", TAMPERED),
        ("UPDATE chain_frontiers SET size = size - 1 WHERE tenant_id = 'acme'", TAMPERED),
        ("UPDATE chain_frontiers SET round = round - 1 WHERE tenant_id = 'acme'", TAMPERED),
        ("UPDATE chain_frontiers SET round = round + 1 WHERE tenant_id = 'acme'", TRUNCATED),
        ("UPDATE chain_frontiers SET name = repeat('0', 64) WHERE tenant_id = 'acme'", TAMPERED),
        ("DELETE FROM chain_frontiers WHERE tenant_id = 'acme'", TAMPERED),
        ("INSERT INTO chain_leaves VALUES ('acme', 5, 1, 7, repeat('0', 64))", TAMPERED),
        ("INSERT INTO chain_leaves VALUES ('acme', 40, 1, 7, repeat('0', 64))", TRUNCATED),
    )  # fmt: skip
    return await _one_of(connection, choose, cases)


ROW_KINDS: tuple[Kind, ...] = (
    edit_entry, break_entry, edit_column, delete_entry, cut_history, rewrite_history, fork, swap_entries, splice,
    damage_head, damage_copies, damage_decisions,
)  # fmt: skip
