"""Billable meters: one row per tenant, meter and UTC day, moved in the transaction of what they count."""

from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from sinks.pg import Connection

# Rows are written in one order by every transaction, so two cannot wait for each other in a circle.
_ADD = """
INSERT INTO usage_meters (tenant_id, meter, day, value)
SELECT tenant_id, $1, day::date, value
FROM unnest($2::text[], $3::text[], $4::bigint[]) AS m (tenant_id, day, value)
ON CONFLICT (tenant_id, meter, day) DO UPDATE SET value = usage_meters.value + EXCLUDED.value
"""


class MeterName(StrEnum):
    INGEST_EVENTS = "ingest_events_total"
    INGEST_BYTES = "ingest_bytes_total"
    ARTIFACT_BYTES = "artifacts_bytes_stored_total"


class TenantDay(NamedTuple):
    """`day` is `YYYY-MM-DD`, UTC."""

    tenant_id: str
    day: str


async def add(connection: Connection, meter: MeterName, amounts: Counter[TenantDay]) -> None:
    """Move the meter with the caller's commit. A caller with several meters moves them in one order."""
    ordered = sorted(amounts)
    await connection.execute(
        _ADD,
        meter,
        [key.tenant_id for key in ordered],
        [key.day for key in ordered],
        [amounts[key] for key in ordered],
    )
