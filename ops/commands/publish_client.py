"""Publishing lines to an edge until each has an answer that stands: what `send` and `agent tail` share.

Sending the same bytes again is always safe: an event the edge has accepted is answered with its
first receipt, whatever became of the connection.
"""

import http.client
import random
import ssl
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from schemas.codes import TABLE, Code, Retry

LINES_MAX = 500
REQUEST_BYTES_MAX = 4 * 1024 * 1024 - 4 * 1024
ANSWER_SECONDS_MAX = 30
_DELAY_SECONDS_BASE = 0.1
_DELAY_SECONDS_UNASKED_MAX = 5.0
_DELAY_SECONDS_MAX = 30.0
_AGAIN_STATUSES = {408, 409, 429, 500, 502, 503, 504}


_spread = random.SystemRandom().random


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    REPLAYED = "replayed"
    REFUSED = "refused"
    UNSETTLED = "unsettled"


class LineResult(NamedTuple):
    """What became of one line. `code` is empty for an accepted or replayed one."""

    outcome: Outcome
    event_id: str
    code: str
    detail: str


class EdgeRefusedError(click.ClickException):
    """The edge refuses every request of this kind: the credential or the address is wrong. Nothing more can be sent."""


class Answer(NamedTuple):
    """One HTTP response, read whole."""

    status: int
    retry_after: str | None
    body: bytes


class EdgeClient:
    """One keep-alive connection to an edge, opened when first needed and again after any failure."""

    def __init__(self, url: str, api_key: str, answer_seconds_max: float = ANSWER_SECONDS_MAX) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=answer_seconds_max)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._prefix}"

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> Answer:
        """Return the answer.

        Raises ConnectionError when none came, and the edge may have acted or not; EdgeRefusedError when
        the edge's certificate does not prove who it is.
        """
        headers = self._headers | ({"Content-Type": content_type} if content_type else {})
        try:
            self._connection.request(method, self._prefix + path, body or None, headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.getheader("Retry-After"), response.read())
        except ssl.SSLCertVerificationError as problem:
            raise EdgeRefusedError(f"{self.url} does not prove who it is: {problem.verify_message}") from problem
        except (OSError, http.client.HTTPException) as problem:
            self._connection.close()
            raise ConnectionError(str(problem) or type(problem).__name__) from problem

    def close(self) -> None:
        self._connection.close()


class Patience:
    """How long to go on without progress, and how long to wait before each further try.

    `give_up_seconds` None means for ever.
    """

    def __init__(
        self,
        give_up_seconds: float | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        spread: Callable[[], float] = _spread,
    ) -> None:
        self._give_up_seconds = give_up_seconds
        self._now, self._sleep, self._spread = now, sleep, spread
        self.progress()

    def progress(self) -> None:
        """Something was settled: the time and the waits begin anew."""
        self._since = self._now()
        self._tries = 0

    def wait(self, asked_ms: int | None) -> bool:
        """Wait as long as was asked, else twice as long as the last time; up to a quarter longer. False: give up."""
        unasked = min(_DELAY_SECONDS_BASE * 2 ** min(self._tries, 10), _DELAY_SECONDS_UNASKED_MAX)
        delay = unasked if asked_ms is None else min(asked_ms / 1_000, _DELAY_SECONDS_MAX)
        delay *= 1 + self._spread() / 4
        self._tries += 1
        if self._give_up_seconds is not None:
            left = self._since + self._give_up_seconds - self._now()
            if left <= 0:
                return False
            delay = min(delay, left)
        self._sleep(delay)
        return True


def tenant_of(client: EdgeClient, patience: Patience) -> str | None:
    """The tenant of the client's credential, None when patience ended or this is no edge that tells.

    Raises EdgeRefusedError for a credential that is not valid.
    """
    while True:
        try:
            answer = client.request("GET", "/v1/limits")
        except ConnectionError:
            asked_ms = None
        else:
            if answer.status not in _AGAIN_STATUSES:
                break
            asked_ms = _seconds_as_ms(answer.retry_after)
        if not patience.wait(asked_ms):
            return None
    if answer.status == 401:
        raise EdgeRefusedError(f"{client.url} refuses the key: 401. {_ADVICE[401]}")
    tenant_id = _object(answer.body).get("tenant_id")
    return tenant_id if answer.status == 200 and isinstance(tenant_id, str) else None


class Publisher:
    """Sends lines to `POST /ingest/batch`, again and again where the edge says so or does not answer."""

    def __init__(self, client: EdgeClient, patience: Patience) -> None:
        self._client = client
        self._patience = patience

    def publish(self, lines: Sequence[bytes]) -> list[LineResult]:
        """Return what became of each line, in order; UNSETTLED where patience ended first: stored or not, nobody knows.

        Raises EdgeRefusedError when the edge refuses the request itself.
        """
        results = [_UNTRIED] * len(lines)
        pending = list(range(len(lines)))
        self._patience.progress()
        while pending:
            tried, asked_ms = self._try([lines[index] for index in pending])
            for index, result in zip(pending, tried, strict=True):
                results[index] = result
            waiting = [index for index in pending if results[index].outcome is Outcome.UNSETTLED]
            if len(waiting) < len(pending):
                self._patience.progress()
            pending = waiting
            if pending and not self._patience.wait(asked_ms):
                break
        return results

    def _try(self, lines: Sequence[bytes]) -> tuple[list[LineResult], int | None]:
        """One request: the result of each line so far, and the wait the edge asks for before the unsettled ones."""
        try:
            answer = self._client.request("POST", "/ingest/batch", b"\n".join(lines), "application/x-ndjson")
        except ConnectionError as problem:
            return [LineResult(Outcome.UNSETTLED, "", "NO_ANSWER", str(problem))] * len(lines), None
        if answer.status == 200:
            return self._each(answer.body, len(lines))
        if answer.status == 413 and len(lines) > 1:
            middle = len(lines) // 2
            left, left_ms = self._try(lines[:middle])
            right, right_ms = self._try(lines[middle:])
            return left + right, _longest(left_ms, right_ms)
        return self._whole(answer, len(lines))

    def _each(self, body: bytes, count: int) -> tuple[list[LineResult], int | None]:
        answers = [_object(line) for line in body.splitlines() if line]
        if len(answers) != count or not all(answers):
            raise EdgeRefusedError(f"{self._client.url} gave {len(answers)} answers to {count} lines: is that an edge?")
        results = [_result(answer) for answer in answers]
        asked = [
            _milliseconds(answer.get("retry_after_ms"))
            for answer, result in zip(answers, results, strict=True)
            if result.outcome is Outcome.UNSETTLED
        ]
        return results, _longest(*asked)

    def _whole(self, answer: Answer, count: int) -> tuple[list[LineResult], int | None]:
        document = _object(answer.body)
        code = str(document.get("error_code") or f"HTTP_{answer.status}")
        detail = str(document.get("detail") or "")
        if answer.status == 413:
            return [LineResult(Outcome.REFUSED, "", code, detail)] * count, None
        if answer.status in _AGAIN_STATUSES:
            asked_ms = _milliseconds(document.get("retry_after_ms"))
            asked_ms = _seconds_as_ms(answer.retry_after) if asked_ms is None else asked_ms
            return [LineResult(Outcome.UNSETTLED, "", code, detail)] * count, asked_ms
        advice = _ADVICE.get(answer.status, "Check FG_URL: is that the edge's address?")
        raise EdgeRefusedError(f"{self._client.url} refuses the request: {answer.status} {code}. {advice}")


_UNTRIED = LineResult(Outcome.UNSETTLED, "", "NOT_TRIED", "")
_ADVICE = {
    401: "Check FG_API_KEY, or issue a key with `frostgate keys issue`.",
    403: "The key lacks the scope `ingest`, or belongs to another tenant.",
}


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`, an empty one for anything else: a proxy may answer in its own words."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _milliseconds(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _seconds_as_ms(text: str | None) -> int | None:
    return int(text) * 1_000 if text is not None and text.isascii() and text.isdecimal() else None


def _longest(*waits_ms: int | None) -> int | None:
    return max((wait for wait in waits_ms if wait is not None), default=None)


def _result(answer: dict[str, Any]) -> LineResult:
    event_id = str(answer.get("event_id") or "")
    code = answer.get("error_code")
    if code is None:
        return LineResult(Outcome.REPLAYED if answer.get("replayed") else Outcome.ACCEPTED, event_id, "", "")
    outcome = Outcome.UNSETTLED if _again(str(code), answer.get("status")) else Outcome.REFUSED
    return LineResult(outcome, event_id, str(code), str(answer.get("detail") or ""))


def _again(code: str, status: object) -> bool:
    """Whether the same bytes may fare better: the table of codes says so, or, for a code newer than it, the status."""
    if code in Code.__members__:
        return TABLE[Code(code)].retry is Retry.SAME_BYTES
    return status in _AGAIN_STATUSES
