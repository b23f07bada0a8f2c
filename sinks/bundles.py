"""The bundle of docs/evidence.md: everything a stranger needs to verify a tenant's evidence, in one archive.

Entries and artifacts pass through in pages, so memory does not grow with them. What is read is verified
before it is written, and the tree is compared with its checkpoint before its root is signed: a bundle
that was written whole is one that verifies.
"""

import base64
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from schemas.canonical import canonical_plain
from schemas.checkpoint import LEAF_EVERY, leaf_name, tenant_key
from schemas.merkle import Frontier
from schemas.subjects import partition_of
from schemas.units import Clock, UnixMs, format_rfc3339, parse_rfc3339
from sinks import keyring, notes, proofs
from sinks.bundle_source import BundleSource, Range
from sinks.bundle_tar import Sink, TarWriter, check_room
from sinks.bundle_traces import Traces
from sinks.checkpoints import Checkpoints
from sinks.keyring import Keyring
from sinks.notes import UnsignedError
from sinks.pg import Pool
from sinks.proofs import Covered
from sinks.round_store import RoundStore
from sinks.segments import EvidenceError
from sinks.signing import SignatureError, Signer
from sinks.worm import Worm

log = logging.getLogger("sinks")

PREDICATE_TYPE = "https://frostgate.dev/evidence-bundle/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
UNSIGNED = (
    "the newest checkpoint is not signed by a key that the ring allowed then: "
    "bring the newest key ring, let a worker run with its key, and export again after the tenant's next event"
)
# One text order, as in `sinks.bundle_range`; empty where another checkpoint ends at the last entry too.
_CAME_IN = """
SELECT coalesce(max(substring(entry FROM '"ingest_ts":"([^"]*)"') COLLATE "C"), '') FROM chain_entries
WHERE tenant_id = $1 AND seq BETWEEN $2 AND $3
"""

Progress = Callable[[str, int, int], None]
"""Told a member's name, the entries written and all there are."""


class BundleError(Exception):
    """No bundle can be made of this. The text says why and what to do."""


class Keys(NamedTuple):
    """What signs bundles: the evidence key, the ring that knows it, and the secret of the checkpoints."""

    signer: Signer
    keyring: Keyring
    checkpoint_secret: bytes


class Wanted(NamedTuple):
    """A bundle to be."""

    bundle_id: str
    range: Range
    include_trace: bool


class Written(NamedTuple):
    """A bundle that was written whole. `predicate` is what its manifest says."""

    predicate: dict[str, Any]
    sha256: str
    bytes: int


class _Tree(NamedTuple):
    """The tree a bundle proves its entries in: that of the newest checkpoint, and what of it lies around them."""

    covered: Covered
    before: list[tuple[int, bytes]]
    after: list[tuple[int, bytes]]


class Bundler:
    """Writes bundles, for the worker and the operator."""

    def __init__(self, pool: Pool, worm: Worm, keys: Keys, clock: Clock) -> None:
        self._pool = pool
        self._worm = worm
        self._keys = keys
        self._clock = clock

    async def write(self, wanted: Wanted, sink: Sink, progress: Progress) -> Written:
        """Return once the whole bundle has gone into the sink.

        Raises BundleError and TooLargeError when it cannot be made, EvidenceError when what is stored is
        not what was signed, and NoAnswer; the sink then holds a part that is no bundle.
        """
        now_ms = self._clock.now_ms()
        if fault := keyring.fault_of(self._keys.keyring, self._keys.signer, now_ms):
            raise BundleError(fault)
        tenant_id, first, last = wanted.range
        key = tenant_key(self._keys.checkpoint_secret, tenant_id)
        tree = await self._tree(wanted.range)
        await self._refuse_an_older_database(tenant_id)
        archive = TarWriter(sink)
        traces = await self._lines(wanted, tree, archive, progress)
        await archive.add("proof.json", canonical_plain(_proof(tree)))
        await self._checkpoints((wanted.range, now_ms), tree.covered, leaf_name(key, tenant_id), archive)
        await archive.add("head.note", self._head(tenant_id, tree.covered).encode())
        await archive.add("keyring.json", self._keys.keyring.envelope)
        predicate = {
            "bundle_id": wanted.bundle_id,
            "chain": "main",
            "created_at": format_rfc3339(now_ms),
            "first_seq": first,
            "last_seq": last,
            "include_trace": wanted.include_trace,
            "partition": partition_of(tenant_id),
            "tenant_id": tenant_id,
            "tenant_key": key.hex(),
            "tree_size": tree.covered.size,
            "trace_bundle": traces.bundle,
        }
        await archive.add("manifest.json", self._keys.signer.sign(PAYLOAD_TYPE, _statement(archive, predicate)))
        await archive.close()
        return Written(predicate, archive.sha256, archive.bytes)

    async def _refuse_an_older_database(self, tenant_id: str) -> None:
        """A chain that was rolled back is whole in itself, and its bundle would verify."""
        rounds = Checkpoints(self._pool, self._keys.signer, self._keys.checkpoint_secret, witnessed=False)
        store = RoundStore(rounds, self._worm)
        if finding := await store.rollback_of(partition_of(tenant_id), self._keys.keyring):
            raise EvidenceError(finding)

    async def _tree(self, wanted: Range) -> _Tree:
        tenant_id, first, last = wanted
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            covered = await proofs.newest(connection, tenant_id)
            if covered is None or covered.size < last:
                raise BundleError("no checkpoint covers these entries yet: does a worker run?")
            before = await proofs.between(connection, tenant_id, 0, first - 1)
            after = await proofs.between(connection, tenant_id, last, covered.size)
        return _Tree(covered, before, after)

    async def _lines(self, wanted: Wanted, tree: _Tree, archive: TarWriter, progress: Progress) -> Traces:
        """The members with a line an entry."""
        source = BundleSource(self._pool, self._worm, wanted.range)
        count = wanted.range.last - wanted.range.first + 1
        sizes = await source.sizes()
        check_room("artifacts.jsonl", sizes.artifacts)
        await archive.begin("entries.jsonl", sizes.entries)
        grown, done = Frontier(), 0
        _grow(grown, tree.before)
        async for page in source.entries():
            for _, leaf in page:
                grown.append(leaf)
            await archive.write(b"".join(entry + b"\n" for entry, _ in page))
            done += len(page)
            progress("entries.jsonl", done, count)
        await archive.end()
        _grow(grown, tree.after)
        if grown.root().hex() != tree.covered.root:
            raise EvidenceError("the chain is not the one its checkpoint covers")
        await archive.begin("artifacts.jsonl", sizes.artifacts)
        traces, done = Traces(), 0
        async for kept in source.artifacts():
            for one in kept:
                traces.line(one)
            await archive.write(b"".join(one.artifact + b"\n" for one in kept))
            done += len(kept)
            progress("artifacts.jsonl", done, count)
        await archive.end()
        if wanted.include_trace:
            await _trace_lines(source, traces.bytes, archive, lambda done: progress("traces.jsonl", done, count))
        return traces

    async def _checkpoints(self, wanted: tuple[Range, UnixMs], newest: Covered, name: str, archive: TarWriter) -> None:
        """The rounds that a verifier will believe. The newest must be one of them; the others it can do without.

        A wrong signature is none of those: what was altered is never exported.
        """
        (tenant_id, first, last), now_ms = wanted
        async with self._pool.tenant_transaction([tenant_id]) as connection:
            covered = await proofs.spread(connection, tenant_id, first, last, LEAF_EVERY)
        lines = []
        after, came_in = first, ""
        for one in [*(one for one in covered if one.size < newest.size), newest]:
            async with self._pool.tenant_transaction([tenant_id]) as connection:
                came_in = max(came_in, await connection.fetchval(_CAME_IN, tenant_id, after, min(one.size, last)))
                line = await proofs.checkpoint(connection, one, name)
            after = one.size + 1
            try:
                keyring.verify_note(self._keys.keyring, line.note, parse_rfc3339(came_in), now_ms)
            except UnsignedError:
                if one is newest:
                    raise BundleError(UNSIGNED) from None
                log.warning("the checkpoint of round %d is left out: no key signed it that the ring allows", one.round)
                continue
            except SignatureError:
                raise EvidenceError(f"the note of round {one.round} is not what its key signed") from None
            lines.append(canonical_plain(line) + b"\n")
        await archive.add("checkpoints.jsonl", b"".join(lines))

    def _head(self, tenant_id: str, covered: Covered) -> str:
        root = base64.b64encode(bytes.fromhex(covered.root)).decode()
        return notes.sign(f"frostgate/tenant/{tenant_id}/main\n{covered.size}\n{root}\n", self._keys.signer)


async def _trace_lines(source: BundleSource, size: int, archive: TarWriter, progress: Callable[[int], None]) -> None:
    """The artifacts are read once more: what their spans come to could not be announced before."""
    await archive.begin("traces.jsonl", size)
    traces, done = Traces(), 0
    async for kept in source.artifacts():
        await archive.write(b"".join(traces.line(one) for one in kept))
        done += len(kept)
        progress(done)
    await archive.end()


def _grow(tree: Frontier, nodes: list[tuple[int, bytes]]) -> None:
    for level, node in nodes:
        tree.append(node, level)


def _proof(tree: _Tree) -> dict[str, Any]:
    return {
        "after": [(level, node.hex()) for level, node in tree.after],
        "before": [(level, node.hex()) for level, node in tree.before],
        "size": tree.covered.size,
    }


def _statement(archive: TarWriter, predicate: dict[str, Any]) -> bytes:
    """The in-toto Statement over every member so far."""
    subject = [{"digest": {"sha256": member.sha256}, "name": member.name} for member in archive.members]
    return canonical_plain(
        {"_type": STATEMENT_TYPE, "predicate": predicate, "predicateType": PREDICATE_TYPE, "subject": subject}
    )
