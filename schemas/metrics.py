"""Every metric, declared once: name, kind, labels, help. Names are the spec's; backends live in `ops/telemetry.py`.

`service` says which process owns the series, so that the supervisor can join both processes'
expositions without two owners of one series; one that every service measures has a label that
tells them apart. A `tenant_id` label is always bounded by
`ops/telemetry.py` (50 tenants, everyone else is `_other`).
"""

from typing import NamedTuple

EVERY_SERVICE = "every"
ALL_TENANTS = "_all"
"""The `tenant_id` of what belongs to nobody in particular; not a legal tenant id."""


class Metric(NamedTuple):
    name: str
    kind: str
    service: str
    labels: tuple[str, ...]
    help: str


INGEST_REQUESTS = Metric(
    "frostgate_ingest_requests_total",
    "counter",
    "edge",
    ("tenant_id", "plan", "outcome"),
    "Events offered to the edge, by the outcome of each",
)
INGEST_REJECTED = Metric(
    "frostgate_ingest_rejected_total",
    "counter",
    "edge",
    ("tenant_id", "reason"),
    "Events refused by the edge, by stable code in lower case",
)
INGEST_LATENCY_MS = Metric(
    "frostgate_ingest_latency_ms",
    "histogram",
    "edge",
    ("phase", "tenant_id"),
    "Time of one ingest request, milliseconds",
)
QUEUE_DEPTH = Metric(
    "frostgate_redis_queue_depth",
    "gauge",
    "edge",
    ("tenant_id", "lane"),
    "Unsettled messages of a tenant in each lane, as the shared depth view has them",
)
HOT_TENANT_SHARE = Metric(
    "frostgate_hot_tenant_share",
    "gauge",
    "edge",
    ("partition",),
    "Share of a partition's unsettled messages that belongs to its deepest tenant",
)
THROTTLE_FACTOR = Metric(
    "frostgate_tenant_throttle_factor",
    "gauge",
    "edge",
    ("tenant_id",),
    "Part of its rate that a tenant may use at this edge: 1 unless it is being throttled",
)
CIRCUIT_STATE = Metric(
    "frostgate_circuit_state",
    "gauge",
    "edge",
    ("component", "tenant_id"),
    "0 closed, 1 half-open, 2 open; tenant_id is _all for the circuit of everybody",
)
RETRY_BUDGET_REMAINING = Metric(
    "frostgate_retry_budget_remaining",
    "gauge",
    "edge",
    ("tenant_id", "event_class"),
    "Tries left of what was offered again last: stored, or refused again",
)
BREAK_GLASS_EVENTS = Metric(
    "frostgate_break_glass_events_total",
    "counter",
    "edge",
    ("tenant_id",),
    "Events accepted under an armed break-glass document",
)
PUBLISH_BATCH_EVENTS = Metric(
    "frostgate_publish_batch_events",
    "histogram",
    EVERY_SERVICE,  # each publishes to streams of its own
    ("stream",),
    "Messages in each group commit",
)
STAGE_EVENTS = Metric(
    "frostgate_stage_events_total",
    "counter",
    "worker",
    ("stage", "fate"),
    "Deliveries settled by each stage, by fate",
)
STAGE_PAUSED = Metric(
    "frostgate_stage_paused",
    "gauge",
    "worker",
    ("stage",),
    "1 while the stage waits for a dependency, else 0",
)
PIPELINE_PHASE_MS = Metric(
    "frostgate_pipeline_phase_latency_ms",
    "histogram",
    "worker",
    ("phase",),
    "Time of features, policy and scoring for one event, and of all three (`total`), milliseconds",
)
DB_WRITE_MS = Metric(
    "frostgate_db_write_latency_ms",
    "histogram",
    "worker",
    ("table", "operation"),
    "BEGIN to COMMIT acknowledged, milliseconds",
)
DLQ_EVENTS = Metric(
    "frostgate_dlq_events_total",
    "counter",
    "worker",
    ("tenant_id", "reason"),
    "Events that ended in the dead-letter queue",
)

RETRIES = Metric(
    "frostgate_retries_total",
    "counter",
    "worker",
    ("stage", "code"),
    "Attempts an event failed by its own fault and was sent to the retry lane, by code",
)
STAGE_STALLS = Metric(
    "frostgate_stage_stalls_total",
    "counter",
    "worker",
    ("stage",),
    "Consumers with a backlog and no progress for 10 s that were bound anew",
)
STAGE_STORM = Metric(
    "frostgate_stage_dlq_storm",
    "gauge",
    "worker",
    ("stage",),
    "1 while the stage pauses because too many of its deliveries end dead, else 0",
)
TAKEOVERS = Metric(
    "frostgate_partition_takeovers_total",
    "counter",
    "worker",
    ("stage",),
    "Partitions this worker took over from an owner that was gone",
)
DLQ_WAITING = Metric(
    "frostgate_dlq_waiting_letters",
    "gauge",
    "worker",
    (),
    "Dead letters that no operator has taken yet",
)
DLQ_AGED = Metric(
    "frostgate_dlq_aged_letters",
    "gauge",
    "worker",
    (),
    "Dead letters waiting for longer than FG_DP_DLQ_MAX_AGE_SEC",
)
CHAIN_FAILURES = Metric(
    "frostgate_hashchain_verification_fail_total",
    "counter",
    "worker",
    ("reason",),
    "Checks of stored evidence that failed",
)
CHECKPOINT_AGE_S = Metric(
    "frostgate_checkpoint_age_seconds",
    "gauge",
    "worker",
    ("partition",),
    "Age of the oldest committed entry of the partition that no checkpoint covers yet",
)
RLS_DENIED = Metric(
    "frostgate_rls_denied_queries_total",
    "counter",
    EVERY_SERVICE,
    ("service",),
    "Statements that Postgres refused for want of a tenant or a right",
)

ALL = (
    INGEST_REQUESTS,
    INGEST_REJECTED,
    INGEST_LATENCY_MS,
    QUEUE_DEPTH,
    HOT_TENANT_SHARE,
    THROTTLE_FACTOR,
    CIRCUIT_STATE,
    RETRY_BUDGET_REMAINING,
    BREAK_GLASS_EVENTS,
    PUBLISH_BATCH_EVENTS,
    STAGE_EVENTS,
    STAGE_PAUSED,
    PIPELINE_PHASE_MS,
    DB_WRITE_MS,
    DLQ_EVENTS,
    RETRIES,
    STAGE_STALLS,
    STAGE_STORM,
    TAKEOVERS,
    DLQ_WAITING,
    DLQ_AGED,
    CHAIN_FAILURES,
    CHECKPOINT_AGE_S,
    RLS_DENIED,
)
