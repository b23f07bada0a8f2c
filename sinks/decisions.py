"""What became of events, as the documents an agent gets that waited for them."""

from collections.abc import Mapping, Sequence

import msgspec

from sinks.pg import Pool

_DECIDED = """
SELECT tenant_id, event_id, trace_id, verdict, policy_code, policy_reasons, score, decided_at, chain_seq, chain_hash,
    reason_code
FROM app.decided($1::text[], $2::text[])
"""
_OF_A_DECISION = ("verdict", "policy_code", "policy_reasons", "score", "decided_at", "chain_seq", "chain_hash")
_OF_A_DEAD_LETTER = ("reason_code",)
_OF_BOTH = ("tenant_id", "event_id", "trace_id")


class Decisions:
    """For `fg_edge`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def decided(self, identities: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], bytes]:
        """The documents of those events, (tenant_id, event_id) each, that are decided or dead. Raises NoAnswer.

        `status` is `decided`, with the decision and its place in the tenant's chain, or `dead`, with the reason.
        """
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_DECIDED, *zip(*identities, strict=True))
        return {(row["tenant_id"], row["event_id"]): _document(row) for row in rows}


def _document(row: Mapping[str, object]) -> bytes:
    dead = row["reason_code"] is not None
    names = (*_OF_BOTH, *(_OF_A_DEAD_LETTER if dead else _OF_A_DECISION))
    return msgspec.json.encode({"status": "dead" if dead else "decided", **{name: row[name] for name in names}})
