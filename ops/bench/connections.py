"""Connections that an edge has to bear: a process of its own, one job in on stdin, one result out on stdout, both JSON.

An idle connection has had one answer and waits. A slow one sends a byte a second, half of them of a
request's head and half of its body, and is opened again whenever the edge gives it up. The result is
written once all connections stand, and again when the time is over; a reader measures in between.

    python -m ops.bench.connections < job.json
"""

import asyncio
import resource
import sys
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop

OPENING_AT_ONCE = 100
DRIP_S = 1.0
BODY_BYTES = 10_000


class Job(msgspec.Struct, frozen=True):
    """How many connections of each kind, and for how long. Bodies are dripped by a sender with this key."""

    url: str
    idle: int
    slow: int
    seconds: float
    api_key: str = ""


class Held(msgspec.Struct, frozen=True):
    """Connections that stand, and how often one was closed by the edge since the beginning."""

    idle: int
    slow: int
    given_up: int


class _Connection(asyncio.Protocol):
    """One idle connection, or a slow one with a request that it will not end."""

    def __init__(self, first: bytes, *, slow: bool) -> None:
        self._first = first
        self.slow = slow
        self.transport: asyncio.Transport | None = None
        self.stands: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self.transport.write(self._first)
        if self.slow:
            self.stands.set_result(None)

    def data_received(self, data: bytes) -> None:
        del data
        if not self.stands.done():
            self.stands.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        self.ended.set()
        if not self.stands.done():
            self.stands.set_result(None)

    def drip(self) -> None:
        if self.transport is not None:
            self.transport.write(b"x")


class Holder:
    """Opens the job's connections and keeps them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        address = urlsplit(job.url)
        self._host, self._port = address.hostname or "", address.port or 80
        host = address.netloc.encode()
        self._idle_request = b"GET /livez HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        self._slow_head = b"GET /livez HTTP/1.1\r\nHost: %b\r\nX-Filler: " % host
        self._slow_body = (
            b"POST /ingest HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        ) % (host, job.api_key.encode(), BODY_BYTES)
        self._connections: set[_Connection] = set()
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._standing = asyncio.Event()
        self._given_up = 0

    async def run(self) -> None:
        keepers = [asyncio.create_task(self._keep(self._idle_request, slow=False)) for _ in range(self._job.idle)]
        for number in range(self._job.slow):
            first = self._slow_body if number % 2 and self._job.api_key else self._slow_head
            keepers.append(asyncio.create_task(self._keep(first, slow=True)))
        await self._standing.wait()
        self._report()
        ends_s = asyncio.get_running_loop().time() + self._job.seconds
        while asyncio.get_running_loop().time() < ends_s:
            for one in self._connections:
                if one.slow:
                    one.drip()
            await asyncio.sleep(DRIP_S)
        self._report()
        for keeper in keepers:
            keeper.cancel()

    async def _keep(self, first: bytes, *, slow: bool) -> None:
        """Open a connection, again whenever it is closed."""
        loop = asyncio.get_running_loop()
        while True:
            async with self._opening:
                _, one = await loop.create_connection(lambda: _Connection(first, slow=slow), self._host, self._port)
                await one.stands
            self._connections.add(one)
            if len(self._connections) == self._job.idle + self._job.slow:
                self._standing.set()
            await one.ended.wait()
            self._connections.discard(one)
            self._given_up += 1

    def _report(self) -> None:
        slow = sum(one.slow for one in self._connections)
        held = Held(len(self._connections) - slow, slow, self._given_up)
        sys.stdout.buffer.write(msgspec.json.encode(held) + b"\n")
        sys.stdout.flush()


async def _hold(job: Job) -> None:
    await Holder(job).run()


def main() -> None:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_hold(job))


if __name__ == "__main__":
    main()
