"""Every variable of the environment, declared once: the reader, the documentation and `doctor` all use this table."""

from ops.settings_edge import EDGE_SECURITY
from ops.settings_evidence import EVIDENCE
from ops.settings_flags import CIRCUIT_BREAKER, INGEST_FAIRNESS, QUEUE_PROTECTION, RETENTION, RETRY_AND_DLQ
from ops.settings_types import (
    Service,
    Variable,
    choice,
    flag,
    path,
    secret,
    text,
    url,
    urls,
    version,
    versions,
    whole,
)

_UP, _EDGE, _WORKER, _MIGRATE, _CLIENT = Service
_SERVERS = (_UP, _EDGE, _WORKER)
_STREAM_USERS = (_EDGE, _WORKER, _MIGRATE)
_ALL = tuple(Service)

_PROFILE = (
    Variable(
        name="FG_ENV",
        parse=choice("dev", "prod"),
        default="dev",
        description="Profile. `prod` refuses every setting that could let an event pass undecided.",
        services=_ALL,
    ),
    Variable(
        name="FG_LOG_LEVEL",
        parse=choice("debug", "info", "warning", "error"),
        default="info",
        description="Least severe log line that is written to stderr.",
        services=_SERVERS,
    ),
    Variable(
        name="FG_DATA_DIR",
        parse=path,
        default=".frostgate",
        description="Directory of the embedded stack, and of the positions of `frostgate agent tail`.",
        services=_ALL,
    ),
    Variable(
        name="FG_EMBEDDED_USER",
        parse=text,
        default="nobody",
        description="System user the embedded Postgres runs as when `frostgate up` is started by root.",
        services=(_UP,),
    ),
)

_DEPENDENCIES = (
    Variable(
        name="FG_NATS_URL",
        parse=urls("nats", "tls", "ws", "wss"),
        default=None,
        description="NATS servers, with the user of this service; several with commas between.",
        services=_STREAM_USERS,
        required_by=_STREAM_USERS,
    ),
    Variable(
        name="FG_NATS_SYSTEM_URL",
        parse=urls("nats", "tls", "ws", "wss"),
        default=None,
        description="The same servers with a user of the system account: the proof of durability asks through it.",
        services=(_EDGE,),
        required_by=(_EDGE,),
    ),
    Variable(
        name="FG_NATS_REPLICAS",
        parse=whole(1),
        default="1",
        unit="replicas",
        description="Copies of every stream: 1, 3 or 5.",
        services=_STREAM_USERS,
    ),
    Variable(
        name="FG_NATS_SHARDS",
        parse=whole(1),
        default="1",
        unit="streams",
        description="Number of ingest streams: the number of NATS nodes. Fixed for the life of the data.",
        services=_STREAM_USERS,
    ),
    Variable(
        name="FG_POSTGRES_DSN",
        parse=url("postgresql", "postgres"),
        default=None,
        description="Postgres, with the role of this service (`fg_edge` or `fg_worker`).",
        services=(_EDGE, _WORKER),
        required_by=(_EDGE, _WORKER),
    ),
    Variable(
        name="FG_POSTGRES_POOL_SIZE",
        parse=whole(1, 1_000),
        default="8",
        unit="connections",
        description="Connections one process keeps to Postgres. An edge keeps at least 5 and shares them out: two for "
        "credentials and two for reads and waits (of fewer than 8, one each), one for limits, one for the standing "
        "checks, and all others for the look-ups of ingest.",
        services=(_EDGE, _WORKER),
    ),
    Variable(
        name="FG_POSTGRES_STATEMENT_CACHE_SIZE",
        parse=whole(0, 10_000),
        default="0",
        unit="statements",
        description="Prepared statements kept per connection. 0 is safe behind any PgBouncer.",
        services=(_EDGE, _WORKER),
    ),
    Variable(
        name="FG_ADMIN_POSTGRES_DSN",
        parse=url("postgresql", "postgres"),
        default=None,
        description="Postgres for operators: the role `fg_admin` is enough, but `migrate` needs the administrator.",
        services=(_MIGRATE, _CLIENT),
        required_by=(_MIGRATE,),
    ),
    Variable(
        name="FG_EDGE_POSTGRES_PASSWORD",
        parse=secret,
        default=None,
        description="Password `frostgate migrate` gives the role `fg_edge`; empty leaves it as it is.",
        services=(_MIGRATE,),
        secret=True,
    ),
    Variable(
        name="FG_WORKER_POSTGRES_PASSWORD",
        parse=secret,
        default=None,
        description="Password `frostgate migrate` gives the role `fg_worker`; empty leaves it as it is.",
        services=(_MIGRATE,),
        secret=True,
    ),
    Variable(
        name="FG_ADMIN_ROLE_POSTGRES_PASSWORD",
        parse=secret,
        default=None,
        description="Password `frostgate migrate` gives the role `fg_admin`; empty leaves it as it is.",
        services=(_MIGRATE,),
        secret=True,
    ),
    Variable(
        name="FG_REDIS_URL",
        parse=url("redis", "rediss", "unix"),
        default=None,
        description="Redis or Valkey, the coordination store; `keys issue --ed25519` begins its memory of nonces.",
        services=(_EDGE, _CLIENT),
        required_by=(_EDGE,),
    ),
    Variable(
        name="FG_REDIS_TIMEOUT_MS",
        parse=whole(5, 5_000),
        default="50",
        unit="milliseconds",
        description="How long admission waits for Redis before it refuses with `RATE_LIMIT_BACKEND_UNAVAILABLE`.",
        services=(_EDGE,),
    ),
)

_ADDRESSES = (
    Variable(
        name="FG_HTTP_HOST",
        parse=text,
        default="127.0.0.1",
        description="Address the edge listens on.",
        services=(_UP, _EDGE),
    ),
    Variable(
        name="FG_HTTP_PORT",
        parse=whole(0, 65_535),
        default="8080",
        description="Port the edge listens on; 0 takes a free one.",
        services=(_UP, _EDGE),
    ),
    Variable(
        name="FG_EDGE_WORKERS",
        parse=whole(1, 64),
        default="1",
        unit="processes",
        description="Edge processes that share the port.",
        services=(_UP, _EDGE),
    ),
    Variable(
        name="FG_ADMIN_HOST",
        parse=text,
        default="127.0.0.1",
        description="Address of the admin port: `/metrics`, `/livez`, `/readyz`.",
        services=_SERVERS,
    ),
    Variable(
        name="FG_ADMIN_PORT",
        parse=whole(0, 65_535),
        default="8081",
        description="The admin port; 0 takes a free one.",
        services=_SERVERS,
    ),
    Variable(
        name="FG_URL",
        parse=url("http", "https"),
        default=None,
        default_note="the stack running in `FG_DATA_DIR`",
        description="Edge that client commands talk to; wins over a stack running in `FG_DATA_DIR`.",
        services=(_CLIENT,),
    ),
    Variable(
        name="FG_API_KEY",
        parse=secret,
        default=None,
        default_note="the key of the stack running in `FG_DATA_DIR`",
        description="Credential of client commands.",
        services=(_CLIENT,),
        secret=True,
    ),
)

_DECIDING = (
    Variable(
        name="FG_POLICY_DIR",
        parse=path,
        default=None,
        default_note="the policies of the distribution",
        description="Directory of the Rego policies.",
        services=_SERVERS,
    ),
    Variable(
        name="FG_OPA_URL",
        parse=url("http", "https"),
        default=None,
        default_note="the embedded engine",
        description="Remote OPA to ask instead of the embedded engine.",
        services=(_WORKER,),
    ),
    Variable(
        name="FG_OPA_ENFORCE",
        parse=flag,
        default="1",
        description="1 denies what the policy does not allow; 0 asks to observe only, which `prod` refuses.",
        services=(_WORKER,),
    ),
    Variable(
        name="FG_DP_EVENT_MAX_AGE_SEC",
        parse=whole(1),
        default="604800",
        unit="seconds",
        description="Oldest `created_at` the edge accepts.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_SCHEMA_READERS",
        parse=versions,
        default="1.0",
        description="Versions of the envelope that are read. A new one is added here first, everywhere.",
        services=(_EDGE,),
    ),
    Variable(
        name="FG_DP_SCHEMA_WRITER",
        parse=version,
        default="1.0",
        description="Version that `frostgate send` and `frostgate agent` write; switched once every edge reads it.",
        services=(_CLIENT,),
    ),
    Variable(
        name="FG_DP_INTEGRITY_MODE",
        parse=choice("verify", "required"),
        default="verify",
        description="`verify` checks `integrity_hash` whenever it is present; `required` also refuses its absence.",
        services=(_EDGE,),
    ),
)

GROUPS: tuple[tuple[str, tuple[Variable, ...]], ...] = (
    ("Profile and process", _PROFILE),
    ("Dependencies", _DEPENDENCIES),
    ("Addresses and clients", _ADDRESSES),
    ("Acceptance and policy", _DECIDING),
    ("Evidence", EVIDENCE),
    ("Signatures, TLS and the emergency override", EDGE_SECURITY),
    ("Ingest fairness", INGEST_FAIRNESS),
    ("Queue protection", QUEUE_PROTECTION),
    ("Circuit breaker", CIRCUIT_BREAKER),
    ("Retry and dead letters", RETRY_AND_DLQ),
    ("Retention", RETENTION),
)
TABLE: dict[str, Variable] = {variable.name: variable for _title, group in GROUPS for variable in group}
