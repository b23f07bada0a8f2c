"""Who works a partition when its worker ends: the next one continues at once, in order, and effects stay single."""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import msgspec
import pytest

from ops import plan
from ops.clock import SystemClock, new_span_id, new_uuid7
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.embedded.process import free_port
from ops.settings import load
from schemas.answers import Stored
from schemas.canonical import canonical_plain, sha256_hex
from schemas.envelope import AcceptedEvent
from schemas.meter import Meter
from schemas.metrics import TAKEOVERS
from schemas.subjects import consumer_name, ingest_stream, lane, message_id, partition_of
from schemas.units import format_rfc3339
from streams.budgets import budget_of
from streams.committer import GroupCommitter, unbarred
from streams.delivery import ACK, Delivery
from streams.inbox import Inbox
from streams.jetstream import JetStream
from streams.keeper import Keeper
from streams.settings import StreamSettings

STREAM = ingest_stream(0)
MESSAGES = 30
TAKEOVER_S_MAX = 5.0
BOUND_S = 90.0
TENANTS = 12
EVENTS = 2_000
FIRST = 200


PLAN = plan.of(load({}))


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """Servers of their own: what other tests leave unsettled would be taken over here too."""
    with await DataDirectory.open(tmp_path_factory.mktemp("takeover") / "data") as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start()
            await PLAN.provision(embedded, directory)
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


class Hand:
    """One worker's hold of one partition before dedupe, without a stage."""

    def __init__(self, jetstream: JetStream, settings: StreamSettings, tenant: str, meter: Meter) -> None:
        self.jetstream = jetstream
        self.keeper = Keeper(jetstream, settings, meter)
        self._arrived = asyncio.Event()
        budget = budget_of("dedupe", settings, load({}).retry)
        self.inbox: Inbox = self.keeper.inbox(budget, partition_of(tenant), self._arrived)

    async def open(self) -> "Hand":
        await self.inbox.open()
        await self.inbox.pull()
        return self

    async def take(self, messages: int) -> list[Delivery]:
        """Exactly so many deliveries, pulled as a runner does."""
        found: list[Delivery] = []
        async with asyncio.timeout(BOUND_S):
            while len(found) < messages:
                await self.inbox.pull()
                self._arrived.clear()
                found += self.inbox.take(messages - len(found))
                if len(found) < messages:
                    await self._wait()
        return found

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(0.5):
                await self._arrived.wait()
        except TimeoutError:
            return


@asynccontextmanager
async def _hands(
    servers: EmbeddedServers, settings: StreamSettings, tenant: str, meter: Meter, count: int = 2
) -> AsyncIterator[list[Hand]]:
    connections = [await JetStream.connect(servers.nats_url("worker"), "worker") for _ in range(count)]
    yield [Hand(connection, settings, tenant, meter) for connection in connections]
    for connection in connections:
        await connection.close()


async def _fill(admin: JetStream, settings: StreamSettings, tenant: str, meter: Meter, messages: int) -> None:
    committer = GroupCommitter(admin, settings, STREAM, meter, unbarred)
    first = partition_of(tenant)
    sent = [committer.submit(f"fg.in.{first}.{tenant}", f"{tenant}/{new_uuid7()}", b"{}", "") for _ in range(messages)]
    assert all(isinstance(outcome, Stored) for outcome in await asyncio.gather(*sent))


async def _settled(admin: JetStream, hand: Hand, tenant: str, deliveries: list[Delivery], left: int) -> None:
    """Acknowledge, and return once the broker counts what is left unsettled."""
    await hand.jetstream.settle([(delivery.reply, ACK) for delivery in deliveries])
    name = f"{STREAM}.{consumer_name('dedupe', partition_of(tenant))}"
    async with asyncio.timeout(BOUND_S):
        while (await admin.api(f"CONSUMER.INFO.{name}", None, dict))["num_ack_pending"] != left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_a_dead_owner_had_comes_to_the_next_within_seconds_in_order_and_suspect(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant = "orphan"
    await _fill(admin, stream_settings, tenant, tally, MESSAGES)
    async with _hands(servers, stream_settings, tenant, tally) as (owner, standby):
        held = await (await owner.open()).take(MESSAGES)
        assert not any(delivery.suspect for delivery in held)
        await standby.open()
        await _settled(admin, owner, tenant, held[:10], MESSAGES - 10)
        await owner.jetstream.close()
        started = asyncio.get_running_loop().time()
        taken = await standby.take(MESSAGES - 10)  # nothing new was published: only what the dead one left
        waited_s = asyncio.get_running_loop().time() - started
        print(f"the next owner had everything after {waited_s:.2f} s")
        assert waited_s < TAKEOVER_S_MAX
        assert [(d.seq, d.suspect) for d in taken] == [(d.seq, True) for d in held[10:]]
        await _fill(admin, stream_settings, tenant, tally, 5)
        assert not any(delivery.suspect for delivery in await standby.take(5))
        await _settled(admin, standby, tenant, taken, 5)
    assert tally.told.count((TAKEOVERS.name, 1, ("dedupe",))) == 1  # type: ignore[attr-defined]  # the fixture's own list


async def test_a_clean_stop_hands_everything_to_the_next_owner_and_nothing_of_it_is_suspect(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant = "handed-back"
    await _fill(admin, stream_settings, tenant, tally, MESSAGES)
    async with _hands(servers, stream_settings, tenant, tally) as (owner, standby):
        held = await (await owner.open()).take(10)
        await standby.open()
        await owner.jetstream.settle([(delivery.reply, ACK) for delivery in held])
        await owner.keeper.release()
        taken = await standby.take(MESSAGES - 10)
        assert [d.seq for d in taken] == list(range(held[-1].seq + 1, held[-1].seq + 1 + MESSAGES - 10))
        assert not any(delivery.suspect for delivery in taken)
        await _settled(admin, standby, tenant, taken, 0)


async def test_a_stop_that_outlasts_its_pin_hands_over_all_the_same(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant = "long-stop"
    await _fill(admin, stream_settings, tenant, tally, MESSAGES)
    full = replace(stream_settings, buffer_messages_max=1, pull_messages=MESSAGES)  # asks for no more by itself
    async with _hands(servers, full, tenant, tally) as (owner, standby):
        held = await (await owner.open()).take(1)
        async with asyncio.timeout(BOUND_S):
            while await _pinned(admin, tenant):  # noqa: ASYNC110  (the broker tells nobody)
                await asyncio.sleep(0.05)
        await owner.keeper.release()
        await standby.open()
        taken = await standby.take(MESSAGES)
        assert [d.seq for d in taken] == list(range(held[0].seq, held[0].seq + MESSAGES))
        assert not any(delivery.suspect for delivery in taken)
        await _settled(admin, standby, tenant, taken, 0)


async def test_an_owner_that_is_pinned_anew_begins_again_and_what_it_had_itself_is_not_suspect(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    tenant = "unpinned"
    await _fill(admin, stream_settings, tenant, tally, MESSAGES)
    async with _hands(servers, stream_settings, tenant, tally, 1) as (owner,):
        first = await (await owner.open()).take(1)
        name = f"{STREAM}.{consumer_name('dedupe', partition_of(tenant))}"
        await admin.api(f"CONSUMER.UNPIN.{name}", {"group": "p"}, dict)
        await _fill(admin, stream_settings, tenant, tally, 1)  # whoever gets it is the new owner
        async with asyncio.timeout(BOUND_S):
            while len(owner.inbox) != MESSAGES + 1:
                await owner.inbox.pull()
                await asyncio.sleep(0.01)
        again = owner.inbox.take(MESSAGES + 1)
        assert [d.seq for d in again] == list(range(first[0].seq, first[0].seq + MESSAGES + 1))
        assert not any(delivery.suspect for delivery in again)
        await _settled(admin, owner, tenant, again, 0)


async def test_an_owner_that_froze_hands_out_nothing_that_another_may_own_by_now(
    servers: EmbeddedServers,
    admin: JetStream,
    stream_settings: StreamSettings,
    tally: Meter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenant = "frozen"

    async def unheard(*_request: object) -> None:
        """What a frozen process sends."""

    await _fill(admin, stream_settings, tenant, tally, MESSAGES)
    async with _hands(servers, stream_settings, tenant, tally) as (owner, standby):
        held = await (await owner.open()).take(1)
        with monkeypatch.context() as frozen:
            frozen.setattr(owner.jetstream, "request", unheard)
            await standby.open()
            taken = await standby.take(MESSAGES)
            assert owner.inbox.take(MESSAGES) == []
        assert [d.seq for d in taken] == list(range(held[0].seq, held[0].seq + MESSAGES))
        for _ in range(3):
            await owner.inbox.pull()
            assert owner.inbox.take(MESSAGES) == []
        await _settled(admin, standby, tenant, taken, 0)


async def test_a_hot_tenants_burst_does_not_hide_its_neighbour(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings, tally: Meter
) -> None:
    hot = "hot-burst"
    cold = next(f"cold-{n}" for n in range(1_000) if partition_of(f"cold-{n}") == partition_of(hot))
    await _fill(admin, stream_settings, hot, tally, 900)
    await _fill(admin, stream_settings, cold, tally, 1)
    async with _hands(servers, stream_settings, hot, tally, 1) as (owner,):
        await owner.open()
        async with asyncio.timeout(BOUND_S):
            while len(owner.inbox) < 901:
                await owner.inbox.pull()
                await asyncio.sleep(0.01)
        taken = owner.inbox.take(128)
        assert lane(cold).ingest in {delivery.subject for delivery in taken}
        await _settled(admin, owner, hot, taken + await owner.take(901 - 128), 0)


def _event(tenant: str, event_id: str) -> bytes:
    now, trace_id = format_rfc3339(SystemClock().now_ms()), new_uuid7()
    body = canonical_plain(
        {
            "tenant_id": tenant,
            "event_id": event_id,
            "trace_id": trace_id,
            "agent_id": "agent-1",
            "schema_version": "1.0",
            "created_at": now,
            "source": "test",
            "payload": {"kind": "log.line", "path": "/var/log/x", "offset": 0, "line": event_id},
        }
    )
    event = AcceptedEvent(
        tenant, event_id, trace_id, new_uuid7(), "agent-1", now, new_span_id(), sha256_hex(body), msgspec.Raw(body)
    )
    return msgspec.json.encode(event)


async def _publish(committer: GroupCommitter, tenants: list[str], numbers: range) -> None:
    sent = []
    for number in numbers:
        tenant, event_id = tenants[number % len(tenants)], f"evt-{number:05d}"
        sent.append(committer.submit(lane(tenant).ingest, message_id(tenant, event_id), _event(tenant, event_id), ""))
    assert all(isinstance(outcome, Stored) for outcome in await asyncio.gather(*sent))


async def _entries(connection: asyncpg.Connection, tenants: list[str]) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM chain_entries WHERE tenant_id = ANY($1)", tenants))


async def _until_entries(connection: asyncpg.Connection, tenants: list[str], count: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while await _entries(connection, tenants) < count:  # noqa: ASYNC110  (other processes do the work)
            await asyncio.sleep(0.02)


async def test_of_two_workers_one_is_killed_in_mid_flight_and_every_event_is_decided_once_and_in_order(
    servers: EmbeddedServers,
    admin: JetStream,
    stream_settings: StreamSettings,
    tally: Meter,
) -> None:
    seed = int(os.environ.get("FG_TEST_SEED", random.randrange(2**32)))
    chance = random.Random(seed)
    tenants = [f"two-{number}" for number in range(TENANTS)]
    kill_at = chance.randint(FIRST + 1, EVENTS // 2)
    print(f"seed={seed} kill_at={kill_at}")
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    committer = GroupCommitter(admin, stream_settings, STREAM, tally, unbarred)
    workers = [await _worker(servers)]
    try:
        await _publish(committer, tenants, range(FIRST))
        await _until_entries(connection, tenants, FIRST)  # now it owns every partition these tenants have
        workers.append(await _worker(servers))
        await _until_somebody_stands_by(admin, tenants[0])
        await _publish(committer, tenants, range(FIRST, EVENTS))
        await _until_entries(connection, tenants, kill_at)
        workers[0].send_signal(signal.SIGKILL)
        await workers[0].wait()
        started = asyncio.get_running_loop().time()
        before = await _entries(connection, tenants)
        assert before < EVENTS
        await _until_entries(connection, tenants, before + 1)
        waited_s = asyncio.get_running_loop().time() - started
        await _until_entries(connection, tenants, EVENTS)
        whole_s = asyncio.get_running_loop().time() - started
        assert waited_s < TAKEOVER_S_MAX
        print(f"{before} before the kill, the first effect {waited_s:.2f} s after it, all after {whole_s:.2f} s")
        await _assert_once_and_in_order(connection, tenants)
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.send_signal(signal.SIGTERM)
                assert await worker.wait() == 0
        await connection.close()


async def _pinned(admin: JetStream, tenant: str) -> str:
    name = f"{STREAM}.{consumer_name('dedupe', partition_of(tenant))}"
    (group,) = (await admin.api(f"CONSUMER.INFO.{name}", None, dict))["priority_groups"]
    return str(group.get("pinned_client_id", ""))


async def _until_somebody_stands_by(admin: JetStream, tenant: str) -> None:
    name = f"{STREAM}.{consumer_name('dedupe', partition_of(tenant))}"
    async with asyncio.timeout(BOUND_S):
        while (await admin.api(f"CONSUMER.INFO.{name}", None, dict))["num_waiting"] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _worker(servers: EmbeddedServers) -> asyncio.subprocess.Process:
    command = PLAN.command("worker", servers, free_port(), free_port())
    return await asyncio.create_subprocess_exec(*command.arguments, env=dict(command.environment))


async def _assert_once_and_in_order(connection: asyncpg.Connection, tenants: list[str]) -> None:
    for position, tenant in enumerate(tenants):
        rows = await connection.fetch(
            "SELECT seq, event_id FROM chain_entries WHERE tenant_id = $1 ORDER BY seq", tenant
        )
        published = [f"evt-{number:05d}" for number in range(position, EVENTS, len(tenants))]
        assert [row["seq"] for row in rows] == list(range(1, len(published) + 1))
        assert [row["event_id"] for row in rows] == published
