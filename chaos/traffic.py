"""Clients that send, are unsure, and send again: the traffic of a fault run.

Each client thread writes its own ledger. With a chance of 30 % an event that was answered is sent once more as a
real agent would after a lost answer; one that was not accepted is sent again until it is, or the time is over.
"""

import http.client
import random
import threading
from pathlib import Path
from typing import NamedTuple

import msgspec

from chaos.checker import CANARY
from chaos.history import Ledger, Outcome
from ops.clock import SystemClock, new_uuid7
from schemas.units import format_rfc3339

RETRY_SHARE = 0.3
ANSWER_S_MAX = 5.0
PAUSE_S = 0.02
AGAIN_S = 0.2
UNSETTLED_MAX = 200
"""Events a client tries again at a time; beyond that it gives the oldest up, as an agent with a full buffer would."""


class Sender(NamedTuple):
    tenant_id: str
    api_key: str


class Client(threading.Thread):
    """One agent. `stop` ends it after the request in hand."""

    def __init__(self, name: str, port: int, sender: Sender, ledger: Path, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._port = port
        self._sender = sender
        self._ledger = Ledger(ledger, name)
        self._chance = random.Random(seed)  # noqa: S311  (a run to repeat, not a secret)
        self._stopping = threading.Event()
        self.accepted: set[str] = set()

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self._ledger.close()

    def run(self) -> None:
        unsettled: list[tuple[str, bytes]] = []
        number = 0
        while not self._stopping.is_set():
            if unsettled and self._chance.random() < RETRY_SHARE:
                event = unsettled.pop(self._chance.randrange(len(unsettled)))
            else:
                number += 1
                event = self._event(f"{self.name}-{number}")
            outcome = self._send(*event)
            if outcome is Outcome.OK:
                self.accepted.add(event[0])
                if self._chance.random() < RETRY_SHARE:
                    self._send(*event)
            else:
                unsettled = [*unsettled, event][-UNSETTLED_MAX:]
                self._stopping.wait(AGAIN_S)
            self._stopping.wait(PAUSE_S)

    def _event(self, event_id: str) -> tuple[str, bytes]:
        body = {
            "tenant_id": self._sender.tenant_id,
            "event_id": event_id,
            "trace_id": new_uuid7(),
            "agent_id": "agent-1",
            "schema_version": "1.0",
            "created_at": format_rfc3339(SystemClock().now_ms()),
            "source": "sshd",
            "payload": {
                "kind": "auth.login",
                "user": f"{CANARY}-{self._sender.tenant_id}",
                "failed_count": self._chance.randrange(20),
            },
        }
        return event_id, msgspec.json.encode(body)

    def _send(self, event_id: str, body: bytes) -> Outcome:
        request = self._ledger.begin(self._sender.tenant_id, event_id, len(body))
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S_MAX)
        headers = {"Authorization": f"Bearer {self._sender.api_key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/ingest", body, headers)
            answer = connection.getresponse()
            return self._ledger.end(request, answer.status, answer.read()).outcome
        except (OSError, http.client.HTTPException):
            return Outcome.UNKNOWN
        finally:
            connection.close()
