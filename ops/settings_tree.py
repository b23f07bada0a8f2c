"""The tree of settings: every package's slice, and what belongs to none of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.settings import BreakerSettings, EdgeSettings, QueueSettings, RateSettings, TlsSettings
from sinks.settings import EvidenceSettings, ObjectStore, PostgresSettings
from streams.settings import RetrySettings, StreamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePasswords:
    """What `migrate` sets as the passwords of the service roles; empty leaves a role's password alone."""

    edge: str
    worker: str
    admin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a process may be told. Text that can hold a credential is `SecretText`: its repr is a mask."""

    env: str
    edge: EdgeSettings
    streams: StreamSettings
    postgres: PostgresSettings
    evidence: EvidenceSettings
    rates: RateSettings
    queues: QueueSettings
    breaker: BreakerSettings
    retry: RetrySettings
    tls: TlsSettings
    role_passwords: RolePasswords
    redis_url: str
    admin_postgres_dsn: str
    http_host: str
    http_port: int
    edge_workers: int
    admin_host: str
    admin_port: int
    policy_dir: Path
    opa_url: str
    opa_enforce: bool
    log_level: str
    data_dir: Path
    embedded_user: str
    break_glass_file: Path
    break_glass_public_key_file: str
    url: str
    api_key: str
    ca_file: str
    client_cert_file: str
    agent_key_file: str
    schema_writer: str


def tree(values: Mapping[str, Any]) -> Settings:
    """The tree of these values, one for each variable of the table."""
    return Settings(
        env=values["FG_ENV"],
        edge=EdgeSettings(
            integrity_required=values["FG_DP_INTEGRITY_MODE"] == "required",
            event_age_ms_max=values["FG_DP_EVENT_MAX_AGE_SEC"] * 1_000,
            schema_versions=values["FG_DP_SCHEMA_READERS"],
            signature_required=values["FG_DP_SIGNATURE_MODE"] == "required",
            tries_max=values["FG_DP_RETRY_BUDGET_PER_EVENT"],
            tries_window_ms=values["FG_DP_RETRY_BUDGET_WINDOW_SEC"] * 1_000,
            redis_timeout_ms=values["FG_REDIS_TIMEOUT_MS"],
        ),
        streams=StreamSettings(
            url=values["FG_NATS_URL"],
            system_url=values["FG_NATS_SYSTEM_URL"],
            replicas=values["FG_NATS_REPLICAS"],
            shards=values["FG_NATS_SHARDS"],
            tenant_messages_max=values["FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH"],
        ),
        postgres=PostgresSettings(
            dsn=values["FG_POSTGRES_DSN"],
            pool_size=values["FG_POSTGRES_POOL_SIZE"],
            statement_cache_size=values["FG_POSTGRES_STATEMENT_CACHE_SIZE"],
        ),
        evidence=EvidenceSettings(
            worm_dir=values["FG_WORM_DIR"],
            worm_s3=ObjectStore(
                url=values["FG_WORM_S3_URL"],
                region=values["FG_WORM_S3_REGION"],
                access_key_id=values["FG_WORM_S3_ACCESS_KEY_ID"],
                secret_access_key=values["FG_WORM_S3_SECRET_ACCESS_KEY"],
            ),
            signing_key_file=values["FG_SIGNING_KEY_FILE"],
            keyring_file=values["FG_KEYRING_FILE"],
            checkpoint_secret_file=values["FG_CHECKPOINT_SECRET_FILE"],
            witness_url=values["FG_WITNESS_URL"],
            witness_public_key_file=str(values["FG_WITNESS_PUBLIC_KEY_FILE"]),
            reports_dir=values["FG_REPORTS_DIR"],
            retention_days_by_tier=values["FG_DP_RETENTION_DAYS_TIER_JSON"],
        ),
        rates=RateSettings(
            rps_base=values["FG_DP_INGEST_RPS_BASE"],
            rps_burst=values["FG_DP_INGEST_RPS_BURST"],
            rps_by_tier=values["FG_DP_INGEST_RPS_TIER_OVERRIDE_JSON"],
            events_per_month_by_tier=values["FG_DP_INGEST_QUOTA_TIER_JSON"],
            latency_p95_ms_hard=values["FG_DP_INGEST_P95_HARD_MS"],
        ),
        queues=QueueSettings(
            depth_warn=values["FG_DP_REDIS_QUEUE_WARN_DEPTH"],
            depth_shed=values["FG_DP_REDIS_QUEUE_SHED_DEPTH"],
            depth_hardstop=values["FG_DP_REDIS_QUEUE_HARDSTOP_DEPTH"],
            key_template=values["FG_DP_QUEUE_KEY_TEMPLATE"],
        ),
        breaker=BreakerSettings(
            error_rate_threshold=values["FG_DP_CB_ERROR_RATE_THRESHOLD"],
            latency_p95_ms=values["FG_DP_CB_LATENCY_P95_MS"],
            open_seconds=values["FG_DP_CB_OPEN_SECONDS"],
            half_open_probes=values["FG_DP_CB_HALF_OPEN_PROBE"],
        ),
        retry=RetrySettings(
            attempts_max=values["FG_DP_RETRY_BUDGET_PER_EVENT"],
            window_seconds=values["FG_DP_RETRY_BUDGET_WINDOW_SEC"],
            dlq_age_seconds_max=values["FG_DP_DLQ_MAX_AGE_SEC"],
            dlq_alert_depth=values["FG_DP_DLQ_ALERT_DEPTH"],
            dlq_storm_ratio=values["FG_DP_DLQ_STORM_RATIO"],
        ),
        tls=TlsSettings(
            cert_file=str(values["FG_TLS_CERT_FILE"]),
            key_file=str(values["FG_TLS_KEY_FILE"]),
            client_ca_file=str(values["FG_TLS_CLIENT_CA_FILE"]),
            trust_domain=values["FG_TLS_TRUST_DOMAIN"],
        ),
        role_passwords=RolePasswords(
            edge=values["FG_EDGE_POSTGRES_PASSWORD"],
            worker=values["FG_WORKER_POSTGRES_PASSWORD"],
            admin=values["FG_ADMIN_ROLE_POSTGRES_PASSWORD"],
        ),
        redis_url=values["FG_REDIS_URL"],
        admin_postgres_dsn=values["FG_ADMIN_POSTGRES_DSN"],
        http_host=values["FG_HTTP_HOST"],
        http_port=values["FG_HTTP_PORT"],
        edge_workers=values["FG_EDGE_WORKERS"],
        admin_host=values["FG_ADMIN_HOST"],
        admin_port=values["FG_ADMIN_PORT"],
        policy_dir=values["FG_POLICY_DIR"],
        opa_url=values["FG_OPA_URL"],
        opa_enforce=values["FG_OPA_ENFORCE"],
        log_level=values["FG_LOG_LEVEL"],
        data_dir=values["FG_DATA_DIR"],
        embedded_user=values["FG_EMBEDDED_USER"],
        break_glass_file=values["FG_BREAK_GLASS_FILE"],
        break_glass_public_key_file=str(values["FG_BREAK_GLASS_PUBLIC_KEY_FILE"]),
        url=values["FG_URL"],
        api_key=values["FG_API_KEY"],
        ca_file=str(values["FG_CA_FILE"]),
        client_cert_file=str(values["FG_CLIENT_CERT_FILE"]),
        agent_key_file=str(values["FG_AGENT_KEY_FILE"]),
        schema_writer=values["FG_DP_SCHEMA_WRITER"],
    )
