"""Was a promise broken? Holds the clients' ledgers against the stores, after everything has come to rest.

    python -m chaos.checker LEDGER.. --dsn DSN [--service-dsn DSN] [--text FILE..] [--json]

The WORM store is that of the settings (FG_WORM_DIR, FG_DATA_DIR or FG_WORM_S3_URL); every artifact is read back.

C1 lost, C2 phantom, C3 effect of once, C4 replayed answers, C5 chains, C6 leftovers, C7 isolation, C8 meters.
Exit status: 0 every promise held; 1 one did not; 2 usage.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from chaos.history import Event, events
from chaos.stores import TenantState, foreign_rows, state_of, unsealed
from ops.evidence_parts import worm_of
from ops.settings import SettingsError, environment, load
from schemas.evidence import ChainEntry, EntryKind, genesis_hash, seal

RULES = {
    "C1": "no accepted event is lost",
    "C2": "no refused or never sent event came to be",
    "C3": "every event has one decision, one entry, one artifact, one unit",
    "C4": "every repetition got the first answer, byte for byte",
    "C5": "every chain is whole and holds each accepted event once",
    "C6": "nothing is left over, and no event is both decided and dead",
    "C7": "nothing of a tenant is seen by another, or in a log",
    "C8": "the meters say what the chain and the clients say",
}
CANARY = "canary"
"""Payloads of a tenant hold `canary-<tenant_id>`, which belongs into no log, no metric, no error text."""


class Finding(NamedTuple):
    rule: str
    tenant_id: str
    words: str


def check(history: Sequence[Event], states: Sequence[TenantState]) -> list[Finding]:
    """Every broken promise that history and rows show between them. Pure."""
    by_tenant: defaultdict[str, dict[str, Event]] = defaultdict(dict)
    for event in history:
        by_tenant[event.tenant_id][event.event_id] = event
    found: list[Finding] = []
    for state in states:
        known = by_tenant[state.tenant_id]
        for rule, findings in (
            ("C1", _lost(known, state)),
            ("C2", _phantoms(known, state)),
            ("C3", _not_once(state)),
            ("C4", _other_answers(known, state)),
            ("C5", _chain(known, state)),
            ("C6", _left_over(state)),
            ("C7", _foreign_canaries(known, state.tenant_id)),
            ("C8", _meters(known, state)),
        ):
            found += [Finding(rule, state.tenant_id, words) for words in findings]
    unread = set(by_tenant) - {state.tenant_id for state in states}
    return found + [Finding("C1", tenant_id, "the stores were not read") for tenant_id in sorted(unread)]


def _lost(known: dict[str, Event], state: TenantState) -> Iterator[str]:
    for event_id, event in known.items():
        if event.accepted and not state.decided[event_id] and event_id not in state.dead:
            yield f"{event_id} was accepted and is neither decided nor dead"


def _phantoms(known: dict[str, Event], state: TenantState) -> Iterator[str]:
    for event_id in state.decided.keys() | state.dead | state.receipts.keys():
        event = known.get(event_id)
        if event is None:
            yield f"{event_id} was sent by no client"
        elif event.refused:
            yield f"{event_id} was refused by every answer and came to be"


def _not_once(state: TenantState) -> Iterator[str]:
    links = Counter(link.event_id for link in state.chain if link.kind == EntryKind.DECISION)
    for event_id in state.decided.keys() | links.keys() | state.artifacts.keys():
        counts = (state.decided[event_id], links[event_id], state.artifacts[event_id])
        if counts != (1, 1, 1):
            yield f"{event_id}: {counts[0]} decisions, {counts[1]} entries, {counts[2]} artifacts"


def _other_answers(known: dict[str, Event], state: TenantState) -> Iterator[str]:
    for event_id, event in known.items():
        if len(event.receipts) > 1:
            yield f"{event_id} got {len(event.receipts)} different receipts"
        stored = state.receipts.get(event_id)
        if stored is not None and event.receipts - {stored}:
            yield f"{event_id}: the receipt is not the one its key makes"


def _chain(known: dict[str, Event], state: TenantState) -> Iterator[str]:
    expected = genesis_hash(state.tenant_id)
    for place, link in enumerate(state.chain, start=1):
        data = link.entry.encode()
        entry = msgspec.json.decode(data, type=ChainEntry)
        if seal(entry) != (data, link.chain_hash):
            yield f"entry {link.seq} is not what its hash says"
        if (link.seq, entry.seq, entry.tenant_id) != (place, place, state.tenant_id):
            yield f"entry {link.seq} stands at place {place}"
        if not link.prev_hash == entry.prev_hash == expected:
            yield f"entry {link.seq} does not follow from the one before it"
        expected = link.chain_hash
    # A decided event may have a letter besides: of another message with its id.
    chained = Counter((link.event_id, link.kind) for link in state.chain)
    for event_id, event in known.items():
        outcome = EntryKind.DECISION if state.decided[event_id] else EntryKind.DEAD_LETTER
        if event.accepted and chained[event_id, outcome] != 1:
            yield f"{event_id} was accepted and is chained {chained[event_id, outcome]} times as {outcome}"


def _left_over(state: TenantState) -> Iterator[str]:
    if state.outbox_rows:
        yield f"{state.outbox_rows} rows are left in the outbox"
    for event_id in sorted(state.dead & state.decided.keys()):
        yield f"{event_id} is decided and dead"


def _foreign_canaries(known: dict[str, Event], tenant_id: str) -> Iterator[str]:
    for event_id, event in known.items():
        if any(CANARY in request.answer for request in event.requests):
            yield f"an answer about {event_id} of {tenant_id} holds a payload"


def _meters(known: dict[str, Event], state: TenantState) -> Iterator[str]:
    decisions = [link for link in state.chain if link.kind == EntryKind.DECISION]
    sizes = [msgspec.json.decode(link.entry, type=ChainEntry).body_bytes for link in decisions]
    due = [event for event in known.values() if _is_due(event, state)]
    bodies = [event.body_bytes for event in due if event.body_bytes is not None]
    expected = [
        ("ingest_events_total", len(decisions), "the chain says"),
        ("ingest_bytes_total", sum(sizes), "the chain says"),
        ("artifacts_bytes_stored_total", state.artifact_bytes, "the chain says"),
        ("ingest_events_total", len(due), "the clients say"),
    ]
    if len(bodies) == len(due):
        expected.append(("ingest_bytes_total", sum(bodies), "the clients say"))
    for meter, value, whose in expected:
        if state.meters.get(meter, 0) != value:
            yield f"{meter} is {state.meters.get(meter, 0)}, {whose} {value}"


def _is_due(event: Event, state: TenantState) -> bool:
    """Accepted, and not dead; of an event that no client saw answered the stores know what became."""
    if event.accepted:
        return event.event_id not in state.dead
    return not event.refused and state.decided[event.event_id] > 0


def canaries_in(files: Iterable[Path]) -> list[Finding]:
    """C7 for logs, metrics and whatever else was written down while the traffic ran."""
    return [Finding("C7", "", f"{file.name} holds a payload") for file in files if CANARY.encode() in file.read_bytes()]


async def _examine(arguments: argparse.Namespace) -> list[Finding]:
    history = list(events(arguments.ledgers))
    tenant_ids = sorted({event.tenant_id for event in history})
    states = [await state_of(arguments.dsn, tenant_id) for tenant_id in tenant_ids]
    found = check(history, states) + canaries_in(arguments.text)
    for tenant_id in tenant_ids:
        found += [Finding("C3", tenant_id, words) for words in await unsealed(arguments.dsn, tenant_id, arguments.worm)]
    for service_dsn in arguments.service_dsn:
        for tenant_id in tenant_ids:
            tables = await foreign_rows(service_dsn, tenant_id)
            found += [Finding("C7", tenant_id, f"sees rows of others in {table}") for table in tables]
    return found


def _tell(found: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        document = {rule: [finding._asdict() for finding in found if finding.rule == rule] for rule in RULES}
        print(json.dumps(document))  # noqa: T201  (a command)
        return
    for rule, promise in RULES.items():
        broken = [finding for finding in found if finding.rule == rule]
        print(f"{rule}  {'BROKEN' if broken else 'held  '}  {promise}")  # noqa: T201
        for finding in broken[:20]:
            print(f"      {finding.tenant_id} {finding.words}")  # noqa: T201
        if len(broken) > 20:
            print(f"      and {len(broken) - 20} more")  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.checker", description=__doc__.partition("\n")[0])
    parser.add_argument("ledgers", nargs="+", type=Path, help="the clients' ledgers")
    parser.add_argument("--dsn", required=True, help="Postgres as the administrator")
    parser.add_argument("--service-dsn", action="append", default=[], help="Postgres as a service; may be repeated")
    parser.add_argument("--text", nargs="*", type=Path, default=[], help="logs and metrics that must hold no payload")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        given.worm = worm_of(load(environment()).evidence)
    except (SettingsError, NotADirectoryError) as fault:
        parser.error(str(fault))
    found = asyncio.run(_examine(given))
    _tell(found, given.json)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
