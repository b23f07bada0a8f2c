"""Recorded decisions with the events they were made about, newest first, for a rehearsal of other rules."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from sinks.pg import Pool

PAGE_ROWS = 200
_FIRST = 2**63 - 1

# The body lies in the partition of its day: with its moment the look-up reads one partition's key, not all of them.
_PAGE = """
SELECT d.decision_id, d.event_id, d.policy_code, d.policy_reasons, d.features, e.body,
    d.decided_at >= $3::text::timestamptz AS wanted
FROM decisions AS d
LEFT JOIN LATERAL (
    SELECT body FROM ingest_events AS i
    WHERE i.tenant_id = d.tenant_id AND i.event_id = d.event_id AND i.ingest_ts = d.ingest_ts
) AS e ON true
WHERE d.tenant_id = $1 AND d.decision_id < $2
ORDER BY d.decision_id DESC
LIMIT $4
"""


class Recorded(NamedTuple):
    """One decision as it was recorded. `features` is JSON; `body` is None once the event is no longer kept."""

    event_id: str
    policy_code: str
    reasons: tuple[str, ...]
    features: bytes
    body: bytes | None


class RecordedDecisions:
    """For `fg_admin`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def since(self, tenant_id: str, moment: str) -> AsyncIterator[Recorded]:
        """The tenant's decisions made at that moment (RFC 3339) or later, page by page. Raises NoAnswer.

        Ends with the first page of which none is so young: the chain's order is that of decisions but for the clocks
        of several workers.
        """
        before = _FIRST
        while True:
            async with self._pool.tenant_transaction([tenant_id]) as connection:
                rows = await connection.fetch(_PAGE, tenant_id, before, moment, PAGE_ROWS)
            for _, event_id, code, reasons, features, body, wanted in rows:
                if wanted:
                    yield Recorded(event_id, code, tuple(reasons), features.encode(), body)
            if not any(row["wanted"] for row in rows):
                return
            before = rows[-1]["decision_id"]
