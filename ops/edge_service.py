"""The edge process: the ASGI application, the broker, Postgres and Valkey brought together."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from edge.app import EdgeApp
from edge.hints import RedisHints, redis_client
from edge.ports import EdgePorts
from ops.clock import SystemClock, new_span_id, new_uuid7
from ops.connect import connected
from ops.health import admin_server
from ops.settings import Settings
from ops.telemetry import PrometheusMeter
from ops.watch import IsolationWatch
from schemas.readiness import Readiness
from sinks.api_keys import ApiKeys
from sinks.event_keys import EventKeys
from sinks.life import Lives
from sinks.pg import Pool
from streams.durability import DurabilityWatch
from streams.jetstream import JetStream
from streams.publisher import IngestPublisher

GRACEFUL_SHUTDOWN_S = 1
KEEP_ALIVE_S = 75


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests in hand are answered first."""
    meter = PrometheusMeter("edge")
    jetstream = await connected(settings.streams.url, "edge")
    system = await connected(settings.streams.system_url, "system")
    pool = await Pool.open(settings.postgres)
    client = redis_client(settings.redis_url)
    stopping = asyncio.Event()
    clock = SystemClock()
    durability = DurabilityWatch(jetstream, system, settings.streams, clock)
    isolation = IsolationWatch(pool)
    publisher = IngestPublisher(jetstream, durability, settings.streams, meter)
    hints = RedisHints(client, settings.edge)

    def readiness() -> Readiness:
        return _readiness(jetstream, durability, isolation)

    app = EdgeApp(
        settings.edge,
        EdgePorts(
            publisher=publisher,
            stored_keys=EventKeys(pool),
            hints=hints,
            credentials=ApiKeys(pool),
            lives=Lives(pool),
            readiness=readiness,
            queue_depth_hardstop=settings.streams.tenant_messages_max,
            meter=meter,
            clock=clock,
            new_request_id=new_uuid7,
            new_span_id=new_span_id,
        ),
    )
    admin = admin_server(settings.admin_host, settings.admin_port, readiness, meter)
    await admin.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(durability.run(stopping))
        tasks.create_task(isolation.run(stopping))
        await _Server(_http(app, settings)).serve()
        stopping.set()
    await publisher.close()
    await hints.close()
    await client.aclose()
    await admin.stop()
    await jetstream.close()
    await system.close()
    await pool.close()


class _Server(uvicorn.Server):
    """uvicorn ends the process by the signal it was told to stop with; ours has connections to close after that."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _readiness(jetstream: JetStream, durability: DurabilityWatch, isolation: IsolationWatch) -> Readiness:
    """Postgres away degrades, it does not stop: keys verified lately and young events still pass."""
    reasons = list(isolation.findings)
    if not jetstream.connected:
        reasons.append("no connection to the broker")
    elif not durability.proven():
        reasons += durability.findings or ["durability is not proven"]
    return Readiness(tuple(reasons), () if isolation.store_answers else ("the database does not answer",))


def _http(app: EdgeApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here believes a header about who is asking
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        backlog=4096,
    )
