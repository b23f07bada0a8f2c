"""What `frostgate up` runs on its servers: tables and streams, a first tenant with a key, one edge and one worker."""

import dataclasses
import functools
from collections.abc import Mapping

from ops.children import this_program
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.embedded.process import Command, StartError
from ops.evidence_files import CheckpointSecretError, EvidenceFiles
from ops.overview import HOST
from ops.settings import Settings, environment
from ops.settings_table import TABLE
from ops.settings_types import Service
from ops.supervisor import Plan, Provision
from schemas.answers import NoAnswer
from schemas.limits import NO_QUOTA
from schemas.principal import Scope
from sinks.api_keys import ApiKeys
from sinks.limits import RuntimeLimits
from sinks.migrate import MigrationError, migrate
from sinks.pg import Pool
from sinks.settings import PostgresSettings
from sinks.tenants import Tenants
from streams import topology
from streams.jetstream import ApiError
from streams.settings import StreamSettings

TENANT_ID = "demo"
WORM = "worm"
SCOPES = (Scope.INGEST, Scope.EVENTS_READ, Scope.EVIDENCE_READ)
LIMITS = {"rps": 10_000, "burst": 20_000, "events_per_month_max": NO_QUOTA}
"""Whoever tries it out should meet the machine's limits, not the free plan's."""
NICENESS = {"edge": 0, "worker": 10}
"""On one machine admission comes first: a backlog waits safely in the stream, an agent does not (docs/adr/0008)."""


def of(settings: Settings) -> Plan:
    """The plan for these settings; what they say of servers is replaced by the embedded ones."""
    return Plan(functools.partial(_provision, settings), functools.partial(_command, settings))


async def lay_out(servers: EmbeddedServers, settings: StreamSettings) -> None:
    """On return tables, roles, streams and consumers are there. Raises StartError."""
    one_node = dataclasses.replace(settings, replicas=1, shards=1)
    try:
        await migrate(servers.postgres_dsn("admin"), servers.role_passwords())
        await topology.apply(servers.nats_url("admin"), one_node)
    except (MigrationError, ApiError, NoAnswer) as cause:
        raise StartError(f"cannot make the tables and streams: {cause}") from cause


async def _provision(settings: Settings, servers: EmbeddedServers, directory: DataDirectory) -> Provision:
    await lay_out(servers, settings.streams)
    (servers.data_dir / WORM).mkdir(mode=0o700, exist_ok=True)
    try:
        EvidenceFiles.of(servers.data_dir).ensure()
    except CheckpointSecretError as cause:
        raise StartError(str(cause)) from cause
    if directory.secrets.api_key:
        return Provision(TENANT_ID, directory.secrets.api_key, first=False)
    operator = PostgresSettings(dsn=servers.postgres_dsn("operator"), pool_size=1, statement_cache_size=0)
    pool = await Pool.open(operator)
    try:
        await Tenants(pool).ensure(TENANT_ID)
        await RuntimeLimits(pool).set(TENANT_ID, **LIMITS, updated_by="frostgate up")
        key = await ApiKeys(pool).issue(TENANT_ID, None, SCOPES)
    finally:
        await pool.close()
    directory.keep_api_key(key.secret)
    return Provision(TENANT_ID, key.secret, first=True)


def _command(settings: Settings, name: str, servers: EmbeddedServers, http_port: int, admin_port: int) -> Command:
    """The edge or worker with its own role's addresses; secrets travel in the environment, never in arguments."""
    files = EvidenceFiles.of(servers.data_dir)
    values = {
        "FG_DATA_DIR": str(servers.data_dir),
        "FG_WORM_DIR": str(servers.data_dir / WORM),
        "FG_SIGNING_KEY_FILE": str(files.signing_key),
        "FG_KEYRING_FILE": str(files.keyring),
        "FG_CHECKPOINT_SECRET_FILE": str(files.checkpoint_secret),
        "FG_NATS_URL": servers.nats_url(name),
        "FG_NATS_SYSTEM_URL": servers.nats_url("system"),
        "FG_NATS_REPLICAS": "1",
        "FG_NATS_SHARDS": "1",
        "FG_POSTGRES_DSN": servers.postgres_dsn(name),
        "FG_POSTGRES_STATEMENT_CACHE_SIZE": "256",  # no pooler in between
        "FG_REDIS_URL": servers.redis_url,
        "FG_HTTP_HOST": settings.http_host,
        "FG_HTTP_PORT": str(http_port),
        "FG_EDGE_WORKERS": str(settings.edge_workers),
        "FG_ADMIN_HOST": HOST,
        "FG_ADMIN_PORT": str(admin_port),
    }
    inherited = {key: value for key, value in environment().items() if not key.startswith("FG_")}
    return Command(
        name=name,
        arguments=this_program(name),
        niceness=NICENESS[name],
        environment=inherited | _read_by(Service(name), {**environment(), **values}),
    )


def _read_by(service: Service, values: Mapping[str, str]) -> dict[str, str]:
    """Only what this service reads: no process is given another one's credentials."""
    return {key: value for key, value in values.items() if key in TABLE and service in TABLE[key].services}
