"""An edge's batch contract over plain HTTP, which remembers every event and answers as it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "stand-in-key"
Script = Callable[[int, list[bytes]], "Reply | None"]
"""Given the number of the request (from 0) and its lines: what to answer instead, None for the contract's answer."""


class Reply:
    """A whole response. `status` 0 ends the connection without one, after the lines were taken or not."""

    def __init__(
        self, status: int, document: object = None, *, take: bool = False, retry_after: str = "", budget: str = ""
    ) -> None:
        self.status = status
        self.document = document
        self.take = take
        self.retry_after = retry_after
        self.budget = budget


class StandIn:
    """What the edge was sent and what it holds."""

    def __init__(self, script: Script) -> None:
        self.events: dict[str, bytes] = {}
        self.requests: list[list[bytes]] = []
        self.heads: list[dict[str, str]] = []
        """The header fields of each request, by lower-case name."""
        self.refuse: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda _event: None
        self._script = script
        self._lock = threading.Lock()
        self.url = ""

    def answer(self, lines: list[bytes]) -> Reply:
        with self._lock:
            number = len(self.requests)
            self.requests.append(lines)
            scripted = self._script(number, lines)
            if scripted is not None and not scripted.take:
                return scripted
            results = [self._take(line) for line in lines]
            return scripted or Reply(200, results)

    def _take(self, line: bytes) -> dict[str, Any]:
        event = json.loads(line)
        refusal = self.refuse(event)
        if refusal is not None:
            return refusal
        event_id = event["event_id"]
        first = self.events.setdefault(event_id, line)
        if first != line:
            return {"status": 422, "error_code": "EVENT_ID_PAYLOAD_MISMATCH", "detail": "taken"}
        return {"status": 202, "replayed": first is not line, "event_id": event_id}


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stand_in.heads.append({name.lower(): value for name, value in self.headers.items()})
            if self.headers["Authorization"] != f"Bearer {API_KEY}" or self.path != "/ingest/batch":
                reply = Reply(401, {"error_code": "AUTHENTICATION_REQUIRED"})
            else:
                reply = stand_in.answer(body.split(b"\n"))
            if reply.status == 0:
                self.close_connection = True
                return
            several = reply.document if isinstance(reply.document, list) else [reply.document]
            data = b"\n".join(json.dumps(one).encode() for one in several)
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(data)))
            if reply.retry_after:
                self.send_header("Retry-After", reply.retry_after)
            if reply.budget:
                self.send_header("X-Retry-Budget-Remaining", reply.budget)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
            pass

    return Handler


@contextmanager
def stand_in(script: Script = lambda _number, _lines: None) -> Iterator[StandIn]:
    """The stand-in, listening on a free port at `url` until the block is left."""
    edge = StandIn(script)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(edge))
    server.daemon_threads = True
    edge.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield edge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
