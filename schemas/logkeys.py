"""The keys of every log line, null where unknown (spec, phase 3: required log correlation format)."""

REQUIRED = (
    "ts",
    "level",
    "service",
    "module",
    "trace_id",
    "span_id",
    "request_id",
    "tenant_id",
    "event_id",
    "decision_id",
    "policy_hash",
    "config_hash",
    "route",
    "status_code",
    "latency_ms",
    "error_code",
    "cb_state",
    "queue_depth",
    "retry_budget_remaining",
)
