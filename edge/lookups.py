"""Look-ups in Postgres: one query for all who wait, one for a whole batch (DESIGN decision 3)."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from edge.coalesce import Coalescer
from edge.ports import Circuits, Component, StoredKeys
from edge.turns import Turns
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.envelope import EventKey

LINGER_MS = 1.0
IDS_MAX = 1_000
ANSWER_S_MAX = 1.0
"""A database that hangs must not hold every request for as long as a statement may take."""


class Lookups:
    """The stored keys of events, looked up together where several requests wait, of whichever tenants."""

    def __init__(self, stored_keys: StoredKeys, circuits: Circuits) -> None:
        self._stored_keys = stored_keys
        self._circuits = circuits
        # A turn is waited for before the circuit is asked: the wait for our own connections is not Postgres's latency.
        self._turns = Turns(stored_keys.at_once, Code.STORE_UNAVAILABLE)
        self._singles: Coalescer[tuple[str, str], EventKey | None] = Coalescer(self._fetch, LINGER_MS, IDS_MAX)

    async def stored(self, tenant_id: str, event_ids: Sequence[str]) -> Mapping[str, EventKey]:
        """The keys of those events that have one. Raises NoAnswer(STORE_UNAVAILABLE) or CircuitOpen."""
        if len(event_ids) == 1:
            key = await self._singles.ask((tenant_id, event_ids[0]))
            return {} if key is None else {key.event_id: key}
        keys = await self._in_turn([(tenant_id, event_id) for event_id in event_ids])
        return {event_id: key for (_, event_id), key in keys.items()}

    async def _fetch(self, identities: Sequence[tuple[str, str]]) -> Sequence[EventKey | None]:
        keys = await self._in_turn(identities)
        return [keys.get(identity) for identity in identities]

    async def _in_turn(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventKey]:
        async with self._turns.one():
            return await self._ask(identities)

    async def _ask(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], EventKey]:
        ticket = await self._circuits.enter(Component.POSTGRES)
        started_s = time.perf_counter()
        failed = True
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                keys = await self._stored_keys.stored(identities)
            failed = False
        except TimeoutError:
            raise NoAnswer(Code.STORE_UNAVAILABLE) from None
        finally:
            elapsed_ms = (time.perf_counter() - started_s) * 1000
            self._circuits.record(Component.POSTGRES, None, ticket, failed=failed, elapsed_ms=elapsed_ms)
        return keys
