"""Streams and consumers as data: what must exist, how it is made, and how the live ones differ.

`apply` creates what is missing and brings consumers to what this version declares; it never changes a
stream: a live one that differs is reported by name (`drift`), because silently repairing a durability
setting would hide who changed it. One alone is made anew, once and empty (streams/remaking.py). A
consumer holds no promise but its position, which an update keeps (docs/adr/0012). DESIGN decisions 1,
5 and 6 give the reason of each value.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from schemas.subjects import (
    PARTITIONS,
    STREAM_ADVISORIES,
    STREAM_DECIDE,
    STREAM_DLQ,
    STREAM_EVENTS,
    STREAM_RETRY,
    ingest_stream,
)
from streams.budgets import StageBudget, budget_of, stages
from streams.jetstream import ApiError, JetStream
from streams.pin import PIN_GROUP, PIN_TIMEOUT_MS
from streams.remaking import retired
from streams.settings import RetrySettings, StreamSettings

NS_PER_MS = 1_000_000
DAY_NS = 86_400 * 1_000_000_000
UNKNOWN_STREAM = 10059
UNKNOWN_CONSUMER = 10014
CONSUMERS_MAX = 400
HISTORY_DAYS = 30
ADVISORY_DAYS = 7
UNPROMISED = frozenset({(STREAM_RETRY, "retention")})
"""An upgrade has to wait here until nothing is retried; events are accepted meanwhile."""


class ConsumerSpec(NamedTuple):
    stream: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.config["durable_name"])


def streams(settings: StreamSettings) -> list[dict[str, Any]]:
    """Every stream's declared configuration, in the words of the JetStream API."""
    # Swept behind the consumers instead of a work queue, whose every deletion is an fsync: streams/sweeper.py.
    queue = {
        "retention": "limits",
        "discard": "new",
        "discard_new_per_subject": True,
        "max_msgs_per_subject": settings.tenant_messages_max,
        "allow_atomic": True,
    }
    history = {"retention": "limits", "discard": "new", "deny_purge": True, "deny_delete": True}
    kept = {"max_age": HISTORY_DAYS * DAY_NS, "allow_atomic": True, **history}
    ingest = [
        {
            "name": ingest_stream(shard),
            "subjects": [f"fg.in.{p}.*" for p in range(PARTITIONS) if p % settings.shards == shard],
            **queue,
        }
        for shard in range(settings.shards)
    ]
    others: list[dict[str, Any]] = [
        {"name": STREAM_DECIDE, "subjects": ["fg.decide.*.*"], **queue},
        {"name": STREAM_EVENTS, "subjects": ["fg.events.*.*"], **kept},
        # Scheduled messages exclude discard=new (error 10052), so this stream has no limit that could evict. No work
        # queue: what is terminated must still be there to be buried. What is settled is swept (streams/sweeper.py).
        {
            "name": STREAM_RETRY,
            "subjects": ["fg.rs.*.*.*", "fg.rt.*.*"],
            "retention": "limits",
            "discard": "old",
            "allow_msg_schedules": True,
            "allow_msg_ttl": True,
        },
        # A dead letter carries a whole message in base64, a third longer.
        {"name": STREAM_DLQ, "subjects": ["fg.dlq.*.*"], "max_msg_size": settings.message_bytes_max * 3 // 2, **kept},
        {
            "name": STREAM_ADVISORIES,
            "subjects": [
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
            ],
            "max_age": ADVISORY_DAYS * DAY_NS,
            **history,
        },
    ]
    common = {
        "storage": "file",
        "num_replicas": settings.replicas,
        "duplicate_window": settings.duplicate_window_ms * NS_PER_MS,
        "max_msg_size": settings.message_bytes_max,
        "max_consumers": CONSUMERS_MAX,
        "allow_direct": True,
    }
    return [{**common, **stream} for stream in ingest + others]


_NO_BUDGET = RetrySettings(
    attempts_max=0, window_seconds=0, dlq_age_seconds_max=0, dlq_alert_depth=0, dlq_storm_ratio=0.0
)
"""What a consumer is does not depend on how often its events may fail."""
_NOWHERE = StreamSettings(url="", system_url="", replicas=1, shards=1, tenant_messages_max=1)
"""What a stage is called and which subjects it reads depends on no settings at all."""

STAGE_SUBJECT = {budget.stage: budget.subject for budget in stages(_NOWHERE, _NO_BUDGET) if budget.partitioned}
STAGES = tuple(STAGE_SUBJECT)


def stage_stream(stage: str, partition: int, settings: StreamSettings) -> str:
    """The stream a stage reads a partition from."""
    return budget_of(stage, settings, _NO_BUDGET).stream(partition, settings)


def consumers(settings: StreamSettings) -> list[ConsumerSpec]:
    """One pull consumer per partition and stage, and one for each stage without partitions."""
    return [
        ConsumerSpec(budget.stream(partition, settings), _consumer(budget, partition))
        for budget in stages(settings, _NO_BUDGET)
        for partition in (range(PARTITIONS) if budget.partitioned else range(1))
    ]


def _consumer(budget: StageBudget, partition: int) -> dict[str, Any]:
    # No max_deliver: the broker's count also grows when a worker dies or a store is away, and must
    # never be what condemns an event (DESIGN decision 14).
    config = {
        "durable_name": budget.consumer(partition),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": budget.ack_wait_ms * NS_PER_MS,
        "max_ack_pending": budget.window,
        "max_deliver": -1,
        "num_replicas": 0,
        "filter_subject": budget.filter_subject(partition),
    }
    if not budget.partitioned:
        return config
    # One worker at a time works a partition, and stays its owner: streams/pin.py.
    pinned = {"priority_groups": [PIN_GROUP], "priority_policy": "pinned_client"}
    return {**config, **pinned, "priority_timeout": PIN_TIMEOUT_MS * NS_PER_MS}


async def apply(url: str, settings: StreamSettings) -> list[str]:
    """Connect as the administrator, create what is missing and update the consumers.

    Returns the names of both; raises ApiError and NoAnswer.
    """
    jetstream = await JetStream.connect(url, "admin")
    try:
        return await create_missing(jetstream, settings) + await update_consumers(jetstream, settings)
    finally:
        await jetstream.close()


async def create_missing(jetstream: JetStream, settings: StreamSettings) -> list[str]:
    """Create every stream and consumer that is missing; returns the names created. Raises ApiError, NoAnswer."""
    created: list[str] = []
    for stream in streams(settings):
        live = await _live_stream(jetstream, stream["name"])
        first_seq = 1 if live is None else await retired(jetstream, live, stream)
        if first_seq is not None:
            await jetstream.api(f"STREAM.CREATE.{stream['name']}", {**stream, "first_seq": first_seq}, dict)
            created.append(stream["name"])
    for consumer in consumers(settings):
        if await _live_consumer(jetstream, consumer) is None:
            request = {"stream_name": consumer.stream, "config": consumer.config, "action": "create"}
            await jetstream.api(f"CONSUMER.CREATE.{consumer.stream}.{consumer.name}", request, dict)
            created.append(f"{consumer.stream}/{consumer.name}")
    return created


async def update_consumers(jetstream: JetStream, settings: StreamSettings) -> list[str]:
    """Give every live consumer that differs its declared configuration; returns their names.

    Its position, and what it has delivered, stay. Raises ApiError, also for what no update may change, and NoAnswer.
    """
    updated: list[str] = []
    for consumer in consumers(settings):
        live = await _live_consumer(jetstream, consumer)
        if live is not None and _differences(consumer.name, consumer.config, live):
            request = {"stream_name": consumer.stream, "config": consumer.config, "action": "update"}
            await jetstream.api(f"CONSUMER.CREATE.{consumer.stream}.{consumer.name}", request, dict)
            updated.append(f"{consumer.stream}/{consumer.name}")
    return updated


async def stream_drift(jetstream: JetStream, settings: StreamSettings) -> list[str]:
    """Every difference between the declared and the live streams, by name. Empty means none. Raises NoAnswer."""
    return await _drift(jetstream, streams(settings))


async def durability_drift(jetstream: JetStream, settings: StreamSettings) -> list[str]:
    """As `stream_drift`, without what no acknowledgement depends on: UNPROMISED."""
    declared = [
        {key: value for key, value in stream.items() if (stream["name"], key) not in UNPROMISED}
        for stream in streams(settings)
    ]
    return await _drift(jetstream, declared)


async def _drift(jetstream: JetStream, declared: Sequence[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for stream in declared:
        live = await _live_stream(jetstream, stream["name"])
        found += _differences(stream["name"], stream, live)
    return found


async def consumer_drift(jetstream: JetStream, settings: StreamSettings) -> list[str]:
    """The same for the consumers."""
    found: list[str] = []
    for consumer in consumers(settings):
        live = await _live_consumer(jetstream, consumer)
        found += _differences(f"{consumer.stream}/{consumer.name}", consumer.config, live)
    return found


def _differences(name: str, declared: Mapping[str, Any], live: Mapping[str, Any] | None) -> list[str]:
    if live is None:
        return [f"{name}: missing"]
    # The server leaves out what is false, zero or empty.
    return [
        f"{name}: {key} is {live.get(key)!r}, declared {value!r}"
        for key, value in declared.items()
        if (live.get(key) or None) != (value or None)
    ]


async def _live_stream(jetstream: JetStream, name: str) -> dict[str, Any] | None:
    try:
        answer = await jetstream.api(f"STREAM.INFO.{name}", None, dict)
    except ApiError as failure:
        if failure.error.err_code == UNKNOWN_STREAM:
            return None
        raise
    return dict(answer["config"])


async def _live_consumer(jetstream: JetStream, consumer: ConsumerSpec) -> dict[str, Any] | None:
    try:
        answer = await jetstream.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.name}", None, dict)
    except ApiError as failure:
        if failure.error.err_code in {UNKNOWN_CONSUMER, UNKNOWN_STREAM}:
            return None
        raise
    return dict(answer["config"])
