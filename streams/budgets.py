"""What every stage may take, hold and try: the table that consumers, runners and `frostgate stages` follow."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from schemas.subjects import STREAM_ADVISORIES, STREAM_DECIDE, STREAM_DLQ, STREAM_EVENTS, STREAM_RETRY, ingest_stream
from streams.settings import StreamSettings

BACKOFF_MS = (5_000, 20_000, 80_000, 240_000)
"""Before the second and each further attempt; all of them fit into the 900 s of an event's budget."""
PARKED_MS = 1_000

_ERRORS: Mapping[str, str] = MappingProxyType(
    {
        "dependency away": "the stage pauses and asks the dependency itself; no attempt is spent",
        "next queue full for the tenant": "parked 1 s; no attempt is spent",
        "refused by the store": "the batch is halved until the event is alone, then Dead(reason)",
        "no answer for this event alone": "attempt, then Later by the backoff, at last Dead(retry_budget_exhausted)",
        "worker ended meanwhile": "suspect: attempt first, then run; at last Dead(retry_budget_exhausted)",
        "unreadable": "Dead(poison)",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBudget:
    """One stage's limits. `window` is W, the deliveries its consumer may have unacknowledged (DESIGN decision 6).

    `attempts_max` within `attempts_window_s` are an event's own failures; what is not its own costs
    it nothing. `errors` says what each class of error becomes.
    """

    stage: str
    subject: str
    partitioned: bool
    window: int
    batch_messages_max: int
    linger_ms: int
    ack_wait_ms: int
    attempts_max: int
    attempts_window_s: int
    backoff_ms: tuple[int, ...]
    lanes: int
    errors: Mapping[str, str]

    def stream(self, partition: int, settings: StreamSettings) -> str:
        """The stream this stage reads that partition from."""
        return {
            "dedupe": ingest_stream(partition % settings.shards),
            "decision": STREAM_DECIDE,
            "evidence": STREAM_EVENTS,
            "dlq": STREAM_DLQ,
            "retry": STREAM_RETRY,
            "advisory": STREAM_ADVISORIES,
        }[self.stage]
