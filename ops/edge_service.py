"""The edge process: the ASGI application, the broker, Postgres and Valkey brought together."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from edge.app import EdgeApp
from edge.protocol import EdgeProtocol
from ops.clock import SystemClock
from ops.edge_parts import EdgeParts, assembled
from ops.health import admin_server
from ops.settings import Settings
from ops.stop_deadline import heed_signals
from ops.telemetry import PrometheusMeter
from ops.tls import server_context

GRACEFUL_SHUTDOWN_S = 1
KEEP_ALIVE_S = 75
HANDSHAKE_S = 10.0


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
        app = EdgeApp(settings.edge, parts.ports)
        await _Service(http_config(app, settings), app).serve(sockets=None if listener is None else [listener])


@asynccontextmanager
async def _watched(parts: EdgeParts) -> AsyncIterator[None]:
    """Run every standing check until the block is left; one that dies ends the process."""
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for run in parts.watches:
            tasks.create_task(run(stopping))
        yield
        stopping.set()


class EdgeServer(uvicorn.Server):
    """uvicorn, with a bound for TLS handshakes, and telling the application when it stops."""

    def __init__(self, config: uvicorn.Config, app: EdgeApp) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replaces uvicorn's, which passes no bound on: without one a handshake may take a minute.

        Ends the process when it cannot listen.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        where: list[dict[str, Any]] = [{"host": config.host, "port": config.port}]
        if sockets is not None:
            where = [{"sock": one} for one in sockets]
        handshake_s = None if config.ssl is None else HANDSHAKE_S
        try:
            self.servers = [
                await loop.create_server(
                    self._connection, **one, ssl=config.ssl, ssl_handshake_timeout=handshake_s, backlog=config.backlog
                )
                for one in where
            ]
        except OSError as cause:
            raise SystemExit(f"cannot listen on {config.host}:{config.port}: {cause}") from cause
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.stop()
        await super().shutdown(sockets)

    def _connection(self) -> EdgeProtocol:
        return EdgeProtocol(self.config, self.server_state, {})


class _Service(EdgeServer):
    """uvicorn ends the process by the signal it was told to stop with; ours has connections to close after that."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        heed_signals(lambda number: self.handle_exit(number, None))
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
