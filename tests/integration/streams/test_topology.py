"""The streams are what is declared, and whatever differs is named."""

from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from streams.durability import DurabilityWatch
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from streams.topology import apply, consumer_drift, consumers, create_missing, stream_drift, streams


async def test_applying_twice_creates_nothing_more(servers: EmbeddedServers, stream_settings: StreamSettings) -> None:
    assert await apply(servers.nats_url("admin"), stream_settings) == []


async def test_the_live_topology_is_the_declared_one(admin: JetStream, stream_settings: StreamSettings) -> None:
    assert await stream_drift(admin, stream_settings) == []
    assert await consumer_drift(admin, stream_settings) == []


async def test_every_window_is_wider_than_a_tenants_cap(stream_settings: StreamSettings) -> None:
    assert all(
        consumer.config["max_ack_pending"] > stream_settings.tenant_messages_max
        for consumer in consumers(stream_settings)
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
