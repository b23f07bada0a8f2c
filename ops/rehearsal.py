"""Recorded decisions made again under other rules: which of them would come out otherwise."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from schemas.codes import PolicyCode
from schemas.decision import PolicyAnswer
from schemas.policy_data import NO_POLICY_DATA
from sinks.pg import Pool
from sinks.policy_data import TenantPolicyData
from sinks.recorded import Recorded, RecordedDecisions
from streams.policy import Policy


class Outcome(StrEnum):
    """What became of one recorded decision under the other rules."""

    SAME = "same"
    NOW_DENIED = "now_denied"
    NOW_ALLOWED = "now_allowed"
    REASONS_CHANGED = "reasons_changed"
    NOT_KEPT = "not_kept"


CHANGES = (Outcome.NOW_DENIED, Outcome.NOW_ALLOWED, Outcome.REASONS_CHANGED)


class Rehearsed(NamedTuple):
    """One decision, as it was recorded and as the other rules make it; `now` is None where the event is not kept."""

    tenant_id: str
    event_id: str
    was: PolicyAnswer
    now: PolicyAnswer | None

    @property
    def outcome(self) -> Outcome:
        if self.now is None:
            return Outcome.NOT_KEPT
        if self.now == self.was:
            return Outcome.SAME
        was_allowed, is_allowed = (answer.code is PolicyCode.POLICY_ALLOW for answer in (self.was, self.now))
        if was_allowed == is_allowed:
            return Outcome.REASONS_CHANGED
        return Outcome.NOW_ALLOWED if is_allowed else Outcome.NOW_DENIED


async def rehearse(pool: Pool, policy: Policy, tenant_ids: Sequence[str], since: str) -> AsyncIterator[Rehearsed]:
    """Each decision of these tenants since that moment (RFC 3339), made again by `policy`. Raises NoAnswer.

    The rules get the event's body and features as recorded, and the tenant's policy data of now.
    """
    for tenant_id in tenant_ids:
        row = await TenantPolicyData(pool).show(tenant_id)
        data = (NO_POLICY_DATA if row is None else row.data).document
        async for recorded in RecordedDecisions(pool).since(tenant_id, since):
            was = PolicyAnswer(PolicyCode(recorded.policy_code), recorded.reasons)
            yield Rehearsed(tenant_id, recorded.event_id, was, await _decide(policy, recorded, data))


async def _decide(policy: Policy, recorded: Recorded, data: bytes) -> PolicyAnswer | None:
    if recorded.body is None:
        return None
    parts = {"event": recorded.body, "features": recorded.features, "tenant": data}
    return await policy.evaluate({name: msgspec.Raw(part) for name, part in parts.items()})


def totals_of(outcomes: Counter[Outcome]) -> dict[str, int]:
    return {"decisions": outcomes.total(), **{outcome.value: outcomes[outcome] for outcome in Outcome}}
