"""The answer to GET /v1/limits: the limits in force for a tenant, how it stands, and which it would meet next."""

from typing import Annotated, Literal

import msgspec

from edge.admission import Standing
from edge.ports import Depth
from edge.settings import EdgeSettings, QueueSettings
from schemas.principal import Principal

Rule = Literal["rate", "quota", "depth"]


class QuotaDocument(msgspec.Struct, frozen=True):
    """Events of this calendar month, UTC; `events_max` null where there is no quota."""

    events_max: int | None
    events_used: int


class DepthDocument(msgspec.Struct, frozen=True):
    """Unsettled messages of the tenant; `messages` null while the depth is not known, and new events are refused."""

    messages: int | None
    warn: int
    shed: int
    hardstop: int


class Limits(msgspec.Struct, frozen=True):
    """The limits in force for the sender's tenant. Ages are of `created_at`, bytes of the body as sent."""

    tenant_id: str
    plan_tier: str
    rule: Annotated[str, msgspec.Meta(description="Where the rate comes from: tenant, tier or base")]
    rps: Annotated[int, msgspec.Meta(description="Events per second")]
    burst: Annotated[int, msgspec.Meta(description="Events at once")]
    throttle_factor: Annotated[float, msgspec.Meta(description="Part of the rate that may be used now at this edge")]
    effective_rps: float
    remaining: Annotated[int, msgspec.Meta(description="Events that would pass at once now")]
    retry_after_ms: Annotated[int, msgspec.Meta(description="Until one more event passes; 0 while some remain")]
    quota: QuotaDocument
    depth: DepthDocument
    next_refusal: Annotated[Rule, msgspec.Meta(description="The rule that would refuse first if events came at once")]
    body_bytes_max: int
    payload_bytes_max: int
    batch_bytes_max: int
    batch_lines_max: int
    json_depth_max: int
    json_nodes_max: int
    event_age_ms_max: int
    created_at_future_ms_max: int
    queue_depth_hardstop: Annotated[int, msgspec.Meta(description="Unsettled events of the tenant in one queue")]
    integrity_required: bool
    schema_versions: tuple[str, ...]


def document(
    sender: Principal, standing: Standing, depth: Depth | None, settings: EdgeSettings, queues: QueueSettings
) -> Limits:
    """The document of one moment."""
    limits, budget, admission = standing.limits, standing.budget, standing.admission
    return Limits(
        tenant_id=sender.tenant_id,
        plan_tier=sender.plan_tier,
        rule=limits.rule,
        rps=limits.rps,
        burst=limits.burst,
        throttle_factor=budget.rate_per_s / limits.rps,
        effective_rps=budget.rate_per_s,
        remaining=admission.remaining,
        retry_after_ms=admission.retry_after_ms,
        quota=QuotaDocument(limits.events_per_month_max, limits.events_this_month),
        depth=DepthDocument(
            None if depth is None else depth.messages, queues.depth_warn, queues.depth_shed, queues.depth_hardstop
        ),
        next_refusal=next_refusal(standing, depth, queues),
        body_bytes_max=settings.body_bytes_max,
        payload_bytes_max=settings.payload_bytes_max,
        batch_bytes_max=settings.batch_bytes_max,
        batch_lines_max=settings.batch_lines_max,
        json_depth_max=settings.json_depth_max,
        json_nodes_max=settings.json_nodes_max,
        event_age_ms_max=settings.event_age_ms_max,
        created_at_future_ms_max=settings.created_at_future_ms_max,
        queue_depth_hardstop=queues.depth_hardstop,
        integrity_required=settings.integrity_required,
        schema_versions=settings.schema_versions,
    )


def next_refusal(standing: Standing, depth: Depth | None, queues: QueueSettings) -> Rule:
    """The rule with the fewest events left; of equals the one that is asked first."""
    left: dict[Rule, int] = {"rate": standing.admission.remaining}
    quota = standing.limits.events_per_month_max
    if quota is not None:
        left["quota"] = max(0, quota - standing.limits.events_this_month)
    left["depth"] = 0 if depth is None else max(0, queues.depth_shed - depth.messages)
    return min(left, key=lambda rule: left[rule])
