"""From admitted envelopes to verdicts: replayed, published, or refused. One flow for one event and for a batch.

Admission order (DESIGN section 3): the one Redis call, Postgres, the gates, publish. An event is
published only when it is known that it was never stored, or when the broker is certain to say so.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge.admission import Admissions, Standing
from edge.admit import Admitted
from edge.lookups import Lookups
from edge.ports import CircuitOpen, EdgePorts, Nonce, Ticket
from edge.problem import Findings, finding
from edge.publication import Origin, Publication
from edge.publishable import Doubt, Publishable, too_old
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import EventKey
from schemas.principal import Principal

__all__ = ["Accepted", "Ingest", "Origin", "Settled", "Verdict"]


class Accepted(NamedTuple):
    """The event is stored, by this request or, `replayed`, by an earlier one."""

    key: EventKey
    replayed: bool


Verdict = Accepted | Findings
_Known = dict[str, EventKey | Findings]


class Settled(NamedTuple):
    """One verdict per event, in order, and how the tenant stands afterwards."""

    verdicts: list[Verdict]
    standing: Standing
    tries: Mapping[str, int]


class Ingest:
    """The flow over the ports."""

    def __init__(self, ports: EdgePorts, settings: EdgeSettings) -> None:
        self._coordination = ports.coordination
        self._admissions = Admissions(ports, settings)
        self._lookups = Lookups(ports.stored_keys, ports.circuits)
        self._publishable = Publishable(ports)
        self._publication = Publication(ports, self._lookups)

    async def settle(
        self, events: Sequence[Admitted], sender: Principal, origin: Origin, nonce: Nonce | None
    ) -> Settled | Findings:
        """Verdicts on events of the sender's tenant, at least one; findings when the request as a whole is refused.

        Of several with the same id the first publishable one decides for the others.
        """
        event_ids = list(dict.fromkeys(event.event_id for event in events))
        standing = await self._admissions.of(sender, event_ids, nonce)
        if not isinstance(standing, Standing):
            return standing
        known, unasked = _hinted(event_ids, standing)
        doubt = await self._look_up(events, unasked, known) if unasked else None
        barred, chosen = _choose(events, known, doubt)
        fresh: frozenset[str] = frozenset()
        if chosen:
            fresh = await self._publish(list(chosen.values()), standing, origin, known)
        verdicts = [
            barred[position]
            if position in barred
            else _verdict(event, known[event.event_id], fresh=event.event_id in fresh and position in chosen)
            for position, event in enumerate(events)
        ]
        return Settled(verdicts, standing, dict(zip(event_ids, standing.admission.tries, strict=True)))

    async def _look_up(self, events: Sequence[Admitted], unasked: list[str], known: _Known) -> Doubt | None:
        """Add to `known` what is stored. Returns what stays doubtful about the events that are not in it then."""
        tenant_id = events[0].tenant_id
        forgotten_ms = self._publishable.forgotten_until_ms()  # read first: what was settled until now, Postgres knows
        failure = await self._ask_store(tenant_id, unasked, known)
        if failure is None:
            old = [one.event_id for one in events if one.created_ms <= forgotten_ms and one.event_id not in known]
            if not old:
                return None
            doubt = await self._publishable.queued(tenant_id, forgotten_ms)
            if doubt is not None:
                return doubt
            failure = await self._ask_store(tenant_id, old, known)  # what has left the queue since is there now
        return None if failure is None else self._publishable.without_store(failure)

    async def _ask_store(self, tenant_id: str, event_ids: list[str], known: _Known) -> Findings | None:
        """Add to `known` what Postgres has stored. Returns why it did not answer, None when it did."""
        try:
            stored = await self._lookups.stored(tenant_id, event_ids)
        except CircuitOpen as open_:
            return finding(open_.code, retry_after_ms=open_.retry_after_ms)
        except NoAnswer as failure:
            return finding(failure.code)
        if stored:
            self._coordination.remember(list(stored.values()))
            known.update(stored)
        return None

    async def _publish(
        self, events: Sequence[Admitted], standing: Standing, origin: Origin, known: _Known
    ) -> frozenset[str]:
        """Publish what the gates let through, add to `known` what became of each, and return what was stored now."""
        tenant_id = events[0].tenant_id
        ticket = await self._publishable.barrier(tenant_id, standing.limits)
        if not isinstance(ticket, Ticket):
            known.update((event.event_id, ticket) for event in events)
            self._note_tries(events, standing)
            return frozenset()
        marked = origin._replace(break_glass=standing.break_glass)
        published = await self._publication.publish(events, marked, ticket)
        stored: list[EventKey] = []
        refused = False
        for event_id, answer in published.answers.items():
            if isinstance(answer, Code):
                known[event_id] = finding(answer)
                refused = True
            else:
                known[event_id] = answer
                stored.append(answer)
        self._coordination.remember(stored)
        if refused:
            self._note_tries([event for event in events if not isinstance(known[event.event_id], EventKey)], standing)
        return published.fresh

    def _note_tries(self, events: Sequence[Admitted], standing: Standing) -> None:
        if not standing.break_glass:
            self._coordination.tried(events[0].tenant_id, [event.event_id for event in events])


def _hinted(event_ids: Sequence[str], standing: Standing) -> tuple[_Known, list[str]]:
    """What the store's answer alone settles, and the ids that Postgres must be asked about."""
    admission = standing.admission
    known: _Known = {}
    unasked: list[str] = []
    for event_id, key, admitted in zip(event_ids, admission.keys, admission.admitted, strict=True):
        if not admitted:
            known[event_id] = finding(Code.RATE_LIMITED, retry_after_ms=admission.retry_after_ms)
        elif key is not None:
            known[event_id] = key
        else:
            unasked.append(event_id)
    return known, unasked


def _choose(
    events: Sequence[Admitted], known: _Known, doubt: Doubt | None
) -> tuple[dict[int, Findings], dict[int, Admitted]]:
    """Those of the unknown events that may not be published, and the first of each id that may, by position."""
    barred: dict[int, Findings] = {}
    chosen: dict[int, Admitted] = {}
    taken: set[str] = set()
    for position, event in enumerate(events):
        if event.event_id in known:
            continue
        reason = too_old(event, doubt)
        if reason is not None:
            barred[position] = reason
        elif event.event_id not in taken:
            taken.add(event.event_id)
            chosen[position] = event
    return barred, chosen


def _verdict(event: Admitted, answer: EventKey | Findings, *, fresh: bool) -> Verdict:
    if not isinstance(answer, EventKey):
        return answer
    if answer.body_sha256 != event.body_sha256:
        return finding(Code.EVENT_ID_PAYLOAD_MISMATCH)
    return Accepted(answer, replayed=not fresh)
