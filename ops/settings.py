"""The settings: one frozen tree, read once from the environment and judged as a whole before any socket opens.

This module is the only reader of the process's environment.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.settings import BreakerSettings, EdgeSettings, QueueSettings, RateSettings, TlsSettings
from ops.settings_table import TABLE
from ops.settings_types import SecretText, Service, Variable, shown, verifies_server
from ops.tls import plain_http_fault
from schemas.canonical import canonical_any, sha256_hex
from schemas.registry import PUBLISHED, readable
from sinks.settings import EvidenceSettings, ObjectStore, PostgresSettings
from streams.settings import RetrySettings, StreamSettings

__all__ = ["Service", "Settings", "SettingsError", "environment", "load", "settings_hash", "unknown_variables"]

_PACKAGED_POLICIES = Path(__file__).resolve().parent.parent / "policies"
_PLACES = {"http_host", "http_port", "admin_host", "admin_port", "edge_workers", "embedded_user", "log_level"} | {
    *("worm_s3", "witness_public_key_file"),
    *("tls", "ca_file", "client_cert_file", "agent_key_file", "break_glass_public_key_file"),
}

_IN_DATA_DIR = {
    "FG_BREAK_GLASS_FILE": "break-glass.json",
    "FG_WORM_DIR": "worm",
    "FG_SIGNING_KEY_FILE": "signing-key.pem",
    "FG_KEYRING_FILE": "keyring.json",
    "FG_CHECKPOINT_SECRET_FILE": "checkpoint-secret",
}


class SettingsError(Exception):
    """The environment does not describe a configuration. The message lists every fault, one a line."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("the configuration is not usable:\n" + "\n".join(f"  - {fault}" for fault in faults))
        self.faults = tuple(faults)


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


def environment() -> Mapping[str, str]:
    """The process's own environment."""
    return os.environ  # noqa: TID251  (the one reader)


def load(environ: Mapping[str, str], need: Service | None = None) -> Settings:
    """Return the settings `environ` describes, with everything `need` cannot do without.

    An absent or empty variable takes its default. Raises SettingsError listing every fault.
    """
    values, faults = _values(environ)
    faults += _missing(values, need)
    settings = _tree(values)
    # A value that did not parse has been replaced by its default: only what did parse is judged together.
    found = [fault for part in _judged(settings) for fault in part.faults()] + _unread(settings)
    if settings.env == "prod":
        found += _unproven(settings, need)
    plain_http = plain_http_fault(settings.http_host, settings.tls) if need in {Service.EDGE, Service.UP} else None
    if plain_http:
        found.append(plain_http)
    faults += found
    if faults:
        raise SettingsError(faults)
    return settings


def settings_hash(settings: Settings) -> str:
    """The `config_hash`: sha256 hex over every effective value that says how, not where, events are handled.

    Secrets, URLs, paths and addresses are left out, so that two hosts set alike have the same hash.
    """
    return sha256_hex(canonical_any(_behaviour(asdict(settings))))


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One warning for each `FG_` variable nobody reads, with the nearest name somebody does."""
    return [_unknown(name) for name in sorted(environ) if name.startswith("FG_") and name not in TABLE]


def effective(environ: Mapping[str, str]) -> list[tuple[Variable, str, str]]:
    """Each variable with its effective value as a person may see it, and where the value comes from."""
    values, _faults = _values(environ)
    return [
        (variable, shown(variable, values[name]), "environment" if environ.get(name) else "default")
        for name, variable in TABLE.items()
    ]


def _values(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, variable in TABLE.items():
        raw = environ.get(name) or ""
        try:
            values[name] = variable.parse(raw) if raw else _default(variable)
        except ValueError as problem:
            faults.append(f"{name} {problem}")
            values[name] = _default(variable)
    values["FG_POLICY_DIR"] = values["FG_POLICY_DIR"] or _PACKAGED_POLICIES
    for name, file in _IN_DATA_DIR.items():
        values[name] = values[name] or values["FG_DATA_DIR"] / file
    return values, faults


def _default(variable: Variable) -> Any:
    return SecretText() if variable.default is None else variable.parse(variable.default)


def _missing(values: Mapping[str, Any], need: Service | None) -> list[str]:
    return [
        f"{name} is required by `{need}`: {variable.description}"
        for name, variable in TABLE.items()
        if need in variable.required_by and not values[name]
    ]


def _judged(settings: Settings) -> tuple[Any, ...]:
    return (
        settings.edge,
        settings.streams,
        settings.postgres,
        settings.evidence,
        settings.rates,
        settings.queues,
        settings.tls,
    )


def _unread(settings: Settings) -> list[str]:
    """A writer may only write what is published and every reader's edge takes."""
    writer = settings.schema_writer
    if writer in PUBLISHED and readable(writer, settings.edge.schema_versions):
        return []
    return [f"FG_DP_SCHEMA_WRITER is {writer}, which none of FG_DP_SCHEMA_READERS reads"]


def _unproven(settings: Settings, need: Service | None) -> list[str]:
    """What `prod` refuses: every default that is good enough for one machine only."""
    wanted = [("FG_OPA_ENFORCE must be 1", settings.opa_enforce)]
    if need is Service.EDGE:
        wanted += [
            ("FG_TLS_CERT_FILE and FG_TLS_KEY_FILE must be set", settings.tls.served),
            ("FG_TLS_CLIENT_CA_FILE must be set", bool(settings.tls.client_ca_file)),
            ("FG_DP_SIGNATURE_MODE must be required", settings.edge.signature_required),
            ("FG_REDIS_URL must begin with rediss://", settings.redis_url.startswith("rediss://")),
            ("FG_REDIS_URL must leave the server's certificate verified", verifies_server(settings.redis_url)),
        ]
    return [f"{words} when FG_ENV is prod" for words, holds in wanted if not holds]


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"nothing reads {name}{hint}"


def _behaviour(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: _behaviour(value)
        for key, value in node.items()
        if key not in _PLACES and not isinstance(value, SecretText | Path)
    }


def _tree(values: Mapping[str, Any]) -> Settings:
    return Settings(
        env=values["FG_ENV"],
        edge=EdgeSettings(
            integrity_required=values["FG_DP_INTEGRITY_MODE"] == "required",
            event_age_ms_max=values["FG_DP_EVENT_MAX_AGE_SEC"] * 1_000,
            schema_versions=values["FG_DP_SCHEMA_READERS"],
            signature_required=values["FG_DP_SIGNATURE_MODE"] == "required",
            tries_max=values["FG_DP_RETRY_BUDGET_PER_EVENT"],
            tries_window_ms=values["FG_DP_RETRY_BUDGET_WINDOW_SEC"] * 1_000,
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
