"""The client's ledger: every request, and what its sender knows of it.

A request is written down before it is sent, as `unknown`, and again when it is answered; a client that dies in
between has told the truth. A time-out is never a failure: whoever saw no answer knows nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from schemas.codes import Code


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    """Refused by a definite answer: the event must not come to be by this request."""
    UNKNOWN = "unknown"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the ledger. `number` names the request within its `client`; its last line counts."""

    client: str
    number: int
    tenant_id: str
    event_id: str
    body_bytes: int
    outcome: Outcome = Outcome.UNKNOWN
    status: int = 0
    answer: str = ""


class _Problem(msgspec.Struct):
    error_code: str = ""


class Event(NamedTuple):
    """Everything the clients know of one event."""

    tenant_id: str
    event_id: str
    requests: tuple[Request, ...]

    @property
    def accepted(self) -> bool:
        return any(request.outcome is Outcome.OK for request in self.requests)

    @property
    def refused(self) -> bool:
        """Every request was refused by a definite answer."""
        return all(request.outcome is Outcome.FAIL for request in self.requests)

    @property
    def body_bytes(self) -> int | None:
        """The size of the body that was or may have been accepted, None where that may have been one of several."""
        told = [request for request in self.requests if request.outcome is Outcome.OK]
        maybe = told or [request for request in self.requests if request.outcome is Outcome.UNKNOWN]
        sizes = {request.body_bytes for request in maybe}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def receipts(self) -> set[str]:
        return {request.answer for request in self.requests if request.outcome is Outcome.OK}


class Ledger:
    """Appends to one client's file."""

    def __init__(self, file: Path, client: str) -> None:
        self._file = file.open("ab", buffering=0)
        self._client = client
        self._number = 0

    def begin(self, tenant_id: str, event_id: str, body_bytes: int) -> Request:
        """To be called before a byte is sent."""
        self._number += 1
        request = Request(self._client, self._number, tenant_id, event_id, body_bytes)
        self._write(request)
        return request

    def end(self, request: Request, status: int, answer: bytes) -> Request:
        """Note the answer; a request without one stays unknown."""
        known = msgspec.structs.replace(
            request, outcome=outcome_of(status, answer), status=status, answer=answer.decode(errors="replace")
        )
        self._write(known)
        return known

    def close(self) -> None:
        self._file.close()

    def _write(self, request: Request) -> None:
        self._file.write(msgspec.json.encode(request) + b"\n")


def outcome_of(status: int, answer: bytes) -> Outcome:
    """What an answer says for certain. OUTCOME_UNKNOWN and whatever is no problem document of ours say nothing."""
    if status in {200, 202}:
        return Outcome.OK
    try:
        code = msgspec.json.decode(answer, type=_Problem).error_code
    except ValueError:
        return Outcome.UNKNOWN
    known = code in Code.__members__ and code != Code.OUTCOME_UNKNOWN
    return Outcome.FAIL if known else Outcome.UNKNOWN


def events(files: Iterable[Path]) -> Iterator[Event]:
    """The history by event. A line cut short by its writer's death is the last of its file and says nothing."""
    last: dict[tuple[str, int], Request] = {}
    for file in files:
        for line in file.read_bytes().split(b"\n")[:-1]:
            request = msgspec.json.decode(line, type=Request)
            last[request.client, request.number] = request
    by_event: defaultdict[tuple[str, str], list[Request]] = defaultdict(list)
    for request in last.values():
        by_event[request.tenant_id, request.event_id].append(request)
    for (tenant_id, event_id), requests in by_event.items():
        yield Event(tenant_id, event_id, tuple(requests))
