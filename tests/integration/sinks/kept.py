"""A database of its own for what a plan keeps and lets go: tenants, events of any age, and the superuser's eyes."""

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.rows import ArtifactRow
from sinks.event_keys import EventKeys
from sinks.pg import Pool
from sinks.retention import Retention, RetentionRules
from sinks.tenants import Tenants
from tests.integration.sinks import make

RULES = RetentionRules(
    days_by_tier={"free": 7, "pro": 90, "enterprise": 365}, key_age_seconds_min=86_400, letter_age_seconds_min=86_400
)


def days_ago(days: int) -> str:
    moment = datetime.now(UTC) - timedelta(days=days)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class Place:
    """The database, with pools of its roles and the superuser's eyes."""

    def __init__(self, dsn: dict[str, str], operator: Pool, worker: Pool, eyes: Any) -> None:
        self.dsn = dsn
        self.operator = operator
        self.worker = worker
        self.eyes = eyes

    async def tenant(self, plan: str) -> str:
        tenant_id = make.tenant_id()
        await Tenants(self.operator).add(tenant_id, plan)
        return tenant_id

    async def events(self, tenant_id: str, *ages_days: int, copies: int = 1) -> None:
        for age in ages_days:
            claims = [make.claim(tenant_id, f"e{age}-{n}", 1, ingest_ts=days_ago(age)) for n in range(copies)]
            await EventKeys(self.worker).claim(claims)

    async def left(self, tenant_id: str, table: str = "ingest_events") -> list[int]:
        """The ages of the tenant's rows, in days, the youngest first."""
        column = "last_seen_at" if table == "ingest_dlq" else "ingest_ts"
        rows = await self.eyes.fetch(
            f"SELECT extract(day FROM now() - {column})::int FROM {table} WHERE tenant_id = $1 ORDER BY 1",  # noqa: S608  (names from above)
            tenant_id,
        )
        return [row[0] for row in rows]

    async def days(self) -> set[str]:
        rows = await self.eyes.fetch(
            "SELECT substr(inhrelid::regclass::text, 15) FROM pg_inherits WHERE inhparent = 'ingest_events'::regclass"
        )
        return {row[0] for row in rows}

    async def everything(self) -> list[Any]:
        counts = [
            await self.eyes.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608  (names from here)
            for table in ("ingest_events", "event_keys", "ingest_dlq", "operator_actions")
        ]
        return [*counts, await self.days()]


def retention(place: Place, batch_rows: int = 10_000) -> Retention:
    return Retention(place.operator, RULES, "ann", batch_rows)


async def chained_artifacts(superuser: Any, tenant: str) -> list[ArtifactRow]:
    """A row of the index for each entry of the tenant's chain, as the worker writes it once it has sealed them."""
    entries = await superuser.fetch(
        "SELECT event_id, kind, seq, entry::jsonb ->> 'artifact_sha256', (entry::jsonb ->> 'artifact_bytes')::bigint"
        " FROM chain_entries WHERE tenant_id = $1 ORDER BY seq",
        tenant,
    )
    return [
        make.artifact(tenant, event_id)._replace(
            artifact_class=kind, chain_seq=seq, artifact_sha256=sha256, artifact_bytes=size
        )
        for event_id, kind, seq, sha256, size in entries
    ]
