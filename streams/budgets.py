"""What every stage may take, hold and try: the table that consumers, runners and `frostgate stages` follow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from schemas.codes import DeadReason
from schemas.subjects import (
    STREAM_ADVISORIES,
    STREAM_DECIDE,
    STREAM_DLQ,
    STREAM_EVENTS,
    STREAM_RETRY,
    consumer_name,
    ingest_stream,
)
from streams.settings import RetrySettings, StreamSettings

BACKOFF_MS = (5_000, 20_000, 80_000, 240_000)
"""Before the second and each further attempt, the last one as often as it takes; see `unspendable`."""
WAITED_PERCENT_MAX = 120
"""How much longer than its step a wait can be: streams/attempting.py spreads them by a fifth."""
PARKED_MS = 1_000
LETTER_PARKED_MS = 20_000
RETRY_WINDOW = 64
"""The retry lane works its messages one by one, so more of them at once would only wait for it."""
ADVISORY_CONSUMER = "advisories"

_AWAY = "the stage pauses and asks the dependency itself; no attempt is spent"
_UNPROVEN = "parked 5 s until others get through; no attempt is spent"
_SUSPECT = "suspect: attempt first, then run, in ever smaller company; at last Dead(retry_budget_exhausted)"
_OWED = "by the longest wait until the window is over, then as at first"
_EVENT_ERRORS: Mapping[str, str] = MappingProxyType(
    {
        "dependency away": _AWAY,
        "next queue full for the tenant": "parked 1 s; no attempt is spent",
        "refused by the store": "the batch is halved until the event is alone, then Dead(reason)",
        "no answer, and none for others": _UNPROVEN,
        "no answer for this event alone": "attempt, then Later by the backoff, at last Dead(retry_budget_exhausted)",
        "worker ended meanwhile": _SUSPECT,
        "unreadable": "Dead(poison)",
    }
)
_EVIDENCE_ERRORS: Mapping[str, str] = MappingProxyType(
    {
        **_EVENT_ERRORS,
        "no answer for this event alone": f"attempt, then Later by the backoff, at last {_OWED}",
        "worker ended meanwhile": f"suspect: attempt first, then run, in ever smaller company; at last {_OWED}",
    }
)
_LETTER_ERRORS: Mapping[str, str] = MappingProxyType(
    {
        "dependency away": _AWAY,
        "no answer for this letter alone": "parked 20 s, as often as it takes: nothing lies deeper",
        "refused by the store": "the batch is halved until the letter is alone, then parked 20 s, as often as it takes",
        "worker ended meanwhile": "run again, as often as it takes: nothing lies deeper",
        "unreadable": "buried as a letter of its own, reason poison",
    }
)
_RETRY_ERRORS: Mapping[str, str] = MappingProxyType(
    {
        "dependency away, next queue full": "scheduled anew after 5 s; no attempt is spent",
        "the stage pauses or has a dead-letter storm": "scheduled anew after 5 s; no attempt is spent",
        "no answer, and none for others": _UNPROVEN,
        "no answer for this event alone": "Later by the backoff, at last as its stage has it",
        "unreadable": "Dead(poison)",
    }
)
_ADVISORY_ERRORS: Mapping[str, str] = MappingProxyType(
    {
        "dependency away": _AWAY,
        "of a consumer that is not ours": "reported and left out: it settles nothing",
        "of FG_EVENTS or FG_DLQ": "the message is stored there once more: it is owed still",
        "of FG_RETRY": "buried as of the stage it waited for; evidence is stored in FG_EVENTS once more",
        "of FG_ADV": "what the terminated advisory told of is heeded",
        "unreadable": "reported and left out: it names no event",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBudget:
    """One stage's limits. `window` is W, the deliveries its consumer may have unacknowledged (DESIGN decision 6).

    `attempts_max` within `attempts_window_s` are an event's own failures; what is not its own costs
    it nothing. Without `backoff_ms` the stage has no retry lane. `buries` are the reasons for which it
    lets an event end dead. `errors` says what each class of error becomes.
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
    """Runners: each takes every n-th partition and works its batches one after the other, so that a tenant's
    events keep their order while small batches of many partitions share a transaction."""
    errors: Mapping[str, str]
    buries: frozenset[DeadReason] = frozenset(DeadReason)

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

    def consumer(self, partition: int) -> str:
        """The durable name of the consumer of that partition; a stage that is not partitioned has one."""
        if self.partitioned:
            return consumer_name(self.stage, partition)
        return ADVISORY_CONSUMER if self.stage == "advisory" else self.stage

    def filter_subject(self, partition: int) -> str:
        """What that consumer is given, "" for everything in its stream."""
        if self.partitioned:
            return f"{self.subject}.{partition}.*"
        return f"{self.subject}.>" if self.subject else ""


def unspendable(retry: RetrySettings) -> list[str]:
    """Why an event could never have all its attempts; empty when it can.

    A last attempt that comes after the window would be counted as a first one, and the event tried for ever.
    """
    waits = retry.attempts_max - 1
    steps_ms = sum(BACKOFF_MS[:waits]) + max(0, waits - len(BACKOFF_MS)) * BACKOFF_MS[-1]
    waited_s = steps_ms * WAITED_PERCENT_MAX // 100_000
    if waited_s < retry.window_seconds:
        return []
    given = f"{retry.attempts_max} attempts (FG_DP_RETRY_BUDGET_PER_EVENT)"
    return [f"FG_DP_RETRY_BUDGET_WINDOW_SEC must be more than {waited_s}: so long can the waits between {given} last"]


def stages(settings: StreamSettings, retry: RetrySettings) -> tuple[StageBudget, ...]:
    """Every stage's budget, in the order of an event's life."""
    dedupe = StageBudget(
        stage="dedupe",
        subject="fg.in",
        partitioned=True,
        window=settings.ack_pending_max,
        batch_messages_max=512,
        linger_ms=200,
        ack_wait_ms=settings.ack_wait_ms,
        attempts_max=retry.attempts_max,
        attempts_window_s=retry.window_seconds,
        backoff_ms=BACKOFF_MS,
        lanes=2,
        errors=_EVENT_ERRORS,
    )
    # One sealed, fsynced segment a batch and partition.
    evidence = replace(
        dedupe,
        stage="evidence",
        subject="fg.events",
        batch_messages_max=1_000,
        linger_ms=1_000,
        lanes=4,
        errors=_EVIDENCE_ERRORS,
        buries=frozenset(DeadReason) - {DeadReason.RETRY_BUDGET_EXHAUSTED},  # an entry without its artifact stays so
    )
    letters = replace(dedupe, batch_messages_max=64, linger_ms=50, attempts_max=0, backoff_ms=(), lanes=1)
    return (
        dedupe,
        replace(dedupe, stage="decision", subject="fg.decide", lanes=4),
        evidence,
        replace(letters, stage="dlq", subject="fg.dlq", errors=_LETTER_ERRORS, buries=frozenset()),
        replace(
            dedupe,
            stage="retry",
            subject="fg.rt",
            partitioned=False,
            window=RETRY_WINDOW,
            batch_messages_max=1,
            linger_ms=0,
            lanes=1,
            errors=_RETRY_ERRORS,
        ),
        replace(letters, stage="advisory", subject="", partitioned=False, errors=_ADVISORY_ERRORS),
    )


def budget_of(stage: str, settings: StreamSettings, retry: RetrySettings) -> StageBudget:
    """The budget of one stage. Raises KeyError for a name that is none."""
    return {budget.stage: budget for budget in stages(settings, retry)}[stage]
