"""The streams are what is declared, and whatever differs is named."""

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.subjects import STREAM_RETRY, consumer_name
from streams import remaking
from streams.delivery import ACK, Delivery, from_message
from streams.durability import DurabilityWatch
from streams.jetstream import JetStream
from streams.remaking import CLOSED
from streams.settings import StreamSettings
from streams.topology import (
    apply,
    consumer_drift,
    consumers,
    create_missing,
    durability_drift,
    stream_drift,
    streams,
)


async def test_applying_twice_creates_nothing_more(servers: EmbeddedServers, stream_settings: StreamSettings) -> None:
    assert await apply(servers.nats_url("admin"), stream_settings) == []


async def test_the_live_topology_is_the_declared_one(admin: JetStream, stream_settings: StreamSettings) -> None:
    assert await stream_drift(admin, stream_settings) == []
    assert await consumer_drift(admin, stream_settings) == []


async def test_every_partitions_window_is_wider_than_a_tenants_cap(stream_settings: StreamSettings) -> None:
    assert all(
        consumer.config["max_ack_pending"] > stream_settings.tenant_messages_max
        for consumer in consumers(stream_settings)
        if "priority_groups" in consumer.config
    )


async def test_a_changed_stream_is_named_and_not_repaired(admin: JetStream, stream_settings: StreamSettings) -> None:
    declared = next(stream for stream in streams(stream_settings) if stream["name"] == "FG_DLQ")
    await admin.api("STREAM.UPDATE.FG_DLQ", {**declared, "duplicate_window": 60_000_000_000}, dict)
    try:
        found = await stream_drift(admin, stream_settings)
        assert found == ["FG_DLQ: duplicate_window is 60000000000, declared 120000000000"]
        await create_missing(admin, stream_settings)
        assert await stream_drift(admin, stream_settings) == found
    finally:
        await admin.api("STREAM.UPDATE.FG_DLQ", declared, dict)


async def _as_it_was(admin: JetStream, stream_settings: StreamSettings) -> dict[str, Any]:
    """FG_RETRY as the version before made it: a work queue."""
    declared = next(stream for stream in streams(stream_settings) if stream["name"] == STREAM_RETRY)
    await admin.api(f"STREAM.DELETE.{STREAM_RETRY}", None, dict)
    former = {**declared, "retention": "workqueue"}
    await admin.api(f"STREAM.CREATE.{STREAM_RETRY}", former, dict)
    return former


async def test_a_retry_lane_that_is_a_work_queue_is_made_anew_once_it_holds_nothing(
    admin: JetStream, stream_settings: StreamSettings
) -> None:
    former = await _as_it_was(admin, stream_settings)
    differs = [f"{STREAM_RETRY}: retention is 'workqueue', declared 'limits'"]
    try:
        await admin.ask("fg.rt.1.waits", b"{}", None, 2_000)
        assert await create_missing(admin, stream_settings) == [f"{STREAM_RETRY}/retry"]
        assert await stream_drift(admin, stream_settings) == differs
        stopped = {**former, "subjects": [CLOSED]}  # an upgrade that ended before it was through
        await admin.api(f"STREAM.UPDATE.{STREAM_RETRY}", stopped, dict)
        await create_missing(admin, stream_settings)
        assert await stream_drift(admin, stream_settings) == differs
        await admin.api(f"STREAM.PURGE.{STREAM_RETRY}", None, dict)
        await admin.api(f"STREAM.UPDATE.{STREAM_RETRY}", stopped, dict)
    finally:
        await admin.api(f"STREAM.PURGE.{STREAM_RETRY}", None, dict)
        assert await create_missing(admin, stream_settings) == [STREAM_RETRY, f"{STREAM_RETRY}/retry"]
    assert await stream_drift(admin, stream_settings) == []


async def test_a_retry_stored_while_its_lane_is_made_anew_is_kept(
    admin: JetStream, stream_settings: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _as_it_was(admin, stream_settings)
    look = remaking.look
    looks: list[int] = []

    async def stored_just_after(jetstream: JetStream, name: str) -> Any:
        found = await look(jetstream, name)
        if not looks:
            await admin.ask("fg.rt.1.late", b"{}", None, 2_000)
        looks.append(found.state.messages)
        return found

    monkeypatch.setattr(remaking, "look", stored_just_after)
    try:
        assert STREAM_RETRY not in await create_missing(admin, stream_settings)
        assert looks == [0, 1]
        live = await admin.api(f"STREAM.INFO.{STREAM_RETRY}", None, dict)
        assert (live["state"]["messages"], live["config"]["subjects"]) == (1, ["fg.rs.*.*.*", "fg.rt.*.*"])
    finally:
        monkeypatch.undo()
        await admin.api(f"STREAM.PURGE.{STREAM_RETRY}", None, dict)
        await create_missing(admin, stream_settings)
    assert await stream_drift(admin, stream_settings) == []


async def test_a_retry_lane_that_ends_in_the_making_gets_its_subjects_back(
    admin: JetStream, stream_settings: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _as_it_was(admin, stream_settings)
    look = remaking.look
    looks: list[int] = []

    async def silent_the_second_time(jetstream: JetStream, name: str) -> Any:
        looks.append(1)
        if len(looks) == 2:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        return await look(jetstream, name)

    monkeypatch.setattr(remaking, "look", silent_the_second_time)
    try:
        with pytest.raises(NoAnswer):
            await create_missing(admin, stream_settings)
        live = await admin.api(f"STREAM.INFO.{STREAM_RETRY}", None, dict)
        assert live["config"]["subjects"] == ["fg.rs.*.*.*", "fg.rt.*.*"]
    finally:
        monkeypatch.undo()
        await create_missing(admin, stream_settings)


async def test_a_retry_lane_that_is_made_anew_goes_on_counting(
    admin: JetStream, stream_settings: StreamSettings
) -> None:
    await _as_it_was(admin, stream_settings)
    await admin.ask("fg.rt.1.waits", b"{}", None, 2_000)
    await admin.api(f"STREAM.PURGE.{STREAM_RETRY}", None, dict)
    await create_missing(admin, stream_settings)
    live = await admin.api(f"STREAM.INFO.{STREAM_RETRY}", None, dict)
    assert live["state"]["last_seq"] == 1


async def test_events_are_accepted_while_a_retry_lane_waits_to_be_made_anew(
    admin: JetStream, stream_settings: StreamSettings
) -> None:
    await _as_it_was(admin, stream_settings)
    try:
        assert await durability_drift(admin, stream_settings) == []
        assert await stream_drift(admin, stream_settings) != []
    finally:
        await create_missing(admin, stream_settings)


async def test_the_running_broker_proves_its_durability(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings
) -> None:
    system = await JetStream.connect(servers.nats_url("system"), "system")
    try:
        watch = DurabilityWatch(admin, system, stream_settings, SystemClock())
        assert not watch.proven()
        assert await watch.check() == []
        assert watch.proven()
        assert watch.remembers_since_ms() <= SystemClock().now_ms()
    finally:
        await system.close()


async def test_consumers_of_an_older_version_become_this_versions_and_keep_their_position(
    servers: EmbeddedServers, admin: JetStream, stream_settings: StreamSettings
) -> None:
    evidence = next(each for each in consumers(stream_settings) if each.name == consumer_name("evidence", 15))
    path = f"{evidence.stream}.{evidence.name}"
    old = {key: value for key, value in evidence.config.items() if not key.startswith("priority_")}
    old["ack_wait"] = 8_000_000_000
    await admin.api(f"CONSUMER.DELETE.{path}", None, dict)
    request = {"stream_name": evidence.stream, "config": old, "action": "create"}
    await admin.api(f"CONSUMER.CREATE.{path}", request, dict)
    for _ in range(3):
        await admin.ask("fg.events.15.older", b"{}", None, 2_000)
    inbox = await _pull_all(admin, path)
    await admin.settle([(inbox[0].reply, ACK)])
    before = await _position(admin, path, unsettled=len(inbox) - 1)
    try:
        assert await consumer_drift(admin, stream_settings) != []
        assert await apply(servers.nats_url("admin"), stream_settings) == [f"{evidence.stream}/{evidence.name}"]
        assert await consumer_drift(admin, stream_settings) == []
        assert await _position(admin, path, unsettled=len(inbox) - 1) == before
    finally:
        await admin.settle([(delivery.reply, ACK) for delivery in inbox])


async def _pull_all(admin: JetStream, path: str) -> list[Delivery]:
    """Everything an unpinned consumer has."""
    found: list[Delivery] = []
    ended = asyncio.Event()

    async def keep(message: Msg) -> None:
        if message.headers:
            ended.set()
        else:
            found.append(from_message(message))

    subscription, subject = await admin.subscribe("older", keep)
    await admin.request(f"$JS.API.CONSUMER.MSG.NEXT.{path}", b'{"batch": 1000, "no_wait": true}', subject)
    async with asyncio.timeout(10):
        await ended.wait()
    await admin.unsubscribe(subscription)
    return found


async def _position(admin: JetStream, path: str, unsettled: int) -> tuple[object, ...]:
    async with asyncio.timeout(10):
        while (state := await admin.api(f"CONSUMER.INFO.{path}", None, dict))["num_ack_pending"] != unsettled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return state["ack_floor"]["stream_seq"], state["delivered"]["stream_seq"], state["num_pending"]
