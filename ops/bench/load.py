"""The load generator: a process of its own, one job in on stdin, one result out on stdout, both JSON.

Keep-alive connections carry one request at a time. A job without a rate is a closed loop: every
connection sends its next request when the last one is answered. A job with a rate is open: requests
fall due at fixed moments whatever the server does, and a latency counts from the due moment, so a
stall is seen by every request it delayed.

    python -m ops.bench.load < job.json
"""

import asyncio
import json
import os
import ssl
import sys
import time
from array import array
from collections import Counter, deque
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

from ops.bench.job import LINE_MISSING, LOST, NEVER_SENT, NO_ANSWER, ClientTls, Job, Result
from ops.bench.processes import cpu_tree_us
from ops.bench.requests import request_makers
from ops.clock import SystemClock

ANSWER_WAIT_S = 30
PACE_TICK_S = 0.001


class _Line(msgspec.Struct):
    status: int = 0
    error_code: str = ""


_decode_lines = msgspec.json.Decoder(_Line).decode_lines
_decode_problem = msgspec.json.Decoder(_Line).decode


class _Used(NamedTuple):
    """CPU time of a load, microseconds: this process's, the edge's, and the edge's for the connections before it."""

    own_us: float
    edge_us: float
    connecting_us: float


class Connection(asyncio.Protocol):
    """One keep-alive connection; `send` only when the last request is answered."""

    def __init__(self, generator: "Generator") -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._due_ns = 0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def send(self, request: bytes, due_ns: int) -> None:
        assert self._transport is not None
        self.busy = True
        self._due_ns = due_ns
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        took_ns = time.perf_counter_ns() - self._due_ns
        body = b"".join(self._body)
        self._body.clear()
        self.busy = False
        self._generator.answered(self, took_ns, self._parser.get_status_code(), body)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._generator.lost(self)


def client_context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


class Generator:
    """Runs one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._makers = request_makers(job.senders, job.lines, job.run, SystemClock())
        self._events_per_request = max(job.lines, 1)
        self._requests_max = job.events_max // self._events_per_request if job.events_max else sys.maxsize
        self._sent = 0
        self._answered = 0
        self._latencies_ns = array("q")
        self._outcomes: Counter[str] = Counter()
        self._idle: deque[Connection] = deque()
        self._due: deque[int] = deque()
        self._ends_ns = 0
        self._last_answer_ns = 0
        self._quiet = asyncio.Event()

    async def run(self) -> Result:
        address = urlsplit(self._job.url)
        host, port = address.hostname or "", address.port or 80
        context = None if self._job.tls is None else client_context(self._job.tls)
        loop = asyncio.get_running_loop()
        before_us = cpu_tree_us(self._job.edge_pid)
        connections = [
            (await loop.create_connection(lambda: Connection(self), host, port, ssl=context))[1]
            for _ in range(self._job.connections)
        ]
        connected_us = cpu_tree_us(self._job.edge_pid)
        cpu_began = time.process_time()
        began_ns = self._last_answer_ns = time.perf_counter_ns()
        self._ends_ns = began_ns + int(self._job.seconds * 1e9)
        if self._job.rate:
            self._idle.extend(connections)
            await self._pace(began_ns)
        else:
            for connection in connections:
                self._send_next(connection)
        await self._until_answered()
        used = _Used(
            own_us=(time.process_time() - cpu_began) * 1e6,
            edge_us=cpu_tree_us(self._job.edge_pid) - connected_us,
            connecting_us=connected_us - before_us,
        )
        for connection in connections:
            connection.close()
        return self._result((self._last_answer_ns - began_ns) / 1e9, used)

    def answered(self, connection: Connection, took_ns: int, status: int, body: bytes) -> None:
        self._latencies_ns.append(took_ns)
        self._answered += 1
        self._last_answer_ns = time.perf_counter_ns()
        self._count(status, body)
        if self._job.rate == 0:
            self._send_next(connection)
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)
        self._note_quiet()

    def lost(self, connection: Connection) -> None:
        """A connection that ends with a request open leaves that request without an answer; it sends no more."""
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.busy:
            connection.busy = False
            self._answered += 1
            self._outcomes[LOST] += self._events_per_request
            self._note_quiet()

    def _send_next(self, connection: Connection) -> None:
        now_ns = time.perf_counter_ns()
        if now_ns < self._ends_ns and self._sent < self._requests_max:
            self._send(connection, now_ns)

    def _send(self, connection: Connection, due_ns: int) -> None:
        number = self._sent
        self._sent += 1
        maker = self._makers[number % len(self._makers)]
        connection.send(maker.request(number * self._events_per_request), due_ns)

    async def _pace(self, began_ns: int) -> None:
        """Send each request at its due moment, or as soon after it as a connection is free."""
        gap_ns = 1_000_000_000 // self._job.rate
        due_ns = began_ns
        while due_ns < self._ends_ns:
            now_ns = time.perf_counter_ns()
            while due_ns <= now_ns and due_ns < self._ends_ns:
                if self._idle:
                    self._send(self._idle.popleft(), due_ns)
                else:
                    self._due.append(due_ns)
                due_ns += gap_ns
            await asyncio.sleep(PACE_TICK_S)

    async def _until_answered(self) -> None:
        self._quiet.clear()  # at a rate it is quiet between requests too
        self._note_quiet()
        try:
            async with asyncio.timeout(max(self._ends_ns - time.perf_counter_ns(), 0) / 1e9 + ANSWER_WAIT_S):
                await self._quiet.wait()
        except TimeoutError:
            self._outcomes[NO_ANSWER] += (self._sent - self._answered) * self._events_per_request
        self._outcomes[NEVER_SENT] += len(self._due)

    def _note_quiet(self) -> None:
        if self._sent == self._answered and not self._due:
            self._quiet.set()

    def _count(self, status: int, body: bytes) -> None:
        if status == 202:
            self._outcomes["202"] += 1
        elif status == 200 and self._job.lines:
            lines = _decode_lines(body)
            for line in lines:
                self._outcomes[_name(line.status, line.error_code)] += 1
            if len(lines) != self._job.lines:
                self._outcomes[LINE_MISSING] += self._job.lines - len(lines)
        else:
            self._outcomes[_refusal(status, body)] += self._events_per_request

    def _result(self, seconds: float, used: _Used) -> Result:
        milliseconds = sorted(nanoseconds / 1e6 for nanoseconds in self._latencies_ns)
        accepted = self._outcomes["202"]
        return Result(
            seconds=seconds,
            requests=self._sent,
            accepted=accepted,
            per_second=accepted / seconds if seconds else 0.0,
            p50_ms=percentile(milliseconds, 50),
            p95_ms=percentile(milliseconds, 95),
            p99_ms=percentile(milliseconds, 99),
            max_ms=milliseconds[-1] if milliseconds else 0.0,
            outcomes={name: count for name, count in self._outcomes.items() if count},
            generator_us_per_request=used.own_us / max(self._sent, 1),
            edge_cpu_us=used.edge_us,
            connection_cpu_us=used.connecting_us / self._job.connections,
        )


def _name(status: int, error_code: str) -> str:
    return f"{status} {error_code}".rstrip()


def _refusal(status: int, body: bytes) -> str:
    try:
        return _name(status, _decode_problem(body).error_code)
    except msgspec.MsgspecError:
        return f"{status} without a problem document"


def percentile(ascending: list[float], percent: int) -> float:
    """The smallest value that `percent` of 100 values do not exceed; 0 when there are none."""
    if not ascending:
        return 0.0
    return ascending[max(-(-len(ascending) * percent // 100) - 1, 0)]


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(Generator(job).run())
    json.dump(msgspec.to_builtins(result), sys.stdout)


if __name__ == "__main__":
    main()
