"""Retention on a database of its own: what a plan keeps stays, and what none keeps goes."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from chaos.checker import check
from chaos.history import Event, Outcome, Request
from chaos.stores import state_of
from schemas.answers import Refusal
from schemas.rows import ClaimOutcome
from sinks import attest
from sinks.dead_letters import DeadLetters
from sinks.event_keys import EventKeys
from sinks.faults import UnexpectedAnswerError
from sinks.ledger import DecisionLedger
from sinks.life import Lives
from sinks.pg import Pool
from sinks.retention import Overdue, Retention, RetentionRules
from sinks.tenants import UnknownTenantError
from tests.integration.cli.commands import Shell
from tests.integration.sinks import make
from tests.integration.sinks.conftest import settings
from tests.integration.sinks.kept import RULES, Place, days_ago, retention

YEARS_AHEAD = """
import time
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + 1e9
time.time_ns = lambda: nanoseconds() + 10**18
"""
"""A machine whose clock is wrong, as its Python starts."""


async def test_each_tenant_keeps_what_its_own_plan_keeps(place: Place) -> None:
    free, pro = await place.tenant("free"), await place.tenant("pro")
    for tenant_id in (free, pro):
        await place.events(tenant_id, 0, 6, 8, 89, 91)
    assert await retention(place).overdue(free) == Overdue(3, 3, 0)
    assert await retention(place).take(free) == Overdue(3, 3, 0)
    for table in ("ingest_events", "event_keys"):
        assert await place.left(free, table) == [0, 6]
        assert await place.left(pro, table) == [0, 6, 8, 89, 91], "another tenant's rows"
    assert await retention(place).take(free) == Overdue(0, 0, 0)
    assert await retention(place).take(pro) == Overdue(1, 1, 0)
    notes = await place.eyes.fetch("SELECT tenant_id, operator, action, details FROM operator_actions ORDER BY done_at")
    assert [tuple(note)[:3] for note in notes] == [(free, "ann", "retention.run"), (pro, "ann", "retention.run")]
    assert notes[0]["details"] == '{"keys": 3, "events": 3, "letters": 0}'


async def test_a_day_is_dropped_only_when_no_tenants_plan_needs_it(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, 1, 8, 89, 91, 366)
    assert len(await retention(place).days_over()) == 4
    pro = await place.tenant("pro")
    over = await retention(place).days_over()
    assert [f"{day:%Y%m%d}" for day in over] == [days_ago(age)[:10].replace("-", "") for age in (366, 91)]
    await place.tenant("enterprise")
    [oldest] = await retention(place).days_over()
    assert await retention(place).drop(oldest, [free, pro]) == {free: 1}
    assert await place.left(free) == [1, 8, 89, 91]
    assert f"{oldest:%Y%m%d}" not in await place.days()
    assert await retention(place).drop(oldest, [free, pro]) == {}, "again, and nothing is there"
    note = await place.eyes.fetchrow("SELECT tenant_id, action, details::jsonb->>'events' FROM operator_actions")
    assert tuple(note) == (free, "retention.drop_day", "1")


async def test_the_database_refuses_to_drop_a_day_that_a_plan_needs_whatever_it_is_told(place: Place) -> None:
    pro = await place.tenant("pro")
    await place.events(pro, 8, 89)
    days = [(datetime.now(UTC) - timedelta(days=age)).date() for age in (8, 89, 1, 0)]
    for day in days:
        with pytest.raises(UnexpectedAnswerError):
            await retention(place).drop(day, [pro])
    loose = Retention(
        place.operator,
        RetentionRules(
            days_by_tier={"free": 1, "pro": 1, "enterprise": 1}, key_age_seconds_min=0, letter_age_seconds_min=0
        ),
        "ann",
    )
    for day in days[2:]:
        with pytest.raises(UnexpectedAnswerError):
            await loose.drop(day, [pro])
    unknown = Retention(
        place.operator, RetentionRules(days_by_tier={"free": 1}, key_age_seconds_min=0, letter_age_seconds_min=0), "ann"
    )
    with pytest.raises(UnexpectedAnswerError):
        await unknown.drop(days[1], [pro])
    assert await place.left(pro) == [8, 89]
    assert await place.eyes.fetchval("SELECT count(*) FROM operator_actions") == 0, "a refused drop is no action"


@pytest.mark.parametrize(
    ("caller", "statement"),
    [
        ("fg_retention", f"SELECT app.drop_ingest_partition(:day, '{json.dumps(dict(RULES.days_by_tier))}')"),
        ("fg_worker", "SELECT app.ensure_ingest_partition(:day)"),
    ],
)
async def test_a_day_that_is_written_like_another_is_no_day_at_all(place: Place, caller: str, statement: str) -> None:
    """The name of a partition has room for neither an era nor a fifth digit of the year."""
    free = await place.tenant("free")
    await place.events(free, 0)
    before = await place.days()
    for day in (
        f"{days_ago(0)[:10]} BC",
        f"{days_ago(-1)[:10]} BC",
        "12026-11-23",
        "2019-12-31",
        "-infinity",
        "infinity",
    ):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.DatetimeFieldOverflowError)):
            async with place.eyes.transaction():
                await place.eyes.execute(f"SET LOCAL ROLE {caller}")
                await place.eyes.execute(statement.replace(":day", f"DATE '{day}'"))
    assert await place.days() == before
    assert await place.left(free) == [0]


async def test_a_day_further_ahead_than_any_clock_gets_no_partition(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, -7, 0)
    before = await place.days()
    with pytest.raises(Refusal):
        await place.events(free, -8)
    assert await place.days() == before


async def test_a_plan_without_days_is_a_plan_unknown(place: Place) -> None:
    free, pro = await place.tenant("free"), await place.tenant("pro")
    await place.events(pro, 8)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="RETENTION_OF_A_PLAN_UNKNOWN"):
        await place.eyes.execute(
            "SELECT app.drop_ingest_partition((now() AT TIME ZONE 'UTC')::date - 8, $1)", '{"free": 7, "pro": null}'
        )
    assert (await place.left(free), await place.left(pro)) == ([], [8])


async def test_an_id_that_is_used_again_after_retention_with_another_body_ends_dead(place: Place) -> None:
    free, ledger = await place.tenant("free"), DecisionLedger(place.worker)
    for event in ("same", "other"):
        await EventKeys(place.worker).claim([make.claim(free, event, 1, ingest_ts=days_ago(8))])
    first = [make.record(free, event) for event in ("same", "other")]
    assert await ledger.record(first) == [False, False]
    assert (await retention(place).take(free)).keys == 2
    again = [make.claim(free, "same", 2, ingest_ts=days_ago(0)), make.claim(free, "other", 3, sha=make.SHA_B)]
    assert await EventKeys(place.worker).claim(again) == [ClaimOutcome.CLAIMED] * 2
    assert await ledger.record([first[0], msgspec.structs.replace(first[1], body_sha256=make.SHA_B)]) == [False, True]
    lives = Lives(place.operator)

    async def outcome(event: str) -> str:
        return str(msgspec.json.decode(await lives.life_of(free, event, None) or b"")["outcome"])

    assert (await outcome("same"), await outcome("other")) == ("decided", "in_flight")
    await DeadLetters(place.worker, make.SHA_A).bury([make.letter(free, "other", reason="event_id_conflict")])
    assert (await outcome("same"), await outcome("other")) == ("decided", "dead")
    sent = [Event(free, event, (Request("c", 1, free, event, 7, Outcome.OK),)) for event in ("same", "other")]
    lost = [finding for finding in check(sent, [await state_of(place.dsn["admin"], free)]) if finding.rule == "C1"]
    assert lost == []


async def test_large_tenants_are_taken_in_bounded_commits(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, 2, 9, 10, copies=25)
    assert await retention(place, batch_rows=10).take(free) == Overdue(50, 50, 0)
    assert len(await place.left(free)) == len(await place.left(free, "event_keys")) == 25
    events = await place.eyes.fetch("SELECT (details->>'events')::int FROM operator_actions")
    assert [row[0] for row in events if row[0]] == [10] * 5


async def test_dead_letters_leave_by_plan_and_age_and_their_chain_entry_stays(place: Place) -> None:
    free, pro = await place.tenant("free"), await place.tenant("pro")
    for tenant_id in (free, pro):
        await DeadLetters(place.worker, make.SHA_A).bury([make.letter(tenant_id, f"e{n}") for n in range(3)])
        for event, age in (("e0", 1), ("e1", 8), ("e2", 91)):
            await place.eyes.execute(
                "UPDATE ingest_dlq SET last_seen_at = $3::timestamptz WHERE tenant_id = $1 AND event_id = $2",
                tenant_id, event, datetime.now(UTC) - timedelta(days=age),
            )  # fmt: skip
    assert (await retention(place).take(free), await retention(place).take(pro)) == (Overdue(0, 0, 2), Overdue(0, 0, 1))
    assert (await place.left(free, "ingest_dlq"), await place.left(pro, "ingest_dlq")) == ([1], [1, 8])
    assert await place.eyes.fetchval("SELECT count(*) FROM chain_entries WHERE tenant_id = $1", free) == 3


async def test_the_retention_role_reads_and_deletes_in_three_tables_as_one_tenant_and_no_more(place: Place) -> None:
    free, pro = await place.tenant("free"), await place.tenant("pro")
    await place.events(pro, 1)
    assert await attest.findings(place.operator) == []
    role = await place.eyes.fetchrow(
        "SELECT rolcanlogin, rolinherit, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication "
        "FROM pg_roles WHERE rolname = 'fg_retention'"
    )
    assert tuple(role) == (False, False, False)
    granted = await place.eyes.fetch(
        "SELECT table_name, privilege_type FROM information_schema.table_privileges WHERE grantee = 'fg_retention'"
    )
    tables = ("event_keys", "ingest_dlq", "ingest_events")
    assert {tuple(row) for row in granted} == {(table, verb) for table in tables for verb in ("SELECT", "DELETE")}
    async with place.operator.tenant_transaction([free]) as connection:
        await connection.execute("SET LOCAL ROLE fg_retention")
        assert await connection.execute("DELETE FROM ingest_events") == "DELETE 0", "another tenant's rows"
    with pytest.raises(UnexpectedAnswerError):
        async with place.operator.tenant_transaction([pro]) as connection:
            await connection.execute("DELETE FROM ingest_events")
    with pytest.raises(UnknownTenantError):
        await retention(place).take("nobody")


async def test_the_command_says_what_would_go_then_takes_it_by_the_databases_clock_and_then_finds_nothing(
    place: Place, tmp_path: Path
) -> None:
    free, pro = await place.tenant("free"), await place.tenant("pro")
    for tenant_id in (free, pro):
        await place.events(tenant_id, 1, 8, 91)
    shell = Shell(tmp_path, FG_ADMIN_POSTGRES_DSN=place.dsn["operator"])
    before = await place.everything()
    planned = await asyncio.to_thread(shell.run, "retention", "run", "--dry-run", "--json")
    assert planned.status == 0, planned
    assert await place.everything() == before
    (tmp_path / "sitecustomize.py").write_text(YEARS_AHEAD)
    ahead = shell.with_variables(PYTHONPATH=str(tmp_path))
    done = await asyncio.to_thread(ahead.run, "retention", "run", "--json", "--by", "ann")
    assert done.document | {"dry_run": True} == planned.document
    assert (done.document["events"], done.document["keys"], len(done.document["days_dropped"])) == (3, 3, 1)
    by_tenant = {one["tenant_id"]: (one["events"], one["keys"]) for one in done.document["tenants"]}
    assert by_tenant == {free: (2, 2), pro: (1, 1)}
    assert f"deleted for {free}: 1 events, 2 keys, 0 dead letters" in done.stderr
    assert (await place.left(free), await place.left(pro)) == ([1], [1, 8])
    again = await asyncio.to_thread(shell.run, "retention", "run")
    assert again.stdout == "gone: 0 events, 0 keys, 0 dead letters; 0 whole days\n"


SLOW_DATABASE = """
ALTER FUNCTION app.note_dropped_day(text[], date, text) RENAME TO quick_note;
CREATE FUNCTION app.note_dropped_day(asking text[], day date, operator text)
RETURNS TABLE (tenant_id text, events bigint) LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(asking) > 1 THEN
        RAISE EXCEPTION 'a statement for several tenants takes as many times as long';
    END IF;
    PERFORM pg_sleep(7);
    RETURN QUERY SELECT * FROM app.quick_note(asking, day, operator);
END
$$;
"""
"""Counting takes longer than any other command waits for an answer, and each tenant's takes as long."""


async def test_the_command_waits_for_a_day_that_takes_long_to_count(place: Place, tmp_path: Path) -> None:
    free = await place.tenant("free")
    await place.events(free, 8)
    await place.eyes.execute(SLOW_DATABASE)
    shell = Shell(tmp_path, FG_ADMIN_POSTGRES_DSN=place.dsn["operator"])
    done = await asyncio.to_thread(shell.run, "retention", "run", "--json")
    assert (done.status, done.document["days_failed"]) == (0, []), done
    assert done.document["tenants"] == [{"tenant_id": free, "events": 1, "keys": 1, "letters": 0}]
    assert await place.days() == set()


async def test_each_tenants_share_of_a_day_is_counted_in_a_statement_of_its_own(place: Place) -> None:
    free, other = await place.tenant("free"), await place.tenant("free")
    for tenant_id in (free, other):
        await place.events(tenant_id, 8)
    await place.eyes.execute(SLOW_DATABASE.replace("pg_sleep(7)", "pg_sleep(0)"))
    [day] = await retention(place).days_over()
    assert await retention(place).drop(day, [free, other]) == {free: 1, other: 1}


async def test_a_day_that_cannot_be_dropped_keeps_nothing_else_from_going(place: Place, tmp_path: Path) -> None:
    free = await place.tenant("free")
    await place.events(free, 1, 8, 9, 10)
    await DeadLetters(place.worker, make.SHA_A).bury([make.letter(free, "dead")])
    held = days_ago(9)[:10]
    shell = Shell(tmp_path, FG_ADMIN_POSTGRES_DSN=place.dsn["operator"])
    async with place.eyes.transaction():  # somebody reads that day, for longer than an insert may be held up
        await place.eyes.execute(f"LOCK TABLE ingest_events_{held.replace('-', '')} IN ACCESS SHARE MODE")
        done = await asyncio.to_thread(shell.run, "retention", "run", "--json")
    assert done.status == 1
    assert f"not dropped: {held}." in done.stderr
    assert (done.document["days_dropped"], done.document["days_failed"]) == (
        sorted(days_ago(age)[:10] for age in (8, 10)),
        [held],
    )
    assert (done.document["events"], done.document["keys"], done.document["letters"]) == (3, 3, 1)
    assert (await place.left(free), await place.left(free, "event_keys")) == ([1], [1])
    again = await asyncio.to_thread(shell.run, "retention", "run", "--json")
    assert (again.status, again.document["days_dropped"], again.document["events"]) == (0, [held], 0)


BOTH_LOOK = """
ALTER FUNCTION app.note_dropped_day(text[], date, text) RENAME TO quick_note;
CREATE FUNCTION app.note_dropped_day(asking text[], day date, operator text)
RETURNS TABLE (tenant_id text, events bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM app.quick_note(asking, day, operator);
    WHILE FOUND AND NOT EXISTS (
        SELECT FROM pg_locks
        WHERE pid <> pg_backend_pid()
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (relation = 'ingest_events'::regclass OR locktype = 'advisory' AND NOT granted)
    ) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
"""
"""Whoever has counted a day that is there goes on when the other has looked at it too, or waits for its turn."""


async def test_two_runs_at_once_drop_a_day_once_and_neither_fails(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, 8)
    [day] = await retention(place).days_over()
    await place.eyes.execute(BOTH_LOOK)
    runs = await asyncio.gather(*(retention(place).drop(day, [free]) for _ in range(2)))
    assert sorted(runs, key=len) == [{}, {free: 1}]
    assert await place.eyes.fetchval("SELECT count(*) FROM operator_actions") == 1


async def test_what_would_go_is_counted_a_page_at_a_time(place: Place) -> None:
    free = await place.tenant("free")
    await place.events(free, 2, 9, 10, copies=25)
    letters = [make.letter(free, f"e{n}", reason=reason) for n in range(25) for reason in ("poison", "store_refused")]
    await DeadLetters(place.worker, make.SHA_A).bury(letters)
    asked: list[str] = []
    operator = await Pool.open(settings(place.dsn["operator"], pool_size=1))
    async with operator.lent() as connection:
        connection.add_query_logger(lambda query: asked.append(query.query))
    small_pages = Retention(operator, RULES, "ann", batch_rows=10)
    assert await small_pages.overdue(free) == Overdue(50, 50, 50)
    await operator.close()
    reading = [query for query in asked if "FROM ingest_events" in query or "FROM event_keys" in query]
    assert len(reading) >= 2 * 3 + 8
    assert all("LIMIT $3" in query for query in reading)
    assert await retention(place).overdue(free) == Overdue(50, 50, 50)
