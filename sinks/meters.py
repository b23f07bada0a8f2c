"""Billable meters: one row per tenant, meter and UTC day, moved in the transaction of what they count."""

from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from sinks.pg import Connection

# Rows are written in one order by every transaction, so two cannot wait for each other in a circle.
_ADD = """
INSERT INTO usage_meters (tenant_id, meter, day, value)
SELECT tenant_id, meter, day::date, value
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS m (tenant_id, meter, day, value)
ON CONFLICT (tenant_id, meter, day) DO UPDATE SET value = usage_meters.value + EXCLUDED.value
"""


class MeterName(StrEnum):
    INGEST_EVENTS = "ingest_events_total"
    INGEST_BYTES = "ingest_bytes_total"
    ARTIFACT_BYTES = "artifacts_bytes_stored_total"


class MeterKey(NamedTuple):
    """`day` is `YYYY-MM-DD`, UTC."""

    tenant_id: str
    meter: MeterName
    day: str


async def add(connection: Connection, amounts: Counter[MeterKey]) -> None:
    """Move the meters with the caller's commit."""
    keys = sorted(amounts)
    await connection.execute(
        _ADD,
        [key.tenant_id for key in keys],
        [key.meter.value for key in keys],
        [key.day for key in keys],
        [amounts[key] for key in keys],
    )
