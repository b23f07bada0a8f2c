"""Dead letters wait, counted and told about, until an operator takes them; taking keeps them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.dead_letter_watch import DeadLetterWatch
from ops.embedded import EmbeddedServers
from schemas.metrics import DLQ_AGED, DLQ_WAITING, Metric
from sinks import waiting_letters
from sinks.dead_letters import DeadLetters
from sinks.migrate import migrate
from sinks.pg import Pool
from sinks.tenants import Tenants
from sinks.waiting_letters import Waiting, WaitingLetters
from streams.settings import RetrySettings
from tests.integration.cli.commands import Shell
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings

AGE_S = 86_400
NOT_YET = timedelta(0)


class Gauges:
    """A meter that remembers the last value of each gauge."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        assert not labels
        self.values[metric.name] = value


class Place(NamedTuple):
    """A database nobody else uses, with two tenants."""

    dsn: str
    operator: Pool
    worker: Pool
    eyes: Any

    async def bury(self, tenant: str, *events: str, seq: int = 9) -> None:
        await DeadLetters(self.worker, make.SHA_A).bury([make.letter(tenant, event, seq) for event in events])

    async def refresh(self, tenant: str) -> None:
        await self.eyes.execute("UPDATE ingest_dlq SET first_seen_at = now() WHERE tenant_id = $1", tenant)

    async def waiting(self) -> list[str]:
        found = await WaitingLetters(self.operator).oldest(["acme", "beta"], NOT_YET)
        return sorted(one.event_id for one in found)


@pytest.fixture
async def place(servers: EmbeddedServers, superuser: Any) -> AsyncIterator[Place]:
    name = make.tenant_id()
    await superuser.execute(f'CREATE DATABASE "{name}"')
    dsn = {
        role: urlsplit(servers.postgres_dsn(role))._replace(path=f"/{name}").geturl()
        for role in ("admin", "operator", "worker")
    }
    await migrate(dsn["admin"], servers.role_passwords())
    operator, worker = await Pool.open(settings(dsn["operator"])), await Pool.open(settings(dsn["worker"]))
    eyes = await asyncpg.connect(dsn["admin"])
    for tenant in ("acme", "beta"):
        await Tenants(operator).add(tenant)
    yield Place(dsn["operator"], operator, worker, eyes)
    await asyncio.gather(operator.close(), worker.close(), eyes.close())
    await superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def watch(place: Place, gauges: Gauges, alert_depth: int) -> DeadLetterWatch:
    retry = RetrySettings(
        attempts_max=5, window_seconds=900, dlq_age_seconds_max=AGE_S, dlq_alert_depth=alert_depth, dlq_storm_ratio=0.5
    )
    return DeadLetterWatch(WaitingLetters(place.worker), retry, gauges)


async def test_the_letters_of_all_tenants_are_counted_and_reported_at_the_alert_depth(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_letters, "TENANTS_AT_ONCE", 1)
    gauges = Gauges()
    watching = watch(place, gauges, alert_depth=3)
    await watching.check()
    assert (gauges.values, watching.findings) == ({DLQ_WAITING.name: 0, DLQ_AGED.name: 0}, [])
    await place.bury("acme", "e1", "e2")
    await place.bury("beta", "e1")
    await place.refresh("beta")
    with caplog.at_level(logging.ERROR, "ops"):
        await watching.check()
        await watching.check()
    assert gauges.values == {DLQ_WAITING.name: 3, DLQ_AGED.name: 2}
    assert watching.findings == ["3 dead letters wait for an operator (alert depth 3): frostgate dlq list"]
    aged = [record.getMessage() for record in caplog.records if record.name == "ops"]
    assert aged == [f"2 dead letters wait for more than {AGE_S} s: frostgate dlq list"], "once, not every 30 s"
    await WaitingLetters(place.operator).take("acme", "e1", "ann", "seen")
    await watching.check()
    assert (gauges.values, watching.findings) == ({DLQ_WAITING.name: 2, DLQ_AGED.name: 1}, [])


async def test_a_taken_letter_is_kept_and_waits_again_when_there_is_one_more(place: Place) -> None:
    await place.bury("acme", "e1", "e2")
    letters = WaitingLetters(place.operator)
    assert await letters.take("beta", "e1", "ann", "not theirs") == []
    assert await letters.take("acme", "e1", "ann", "seen") == ["poison"]
    assert await letters.take("acme", "e1", "ann", "seen") == []
    assert await place.waiting() == ["e2"]
    await place.bury("acme", "e1")
    assert await place.waiting() == ["e2"], "the same message again"
    assert await place.eyes.fetchval("SELECT taken_by FROM ingest_dlq WHERE event_id = 'e1'") == "ann"
    await place.bury("acme", "e1", seq=10)
    assert await place.waiting() == ["e1", "e2"]
    assert await letters.take("acme", "e1", "bob", "again") == ["poison"]
    notes = await place.eyes.fetch("SELECT operator, details->>'reason' FROM operator_actions ORDER BY done_at")
    assert [tuple(note) for note in notes] == [("ann", "seen"), ("bob", "again")]
    assert await place.eyes.fetchval("SELECT count(*) FROM ingest_dlq") == 2


async def test_only_what_has_waited_for_so_long_is_listed(place: Place) -> None:
    await place.bury("acme", "old")
    await place.bury("beta", "young")
    await place.refresh("beta")
    letters = WaitingLetters(place.operator)
    assert await WaitingLetters(place.worker).count(AGE_S) == Waiting(2, 1)
    found = await letters.oldest(["acme", "beta"], timedelta(hours=24))
    assert [(one.tenant_id, one.event_id, one.reason_code, one.first_seen_at) for one in found] == [
        ("acme", "old", "poison", make.SEEN_AT)
    ]


async def test_the_commands_list_and_take(place: Place, tmp_path: Path) -> None:
    await place.bury("acme", "e1")
    await place.bury("beta", "e2")
    shell = Shell(tmp_path, FG_ADMIN_POSTGRES_DSN=place.dsn)
    listed = await asyncio.to_thread(shell.run, "dlq", "list", "--older-than", "24h", "--json")
    assert [(one["tenant_id"], one["event_id"]) for one in listed.document] == [("acme", "e1"), ("beta", "e2")]
    taken = await asyncio.to_thread(shell.run, "dlq", "take", "e1", "--tenant", "acme", "--reason", "fixed")
    assert (taken.status, taken.stdout) == (0, "took e1: poison\n")
    again = await asyncio.to_thread(shell.run, "dlq", "take", "e1", "--tenant", "acme", "--reason", "fixed")
    assert (again.status, "no dead letter of e1 waits" in again.stderr) == (1, True)
    assert (await asyncio.to_thread(shell.run, "dlq", "list", "--tenant", "acme")).stdout == ""
    assert (await asyncio.to_thread(shell.run, "dlq", "list", "--older-than", "soon")).status == 2
