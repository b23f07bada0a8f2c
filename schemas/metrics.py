"""Every metric, declared once: name, kind, labels, help. Names are the spec's; backends live in `ops/telemetry.py`.

`service` says which process owns the series, so that the supervisor can join both processes'
expositions without two owners of one series; one that every service measures has a label that
tells them apart. A `tenant_id` label is always bounded by
`ops/telemetry.py` (50 tenants, everyone else is `_other`).
"""

from typing import NamedTuple

EVERY_SERVICE = "every"


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
    "Time of features, policy and scoring for one event, milliseconds",
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

ALL = (
    INGEST_REQUESTS,
    INGEST_REJECTED,
    INGEST_LATENCY_MS,
    PUBLISH_BATCH_EVENTS,
    STAGE_EVENTS,
    STAGE_PAUSED,
    PIPELINE_PHASE_MS,
    DB_WRITE_MS,
    DLQ_EVENTS,
)
