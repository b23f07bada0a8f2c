"""The bounds of one connection, and the answer to a request that was not read to its end."""

import math
from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from edge.problem import finding, problem, retry_after_ms, status_of
from edge.transport import PROBLEM
from schemas.codes import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may ask for. A connection between two requests may wait uvicorn's keep-alive time."""

    header_bytes_max: int = 16 * 1024
    header_count_max: int = 64
    target_bytes_max: int = 2 * 1024
    pipelined_max: int = 16
    """Requests that may wait behind the one being answered."""
    head_ms_max: int = 10_000
    """From the first byte of a request to the end of its head, and from the connection to the first byte."""
    body_ms_free: int = 5_000
    """A body has this long, and longer as it comes."""
    body_bytes_per_s_min: int = 1024
    body_ms_silent: int = 5_000
    """Between one piece of a body and the next."""
    body_ms_max: int = 60_000
    write_ms_max: int = 30_000
    """For a client to take what waits for it: so long writing may be paused, and so long closing may take."""

    def body_due_s(self, since_s: float, size: int, last_s: float) -> float:
        """When more of a body must be there, of which so much has come, the last of it at `last_s`."""
        return min(
            since_s + self.body_ms_free / 1000 + size / self.body_bytes_per_s_min,
            max(since_s, last_s) + self.body_ms_silent / 1000,
            since_s + self.body_ms_max / 1000,
        )


def refusal_bytes(code: Code, request_id: str) -> bytes:
    """The whole response, after which the connection ends."""
    findings = finding(code)
    body = problem(findings, request_id, None)
    head = [
        STATUS_LINE[status_of(findings)],
        b"content-type: %b\r\n" % PROBLEM,
        b"content-length: %d\r\n" % len(body),
        b"x-request-id: %b\r\n" % request_id.encode(),
        b"connection: close\r\n",
    ]
    wait_ms = retry_after_ms(findings)
    if wait_ms is not None:
        head.append(b"retry-after: %d\r\n" % math.ceil(wait_ms / 1000))
    return b"".join([*head, b"\r\n", body])
