"""The bare limit: HTTP in, group commit out, nothing looked at. No edge in Python can do less for a durable answer.

python -m ops.bench.bare config.json
"""

import asyncio
import itertools
from typing import cast

import httptools
import uvloop

from ops.bench.reference import STREAM, SUBJECT, listener, read_config
from schemas.answers import PublishOutcome, Stored
from schemas.metrics import Metric
from streams.committer import GroupCommitter, unbarred
from streams.jetstream import JetStream
from streams.settings import StreamSettings

_ACCEPTED = b'{"status":202}\n'
_REFUSED = b'{"status":503}\n'


class _NoMeter:
    """Nobody reads a reference's metrics."""

    def add(self, metric: Metric, value: float, *labels: str) -> None: ...


class BareEdge(asyncio.Protocol):
    """One connection: each line of a body becomes one message, each message one line of the answer."""

    def __init__(self, committer: GroupCommitter, ids: "itertools.count[int]") -> None:
        self._committer = committer
        self._ids = ids
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._lines: list[asyncio.Future[PublishOutcome]] = []
        self._waiting = 0
        self._single = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._single = url == b"/ingest"

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        lines = [body] if self._single else body.splitlines()
        self._lines = [self._committer.submit(SUBJECT, f"bare/{next(self._ids)}", line, "") for line in lines]
        self._waiting = len(self._lines)
        for outcome in self._lines:
            outcome.add_done_callback(self._one_done)

    def _one_done(self, outcome: "asyncio.Future[PublishOutcome]") -> None:
        del outcome
        self._waiting -= 1
        if self._waiting == 0:
            self._answer()

    def _answer(self) -> None:
        assert self._transport is not None
        stored = [isinstance(line.result(), Stored) for line in self._lines]
        status = b"202 Accepted" if self._single and stored[0] else b"503 Unavailable" if self._single else b"200 OK"
        body = b"".join([_ACCEPTED if line else _REFUSED for line in stored])
        self._transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


async def serve() -> None:
    """Serve until killed."""
    config = read_config()
    settings = StreamSettings(url=config.nats_url, system_url="", replicas=1, shards=1, tenant_messages_max=1)
    jetstream = await JetStream.connect(config.nats_url, "admin")
    committer = GroupCommitter(jetstream, settings, STREAM, _NoMeter(), unbarred)
    ids = itertools.count()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BareEdge(committer, ids), sock=listener(config.port))
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
