"""The variables of the specification's phase 2.1 A, with exactly its names and defaults."""

from ops.settings_types import Service, Variable, key_template, rate, rates_by_tier, whole

_UP, _EDGE, _WORKER, _MIGRATE, _CLIENT = Service

INGEST_FAIRNESS = (
    Variable(
        name="FG_DP_INGEST_RPS_BASE",
        parse=whole(1),
        default="20",
        unit="events/second",
        description="Ingest rate every tenant is sure of.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_INGEST_RPS_BURST",
        parse=whole(1),
        default="120",
        unit="events",
        description="Events a tenant may send at once above its rate.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON",
        parse=rates_by_tier,
        default='{"free":10,"pro":40,"enterprise":120}',
        unit="events/second",
        description="Ingest rate by plan tier, in place of the base.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_INGEST_QUOTA_TIER_JSON",
        parse=rates_by_tier,
        default='{"free":3000000}',
        unit="events/month",
        description="Events a plan tier may have decided in a calendar month (UTC); a tier not named has no quota.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_INGEST_P95_HARD_MS",
        parse=whole(1),
        default="200",
        unit="milliseconds",
        description="p95 of ingest above which an edge throttles the tenants that cause it.",
        services=(_EDGE,),
    ),
)

QUEUE_PROTECTION = (
    Variable(
        name="FG_DP_REDIS_QUEUE_WARN_DEPTH",
        parse=whole(1),
        default="5000",
        unit="messages",
        description="Depth of a tenant's queue worth a warning.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_REDIS_QUEUE_SHED_DEPTH",
        parse=whole(1),
        default="8000",
        unit="messages",
        description="Depth from which a tenant is asked to slow down (429).",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH",
        parse=whole(1),
        default="12000",
        unit="messages",
        description="Depth at which a tenant's events are refused (503); the broker itself holds this limit.",
        services=(_EDGE, _WORKER, _MIGRATE),
    ),
    Variable(
        name="FG_DP_QUEUE_KEY_TEMPLATE",
        parse=key_template,
        default="fg:q:{tenant_id}:{lane}",
        description="Key of a queue's view in the coordination store.",
        services=(_EDGE,),
    ),
)

CIRCUIT_BREAKER = (
    Variable(
        name="FG_DP_CB_ERROR_RATE_THRESHOLD",
        parse=rate,
        default="0.08",
        unit="share",
        description="Share of failures over the rolling window that opens a circuit.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_CB_LATENCY_P95_MS",
        parse=whole(1),
        default="350",
        unit="milliseconds",
        description="95th percentile of latency that opens a circuit.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_CB_OPEN_SECONDS",
        parse=whole(1),
        default="30",
        unit="seconds",
        description="Time a circuit stays open before it is tried again.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_CB_HALF_OPEN_PROBE",
        parse=whole(1),
        default="25",
        unit="requests",
        description="Requests let through while a circuit is half open.",
        services=(_EDGE,),
    ),
)

RETRY_AND_DLQ = (
    Variable(
        name="FG_DP_RETRY_BUDGET_PER_EVENT",
        parse=whole(1),
        default="5",
        unit="attempts",
        description="Attempts an event may fail by its own fault before it is dead; agents see what is left. "
        "The waits between them must fit the window: 5 need 415 s, each further one 288 s more.",
        services=(_EDGE, _WORKER),
    ),
    Variable(
        name="FG_DP_RETRY_BUDGET_WINDOW_SEC",
        parse=whole(1),
        default="900",
        unit="seconds",
        description="Time within which those attempts count, from the first one; it must hold the waits between them.",
        services=(_EDGE, _WORKER),
    ),
    Variable(
        name="FG_DP_DLQ_MAX_AGE_SEC",
        parse=whole(1),
        default="86400",
        unit="seconds",
        description="Age from which a dead letter is reported as waiting for an operator. It is kept until one, or "
        "`frostgate retention run`, takes it.",
        services=(_WORKER,),
    ),
    Variable(
        name="FG_DP_DLQ_ALERT_DEPTH",
        parse=whole(1),
        default="200",
        unit="letters",
        description="Dead letters waiting for an operator from which the worker says it is not ready.",
        services=(_WORKER,),
    ),
    Variable(
        name="FG_DP_DLQ_STORM_RATIO",
        parse=rate,
        default="0.5",
        description="Share of a stage's last deliveries ending dead from which the stage pauses instead of burying on.",
        services=(_WORKER,),
    ),
)

RETENTION = (
    Variable(
        name="FG_DP_RETENTION_DAYS_TIER_JSON",
        parse=rates_by_tier,
        default='{"free":7,"pro":90,"enterprise":365}',
        unit="days",
        description="How long raw events are kept, by plan; `frostgate retention run` removes what is older. Also how "
        "long an object store is told to lock the evidence of each plan.",
        services=(_WORKER, _CLIENT),
    ),
)
