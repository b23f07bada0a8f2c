"""What the load generator is told and what it says: JSON between two processes."""

import msgspec

from ops.bench.requests import Sender


class ClientTls(msgspec.Struct, frozen=True):
    """The authority to trust, and the certificate to show: PEM files."""

    ca_file: str
    cert_file: str
    key_file: str


class Job(msgspec.Struct, frozen=True):
    """What to send, for `seconds` or until `events_max` events are sent (0: no bound).

    `rate` is in requests per second, 0 for a closed loop. `lines` is the events of a batch, 0 for single events.
    `core` is the processor core to stay on, None for any. `edge_pid` is the process whose CPU time is taken.
    """

    url: str
    senders: list[Sender]
    run: str
    connections: int
    seconds: float
    rate: int = 0
    lines: int = 0
    events_max: int = 0
    tls: ClientTls | None = None
    core: int | None = None
    edge_pid: int = 0


class Result(msgspec.Struct, frozen=True):
    """What came back. `outcomes` counts events by answer, so anything but `202` is a refusal or worse.

    CPU of the edge, microseconds: of the whole load once it was connected, and of one connection.
    """

    seconds: float
    requests: int
    accepted: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    outcomes: dict[str, int]
    generator_us_per_request: float
    edge_cpu_us: float
    connection_cpu_us: float


NO_ANSWER = "no answer"
LOST = "connection lost"
NEVER_SENT = "never sent"
LINE_MISSING = "line without a result"
_UNKNOWN = (NO_ANSWER, LOST, LINE_MISSING, "503 OUTCOME_UNKNOWN")


def unknown_events(result: Result) -> int:
    """Events that may or may not have been stored: nobody got a word about them."""
    return sum(result.outcomes.get(name, 0) for name in _UNKNOWN)
