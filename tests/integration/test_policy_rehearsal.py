"""Rehearsal: recorded decisions made again under other rules, on the real tables."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ops.embedded import EmbeddedServers
from ops.rehearsal import Outcome, Rehearsed, rehearse
from schemas.codes import PolicyCode
from schemas.decision import PolicyAnswer
from schemas.policy_data import read_policy_data
from schemas.units import UnixMs, format_rfc3339, parse_rfc3339
from sinks import recorded
from sinks.event_keys import EventKeys
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from sinks.policy_data import TenantPolicyData
from sinks.tenants import Tenants
from streams.policy import EmbeddedPolicy
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

RULES = """package fg.decision
decision := {"allow": count(denials) == 0, "reasons": sort(denials)}
denials contains "odd" if input.event.number % 2 == 1
denials contains "secret" if input.features.has_secret
denials contains "tenant" if input.event.number in input.tenant.denied
"""
ALLOW = PolicyAnswer(PolicyCode.POLICY_ALLOW, ())


def deny(*reasons: str) -> PolicyAnswer:
    return PolicyAnswer(PolicyCode.POLICY_DENY, reasons)


@pytest.fixture
async def operator(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    pool = await Pool.open(settings(servers.postgres_dsn("operator")))
    yield pool
    await pool.close()


@pytest.fixture
async def worker(servers: EmbeddedServers) -> AsyncIterator[Pool]:
    pool = await Pool.open(settings(servers.postgres_dsn("worker")))
    yield pool
    await pool.close()


@pytest.fixture
def rules(tmp_path: Path) -> EmbeddedPolicy:
    (tmp_path / "main.rego").write_text(RULES)
    return EmbeddedPolicy.load(tmp_path)


class Recording:
    """A tenant and its decisions, one after the other, each a minute after the one before."""

    def __init__(self, worker: Pool, tenant_id: str) -> None:
        self._worker = worker
        self.tenant_id = tenant_id
        self.number = 0

    async def add(self, was: PolicyAnswer, *, secret: bool = False, kept: bool = True) -> None:
        await self.add_all([was], secret=secret, kept=kept)

    async def add_all(self, answers: list[PolicyAnswer], *, secret: bool = False, kept: bool = True) -> None:
        """Bodies say {"number": 0}, 1, 2, ..."""
        claims, records = [], []
        for was in answers:
            event_id = f"e-{self.number}"
            claims.append(make.claim(self.tenant_id, event_id, self.number, body=b'{"number": %d}' % self.number))
            record = make.record(self.tenant_id, event_id, decided_at=moment(self.number))
            changes = {"policy_code": was.code.value, "policy_reasons": was.reasons, "features": {"has_secret": secret}}
            records.append(msgspec.structs.replace(record, **changes))
            self.number += 1
        if kept:
            await EventKeys(self._worker).claim(claims)
        await DecisionLedger(self._worker).record(records)


def moment(number: int) -> str:
    return format_rfc3339(UnixMs(parse_rfc3339(make.DECIDED_AT) + number * 60_000))


@pytest.fixture
async def recording(operator: Pool, worker: Pool) -> Recording:
    tenant_id = make.tenant_id()
    await Tenants(operator).add(tenant_id)
    return Recording(worker, tenant_id)


async def rehearsed(pool: Pool, rules: EmbeddedPolicy, tenant_ids: list[str], since: str) -> list[Rehearsed]:
    return [one async for one in rehearse(pool, rules, tenant_ids, since)]


async def test_every_decision_that_comes_out_otherwise_is_told_newest_first(
    operator: Pool, rules: EmbeddedPolicy, recording: Recording
) -> None:
    for was in (ALLOW, ALLOW, deny("old"), deny("old"), ALLOW):
        await recording.add(was)
    await recording.add(deny("odd"))
    found = await rehearsed(operator, rules, [recording.tenant_id], moment(0))
    assert [(one.event_id, one.outcome, one.was, one.now) for one in found] == [
        ("e-5", Outcome.SAME, deny("odd"), deny("odd")),
        ("e-4", Outcome.SAME, ALLOW, ALLOW),
        ("e-3", Outcome.REASONS_CHANGED, deny("old"), deny("odd")),
        ("e-2", Outcome.NOW_ALLOWED, deny("old"), ALLOW),
        ("e-1", Outcome.NOW_DENIED, ALLOW, deny("odd")),
        ("e-0", Outcome.SAME, ALLOW, ALLOW),
    ]


async def test_the_rules_see_the_features_as_recorded_and_the_tenants_data_of_now(
    operator: Pool, rules: EmbeddedPolicy, recording: Recording
) -> None:
    await recording.add(ALLOW, secret=True)
    await recording.add(deny("odd"))
    await recording.add(ALLOW)
    await TenantPolicyData(operator).set(recording.tenant_id, read_policy_data(b'{"denied": [2]}'), "ann")
    found = await rehearsed(operator, rules, [recording.tenant_id], moment(0))
    assert [one.now for one in found] == [deny("tenant"), deny("odd"), deny("secret")]


async def test_only_the_asked_time_and_the_asked_tenants_are_rehearsed(
    operator: Pool, worker: Pool, rules: EmbeddedPolicy, recording: Recording
) -> None:
    await recording.add_all([ALLOW] * 5)
    other = make.tenant_id()
    await Tenants(operator).add(other)
    await Recording(worker, other).add(ALLOW)
    found = await rehearsed(operator, rules, [recording.tenant_id], moment(3))
    assert [one.event_id for one in found] == ["e-4", "e-3"]
    both = await rehearsed(operator, rules, [recording.tenant_id, other], moment(0))
    assert Counter(one.tenant_id for one in both) == {recording.tenant_id: 5, other: 1}
    assert await rehearsed(operator, rules, [recording.tenant_id], moment(60)) == []


async def test_a_decision_whose_event_is_no_longer_kept_is_told_as_such(
    operator: Pool, rules: EmbeddedPolicy, recording: Recording
) -> None:
    await recording.add(ALLOW, kept=False)
    found = await rehearsed(operator, rules, [recording.tenant_id], moment(0))
    assert [(one.now, one.outcome) for one in found] == [(None, Outcome.NOT_KEPT)]


async def test_pages_join_without_a_gap_or_a_repetition(
    operator: Pool, rules: EmbeddedPolicy, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "PAGE_ROWS", 7)
    await recording.add_all([ALLOW] * 30)
    found = await rehearsed(operator, rules, [recording.tenant_id], moment(2))
    assert [one.event_id for one in found] == [f"e-{number}" for number in range(29, 1, -1)]
