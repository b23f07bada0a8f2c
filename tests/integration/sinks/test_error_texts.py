"""Postgres names rows and values in its errors. None of that leaves the sinks, in an exception or in a log line."""

import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from ops.embedded import EmbeddedServers
from ops.telemetry import JsonFormatter
from schemas.answers import Refusal
from sinks.artifacts import ArtifactIndex
from sinks.event_keys import EventKeys
from sinks.faults import UnexpectedAnswerError
from sinks.ledger import DecisionLedger
from sinks.pg import Pool
from tests.integration.sinks import make

CANARY = "canary-7c1f04"
_ATTEMPT = "INSERT INTO attempts VALUES ($1, $2, 's', 1, now(), now())"
STATEMENTS = {
    "22P02 of a number": ("SELECT $1::text::integer", CANARY),
    "22P02 of a document": ("SELECT $1::text::jsonb", CANARY),
    "22007 of a moment": ("SELECT $1::text::timestamptz", CANARY),
    "22001 of a long text": (
        "INSERT INTO attempts SELECT 't', $1::text::varchar(3)::char(2), 's', 1, now(), now()",
        CANARY,
    ),
    "23502 of a missing value": ("INSERT INTO attempts (tenant_id, event_id) VALUES ('{tenant}', $1)", CANARY),
    "23505 of a key taken": (f"{_ATTEMPT}; {_ATTEMPT}".replace("$1", "'{tenant}'").replace("$2", f"'{CANARY}'"),),
    "23514 of a check": ("INSERT INTO attempts VALUES ('{tenant}', $1, 's', 0, now(), now())", CANARY),
    "42501 of another tenant's row": (_ATTEMPT, "other", CANARY),
    "42703 of a column": (f'SELECT "{CANARY}"',),
    "P0001 of a function": (f"DO $$ BEGIN RAISE EXCEPTION '{CANARY}'; END $$",),
}


def _leaves_nothing(caplog: pytest.LogCaptureFixture, failure: BaseException) -> None:
    """The canary is nowhere a person or a program gets to see: the exception, its traceback, any log line."""
    told = [str(failure), repr(failure), *map(str, failure.args), "".join(traceback.format_exception(failure))]
    formatter = JsonFormatter("worker", None)
    told += [formatter.format(record) for record in caplog.records]
    try:
        raise failure
    except type(failure):
        record = logging.LogRecord("ops", logging.ERROR, "", 0, "it failed", None, sys.exc_info())
        told.append(formatter.format(record))
    assert not [text for text in told if CANARY in text]


@pytest.mark.parametrize("name", STATEMENTS)
async def test_no_value_of_a_refused_statement_is_told(
    worker: Pool, tenant: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    statement, *values = STATEMENTS[name]
    with pytest.raises((Refusal, UnexpectedAnswerError)) as raised:
        async with worker.tenant_transaction([tenant]) as connection:
            await connection.execute(statement.replace("{tenant}", tenant), *values)
    _leaves_nothing(caplog, raised.value)


async def _claim(worker: Pool, tenant: str) -> None:
    await EventKeys(worker).claim([make.claim(tenant, f"{CANARY}\0", 1)])


async def _claim_with_a_long_trace_id(worker: Pool, tenant: str) -> None:
    claim = make.claim(tenant, "e1", 1)
    await EventKeys(worker).claim([claim._replace(key=claim.key._replace(trace_id=CANARY * 9))])


async def _decide(worker: Pool, tenant: str) -> None:
    await DecisionLedger(worker).record([make.record(tenant, CANARY, source=f"{CANARY}\0")])


async def _decide_at_no_time(worker: Pool, tenant: str) -> None:
    await DecisionLedger(worker).record([make.record(tenant, "e1", decided_at=CANARY)])


async def _index(worker: Pool, tenant: str) -> None:
    await ArtifactIndex(worker).index([make.artifact(tenant, f"{CANARY}\0")])


@pytest.mark.parametrize("call", [_claim, _claim_with_a_long_trace_id, _decide, _decide_at_no_time, _index])
async def test_no_value_of_a_refused_call_is_told(
    worker: Pool, tenant: str, caplog: pytest.LogCaptureFixture, call: Callable[[Pool, str], Awaitable[None]]
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Refusal) as raised:
        await call(worker, tenant)
    _leaves_nothing(caplog, raised.value)


async def test_the_servers_own_log_holds_no_value(servers: EmbeddedServers, worker: Pool, tenant: str) -> None:
    for statement, *values in STATEMENTS.values():
        with pytest.raises((Refusal, UnexpectedAnswerError)):
            async with worker.tenant_transaction([tenant]) as connection:
                await connection.execute(statement.replace("{tenant}", tenant), *values)
    logs = [
        path.read_text(errors="replace") for path in (servers.data_dir / "logs").iterdir() if "postgres" in path.name
    ]
    assert logs
    assert not [text for text in logs if CANARY in text]


async def test_a_batch_of_many_tenants_commits_whole_or_not_at_all(worker: Pool, superuser: Any) -> None:
    tenants = [make.tenant_id() for _ in range(30)]
    records = [make.record(tenant, "e1") for tenant in tenants]
    spoiled = [*records[:-1], msgspec.structs.replace(records[-1], source="\0")]

    async def rows() -> set[int]:
        tables = ("decisions", "chain_entries", "chain_heads", "evidence_outbox", "outbox_tenants", "usage_meters")
        count = "SELECT count(DISTINCT tenant_id) FROM {} WHERE tenant_id = ANY ($1::text[])"
        return {await superuser.fetchval(count.format(table), tenants) for table in tables}

    with pytest.raises(Refusal):
        await DecisionLedger(worker).record(spoiled)
    assert await rows() == {0}
    await DecisionLedger(worker).record(records)
    assert await rows() == {30}
