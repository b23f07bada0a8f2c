"""Publishing lines to an edge until each has an answer that stands: what `send` and `agent tail` share.

Sending the same bytes again is always safe: an event the edge has accepted is answered with its
first receipt, whatever became of the connection.
"""

import random
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from ops.clock import new_uuid7
from ops.commands.edge_client import Answer, EdgeClient, EdgeRefusedError
from schemas.codes import TABLE, Code, Retry

LINES_MAX = 500
REQUEST_BYTES_MAX = 4 * 1024 * 1024 - 4 * 1024
_DELAY_SECONDS_BASE = 0.1
_DELAY_SECONDS_UNASKED_MAX = 5.0
_DELAY_SECONDS_MAX = 300.0
"""The longest wait that an edge asks for."""
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


class Account:
    """What a run has cost: requests, lines sent again, and the time waited for that."""

    def __init__(self) -> None:
        self.requests = 0
        self.lines_again = 0
        self.waited_seconds = 0.0
        self.retry_budget_min: int | None = None
        """The least that any event had left of its retry budget, None while no answer said so."""

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "lines_sent_again": self.lines_again,
            "waited_seconds": round(self.waited_seconds, 3),
            "retry_budget_remaining_min": self.retry_budget_min,
        }

    def text(self) -> str:
        left = "" if self.retry_budget_min is None else f", least retry budget left {self.retry_budget_min}"
        return f"  sent again: {self.lines_again:,} lines, after waiting {self.waited_seconds:.1f} s{left}"


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

    def wait(self, asked_ms: int | None, *, budget_spent: bool = False) -> float | None:
        """Wait, and return for how long; None: give up.

        As long as was asked, else twice as long as the last time, and the longer of the two once an
        event has spent its retry budget; up to a quarter longer, so that many senders do not return at once.
        """
        own = min(_DELAY_SECONDS_BASE * 2 ** min(self._tries, 10), _DELAY_SECONDS_UNASKED_MAX)
        asked = own if asked_ms is None else min(asked_ms / 1_000, _DELAY_SECONDS_MAX)
        delay = (max(own, asked) if budget_spent else asked) * (1 + self._spread() / 4)
        self._tries += 1
        if self._give_up_seconds is not None:
            left = self._since + self._give_up_seconds - self._now()
            if left <= 0:
                return None
            delay = min(delay, left)
        self._sleep(delay)
        return delay


def tenant_of(client: EdgeClient, patience: Patience) -> str | None:
    """The tenant of the client's credential, None when patience ended or this is no edge that tells.

    Raises EdgeRefusedError for a credential that is not valid.
    """
    while True:
        try:
            answer = client.get("/v1/limits")
        except ConnectionError:
            asked_ms = None
        else:
            if answer.status not in _AGAIN_STATUSES:
                break
            asked_ms = _seconds_as_ms(answer.retry_after)
        if patience.wait(asked_ms) is None:
            return None
    if answer.status == 401:
        raise EdgeRefusedError(f"{client.url} refuses the key: 401. {_ADVICE[401]}")
    tenant_id = _object(answer.body).get("tenant_id")
    return tenant_id if answer.status == 200 and isinstance(tenant_id, str) else None


class _Attempt(NamedTuple):
    """One try: the result of each line so far, the wait asked for, and what is left of the retry budget."""

    results: list[LineResult]
    asked_ms: int | None
    budget: int | None


class Publisher:
    """Sends lines to `POST /ingest/batch`, again and again where the edge says so or does not answer."""

    def __init__(self, client: EdgeClient, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self.account = Account()

    def publish(self, lines: Sequence[bytes]) -> list[LineResult]:
        """Return what became of each line, in order; UNSETTLED where patience ended first: stored or not, nobody knows.

        Only the lines without an answer that stands are sent again, under the same request id. Raises
        EdgeRefusedError when the edge refuses the request itself.
        """
        results = [_UNTRIED] * len(lines)
        pending = list(range(len(lines)))
        request_id = new_uuid7()
        self._patience.progress()
        while pending:
            attempt = self._try([lines[index] for index in pending], request_id)
            for index, result in zip(pending, attempt.results, strict=True):
                results[index] = result
            waiting = [index for index in pending if results[index].outcome is Outcome.UNSETTLED]
            if len(waiting) < len(pending):
                self._patience.progress()
            pending = waiting
            if pending and not self._wait(attempt, len(pending)):
                break
        return results

    def _wait(self, attempt: _Attempt, lines: int) -> bool:
        waited = self._patience.wait(attempt.asked_ms, budget_spent=attempt.budget == 0)
        if waited is None:
            return False
        self.account.waited_seconds += waited
        self.account.lines_again += lines
        return True

    def _try(self, lines: Sequence[bytes], request_id: str) -> _Attempt:
        fields = {"content-type": "application/x-ndjson", "x-request-id": request_id}
        self.account.requests += 1
        try:
            answer = self._client.post("/ingest/batch", b"\n".join(lines), fields)
        except ConnectionError as problem:
            return _Attempt([LineResult(Outcome.UNSETTLED, "", "NO_ANSWER", str(problem))] * len(lines), None, None)
        if answer.status == 413 and len(lines) > 1:
            middle = len(lines) // 2
            left = self._try(lines[:middle], request_id)
            right = self._try(lines[middle:], request_id)
            return _Attempt(
                left.results + right.results,
                _most(max, left.asked_ms, right.asked_ms),
                _most(min, left.budget, right.budget),
            )
        budget = _whole_number(answer.retry_budget)
        self.account.retry_budget_min = _most(min, self.account.retry_budget_min, budget)
        results, asked_ms = (
            self._each(answer.body, len(lines)) if answer.status == 200 else self._whole(answer, len(lines))
        )
        return _Attempt(results, asked_ms, budget)

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
        return results, _most(max, *asked)

    def _whole(self, answer: Answer, count: int) -> tuple[list[LineResult], int | None]:
        document = _object(answer.body)
        code = str(document.get("error_code") or f"HTTP_{answer.status}")
        detail = str(document.get("detail") or "")
        if answer.status == 413:
            return [LineResult(Outcome.REFUSED, "", code, detail)] * count, None
        if answer.status in _AGAIN_STATUSES or (self._client.signs and code in _SIGN_AGAIN):
            asked_ms = _milliseconds(document.get("retry_after_ms"))
            asked_ms = _seconds_as_ms(answer.retry_after) if asked_ms is None else asked_ms
            return [LineResult(Outcome.UNSETTLED, "", code, detail)] * count, asked_ms
        usual = _ADVICE.get(answer.status, "Check FG_URL: is that the edge's address?")
        advice = _ADVICE_BY_CODE.get(code, usual)
        raise EdgeRefusedError(f"{self._client.url} refuses the request: {answer.status} {code}. {advice}")


_UNTRIED = LineResult(Outcome.UNSETTLED, "", "NOT_TRIED", "")
_ADVICE = {
    401: "Check FG_API_KEY, or issue a key with `frostgate keys issue`.",
    403: "The key lacks the scope `ingest`, or belongs to another tenant.",
}
_ADVICE_BY_CODE: dict[str, str] = {
    Code.SIGNATURE_INVALID: "Requests must be signed by a valid key of this tenant and agent: check FG_AGENT_KEY_FILE, "
    "or issue a key with `frostgate keys issue --ed25519`.",
}
_SIGN_AGAIN = {code for code, row in TABLE.items() if row.retry is Retry.NEW_SIGNATURE}


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`, an empty one for anything else: a proxy may answer in its own words."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _milliseconds(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _seconds_as_ms(text: str | None) -> int | None:
    seconds = _whole_number(text)
    return None if seconds is None else seconds * 1_000


def _most(which: Callable[[list[int]], int], *numbers: int | None) -> int | None:
    """The greatest or least of the numbers there are."""
    known = [number for number in numbers if number is not None]
    return which(known) if known else None


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
