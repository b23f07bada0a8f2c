"""An ASGI application served as the edge's is, on a free loopback port."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from edge.protocol import EdgeProtocol


@asynccontextmanager
async def served(
    app: Any, protocol: type[EdgeProtocol] = EdgeProtocol, tls: ssl.SSLContext | None = None, keep_alive_s: int = 75
) -> AsyncIterator[int]:
    """The port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=1,
    )
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    started = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.wait({started}, timeout=0.01)
            assert not started.done()
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await started
        listener.close()
