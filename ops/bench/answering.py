"""HTTP and nothing behind it, over TLS or not: what is left of a request when nobody looks at it.

python -m ops.bench.answering config.json
"""

import asyncio
from typing import cast

import httptools
import uvloop

from ops.bench.reference import listener, read_config
from ops.tls import server_context

_BODY = b'{"status":"accepted","receipt":"%s"}' % (b"#" * 320)
"""As long as a receipt."""
_ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Answering(asyncio.Protocol):
    """One connection, each request answered once it has been read."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._transport is not None
        self._transport.write(_ANSWER)


async def serve() -> None:
    """Serve until killed."""
    config = read_config()
    context = None if config.tls is None else server_context(config.tls)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, sock=listener(config.port), ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
