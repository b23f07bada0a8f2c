"""The decision stage around its policy: tenants' data, questions at once, observe mode, and an order to wait."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from schemas.answers import NoAnswer
from schemas.canonical import canonical_plain, sha256_hex
from schemas.codes import Code, DeadReason, PolicyCode
from schemas.decision import DecisionRecord, PolicyAnswer
from schemas.envelope import AcceptedEvent, DecideTask
from schemas.fate import DONE, Dead
from schemas.metrics import PIPELINE_PHASE_MS, Metric
from schemas.policy_data import NO_POLICY_DATA, PolicyData, read_policy_data
from schemas.subjects import lane
from schemas.units import UnixMs
from streams.delivery import Delivery
from streams.stages.decision import DecisionStage

ALLOW = PolicyAnswer(PolicyCode.POLICY_ALLOW, ())
DENY = PolicyAnswer(PolicyCode.POLICY_DENY, ("a.rule",))
DATA = read_policy_data(b'{"denied_programs": ["nmap"]}')


class Rules:
    """Answers as told, once `open` is set; keeps what it was asked."""

    policy_hash = "p" * 64
    findings: Sequence[str] = ()
    notices: Sequence[str] = ()

    def __init__(self, answer: PolicyAnswer = ALLOW, in_flight_max: int = 1) -> None:
        self.answer = answer
        self.in_flight_max = in_flight_max
        self.open = asyncio.Event()
        self.open.set()
        self.full = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def run(self, stopping: asyncio.Event) -> None:
        await stopping.wait()

    async def evaluate(self, document: Mapping[str, Any]) -> PolicyAnswer:
        self.asked.append(msgspec.json.decode(msgspec.json.encode(document)))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.in_flight == self.in_flight_max:
            self.full.set()
        await self.open.wait()
        await asyncio.sleep(0)
        self.in_flight -= 1
        return self.answer


class Stores:
    """Ledger, tenants' data and database in one."""

    def __init__(self, data: dict[str, PolicyData] | None) -> None:
        self.data = data
        self.records: list[DecisionRecord] = []
        self.decided_otherwise: set[str] = set()
        self.readings: list[set[str]] = []

    async def of(self, tenant_ids: Collection[str]) -> Mapping[str, PolicyData]:
        self.readings.append(set(tenant_ids))
        if self.data is None:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return {one: self.data.get(one, NO_POLICY_DATA) for one in tenant_ids}

    async def record(self, records: Sequence[DecisionRecord]) -> list[bool]:
        self.records += records
        return [record.event_id in self.decided_otherwise for record in records]

    async def ping(self) -> bool:
        return True


class Meter:
    def __init__(self) -> None:
        self.added: list[tuple[Metric, tuple[str, ...]]] = []

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        assert value >= 0
        self.added.append((metric, labels))


class Clock:
    def now_ms(self) -> UnixMs:
        return UnixMs(1_770_000_000_000)


def stage(rules: Rules, stores: Stores, *, enforce: bool = True, meter: Meter | None = None) -> DecisionStage:
    return DecisionStage(
        policy=rules,
        policy_data=stores,
        ledger=stores,
        store=stores,
        clock=Clock(),
        config_hash="c" * 64,
        enforce=enforce,
        meter=meter or Meter(),
        committed=lambda _partitions, _rows: None,
    )


def delivery(tenant: str, number: int = 1) -> Delivery:
    event = {
        "tenant_id": tenant,
        "source": "auditd",
        "schema_version": "1.0",
        "created_at": "2026-01-31T12:00:00Z",
        "payload": {"kind": "process.exec", "path": f"/usr/bin/{number}"},
    }
    accepted = AcceptedEvent(
        tenant_id=tenant,
        event_id=f"e-{number}",
        trace_id="0199d7a0-0000-7000-8000-000000000000",
        request_id="r",
        agent_id="a",
        ingest_ts="2026-01-31T12:00:00.000Z",
        span_id="0" * 16,
        body_sha256="b" * 64,
        event=msgspec.Raw(msgspec.json.encode(event)),
    )
    task = DecideTask(stream="FG_INGEST_0", seq=number, accepted=accepted)
    return Delivery(lane(tenant).decide, msgspec.json.encode(task), "reply", "FG_DECIDE_0", number)


async def test_the_rules_see_the_data_of_the_events_own_tenant_and_the_record_names_its_hash() -> None:
    rules, stores = Rules(), Stores({"acme": DATA})
    batch = [delivery("acme"), delivery("other", 2), delivery("acme", 3)]
    assert await stage(rules, stores).run(batch) == [DONE] * 3
    assert [asked["tenant"] for asked in rules.asked] == [
        {"denied_programs": ["nmap"]},
        {},
        {"denied_programs": ["nmap"]},
    ]
    assert [record.policy_data_sha256 for record in stores.records] == [DATA.sha256, "", DATA.sha256]
    assert DATA.sha256 == sha256_hex(DATA.document)
    assert stores.readings == [{"acme", "other"}], "read once for a batch"


async def test_a_record_without_data_of_the_tenant_has_no_such_member() -> None:
    stores = Stores({"acme": DATA})
    await stage(Rules(), stores).run([delivery("acme"), delivery("other", 2)])
    with_data, without = (canonical_plain(record) for record in stores.records)
    assert b'"policy_data_sha256":"' + DATA.sha256.encode() in with_data
    assert b"policy_data_sha256" not in without


async def test_where_nobody_can_say_what_a_tenant_adds_nothing_is_decided() -> None:
    rules, stores = Rules(), Stores(None)
    with pytest.raises(NoAnswer):
        await stage(rules, stores).run([delivery("acme")])
    assert (rules.asked, stores.records) == ([], [])


async def test_what_is_no_task_costs_no_look_at_the_store() -> None:
    stores = Stores(None)
    broken = Delivery(lane("acme").decide, b"{}", "reply", "FG_DECIDE_0", 1)
    assert await stage(Rules(), stores).run([broken]) == [Dead(DeadReason.POISON)]
    assert stores.readings == []


async def test_an_event_with_a_number_that_no_rule_could_read_is_poison_and_its_neighbours_are_decided() -> None:
    stores = Stores({})
    whole = delivery("acme")
    huge = replace(whole, data=whole.data.replace(b'"/usr/bin/1"', b"1e999"))
    assert huge.data != whole.data
    assert await stage(Rules(), stores).run([huge, whole]) == [Dead(DeadReason.POISON), DONE]


async def test_an_event_that_is_decided_with_another_body_ends_dead_and_its_neighbours_do_not() -> None:
    stores = Stores({})
    stores.decided_otherwise = {"e-3"}
    broken = Delivery(lane("acme").decide, b"{}", "reply", "FG_DECIDE_0", 1)
    fates = await stage(Rules(), stores).run([delivery("acme", 2), broken, delivery("acme", 3), delivery("acme", 4)])
    assert fates == [DONE, Dead(DeadReason.POISON), Dead(DeadReason.EVENT_ID_CONFLICT), DONE]


async def test_a_remote_policy_is_asked_as_many_questions_at_once_as_it_takes_and_the_order_stays() -> None:
    rules, stores = Rules(in_flight_max=16), Stores({})
    rules.open.clear()
    running = asyncio.create_task(stage(rules, stores).run([delivery("acme", number) for number in range(40)]))
    await rules.full.wait()
    rules.open.set()
    assert await running == [DONE] * 40
    assert rules.most_in_flight == 16
    assert [record.seq for record in stores.records] == list(range(40))


async def test_a_policy_of_one_question_at_a_time_is_asked_in_order() -> None:
    rules, stores = Rules(in_flight_max=1), Stores({})
    await stage(rules, stores).run([delivery("acme", number) for number in range(9)])
    assert rules.most_in_flight == 1
    assert [asked["event"]["payload"]["path"] for asked in rules.asked] == [f"/usr/bin/{n}" for n in range(9)]


@pytest.mark.parametrize(
    "answer",
    [
        DENY,
        PolicyAnswer(PolicyCode.POLICY_NO_RULE_DENY, ()),
        PolicyAnswer(PolicyCode.POLICY_STALE_DENY, ()),
        PolicyAnswer(PolicyCode.OPA_UNAVAILABLE_DENY, ()),
    ],
)
async def test_observing_allows_and_records_what_would_have_been_and_enforcing_denies(answer: PolicyAnswer) -> None:
    for enforce, verdict in ((True, "deny"), (False, "allow")):
        stores = Stores({})
        await stage(Rules(answer), stores, enforce=enforce).run([delivery("acme")])
        record = stores.records[0]
        assert (record.verdict, record.policy_code, record.policy_reasons) == (verdict, answer.code, answer.reasons)


async def test_each_phase_of_each_event_is_timed() -> None:
    meter = Meter()
    await stage(Rules(), Stores({}), meter=meter).run([delivery("acme"), delivery("acme", 2)])
    timed = Counter(labels[0] for metric, labels in meter.added if metric is PIPELINE_PHASE_MS)
    assert [timed[phase] for phase in ("features", "policy", "scoring")] == [2, 2, 2]
