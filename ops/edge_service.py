"""The edge process: the ASGI application, the broker, Postgres and Valkey brought together."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import uvicorn

from edge.app import EdgeApp
from edge.protocol import EdgeProtocol
from ops.clock import SystemClock
from ops.edge_parts import EdgeParts, assembled
from ops.health import admin_server
from ops.settings import Settings
from ops.telemetry import PrometheusMeter
from ops.tls import server_context

GRACEFUL_SHUTDOWN_S = 1
KEEP_ALIVE_S = 75


async def serve(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in hand are answered first.

    `listener` is a bound socket that several edges share; without one this edge binds its own.
    """
    meter = PrometheusMeter("edge")
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(assembled(settings, meter, SystemClock()))
        admin = admin_server(settings.admin_host, settings.admin_port, parts.readiness, meter)
        await admin.start()
        stack.push_async_callback(admin.stop)
        await stack.enter_async_context(_watched(parts))
        server = _Server(http_config(EdgeApp(settings.edge, parts.ports), settings))
        await server.serve(sockets=None if listener is None else [listener])


@asynccontextmanager
async def _watched(parts: EdgeParts) -> AsyncIterator[None]:
    """Run every standing check until the block is left; one that dies ends the process."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for run in parts.watches:
            tasks.create_task(run(stopping))
        yield
        stopping.set()


class _Server(uvicorn.Server):
    """uvicorn ends the process by the signal it was told to stop with; ours has connections to close after that."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def http_config(app: EdgeApp, settings: Settings) -> uvicorn.Config:
    """How the application is served, TLS and all, loaded and ready."""
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        http=EdgeProtocol,
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
    config.load()
    if settings.tls.served:
        config.ssl = server_context(settings.tls)
    return config
