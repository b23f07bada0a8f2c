"""The same rules asked of an OPA server: `POST /v1/data/fg/decision/decision`.

The server is no dependency that work waits for: whatever keeps it from answering within 250 ms is a
deny at once, and one that keeps failing is not asked for a while. Nor is it trusted to stay what it
was: its rules are compared with the policy directory every 30 s, and each answer names the bundle
revisions it was given under.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httptools
import msgspec

from schemas.decision import PolicyAnswer
from streams.opa_breaker import Breaker, State
from streams.opa_http import HttpClient
from streams.opa_proof import Proof
from streams.policy import NO_ANSWER, NO_RULE, STALE, no_answer, read_answer, refuse_impure
from streams.policy_files import PolicyError, PolicyFiles, read_policy
from streams.stopping import set_within

ANSWER_MS_MAX = 250
PROVE_MS_MAX = 5_000
TICK_S = 1.0
IN_FLIGHT_MAX = 16
_DECISION_PATH = "/v1/data/fg/decision/decision?provenance=true"
_NOTHING = b'{"input":{}}'
_NOBODY_BEHIND_IT = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_FAILURES = (OSError, ValueError, httptools.HttpParserError)

log = logging.getLogger("streams")


class _Provenance(msgspec.Struct, frozen=True):
    """Under what the server answered; without bundles there are no revisions."""

    revision: str = ""
    bundles: Any = None


class _Result(msgspec.Struct):
    """An OPA answer; without `result` the queried document is undefined."""

    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    provenance: _Provenance = _Provenance()


class _Module(msgspec.Struct):
    raw: str


_result = msgspec.json.Decoder(_Result)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class RemotePolicy:
    """An OPA server that is believed while it is seen to serve a given directory of rules."""

    in_flight_max = IN_FLIGHT_MAX
    notices: Sequence[str] = ()

    def __init__(self, url: str, files: PolicyFiles, now_ms: Callable[[], int] = _monotonic_ms) -> None:
        """Raises ValueError unless `url` is an http or https URL with a host. `now_ms` never goes back."""
        self.policy_hash = files.policy_hash
        self._files = files
        self._now_ms = now_ms
        self._http = HttpClient(url)
        self._breaker = Breaker()
        self._proof = Proof()

    @classmethod
    async def connect(cls, url: str, directory: Path) -> "RemotePolicy":
        """Return once the server was seen to hold exactly the modules and data in `directory`.

        Raises PolicyError when the rules must not be used, whoever runs them, and when the server does not answer or
        holds other modules or data.
        """
        files = read_policy(directory)
        refuse_impure(files)
        policy = cls(url, files)
        try:
            await policy.prove()
        except PolicyError:
            policy.close()
            raise
        return policy

    @property
    def findings(self) -> Sequence[str]:
        doubt = self._proof.doubt(self._now_ms())
        found = [f"the policy server is not believed, every event is denied: {doubt}"] if doubt else []
        if self._breaker.state is not State.CLOSED:
            found.append("the policy server does not answer, every event is denied")
        return found

    async def run(self, stopping: asyncio.Event) -> None:
        """Compare the rules every 30 s, and every second while they are in doubt, until `stopping` is set."""
        while not await set_within(stopping, TICK_S):
            await self.look()

    async def look(self) -> None:
        """Compare the rules if it is time to, and where no event comes to be the probe of a silent server, ask one.

        A comparison without an answer changes nothing: the last one stands and grows old.
        """
        if self._breaker.state is State.OPEN and self._breaker.lets_in(self._now_ms()):
            await self._ask(_NOTHING)
        if self._proof.is_due(self._now_ms()):
            try:
                await self.prove()
            except PolicyError as cause:
                log.warning("the rules of the policy server: %s", cause)

    async def prove(self) -> None:
        """Return once the server was seen to hold the rules. Raises PolicyError when it does not answer or differs."""
        asked_ms = self._now_ms()
        try:
            async with asyncio.timeout(PROVE_MS_MAX / 1000):
                # First the revisions: bundles that change while the rules are read show in the answers from then on.
                revisions = _revisions(await self._read("POST", _DECISION_PATH, _NOTHING))
                difference = await self._difference()
        except _FAILURES as cause:
            raise PolicyError(f"OPA could not be asked for its rules: {str(cause) or type(cause).__name__}") from cause
        if difference:
            self._proof.refuted(difference)
            raise PolicyError(difference)
        self._proof.proven(revisions, asked_ms)

    async def evaluate(self, document: Mapping[str, Any]) -> PolicyAnswer:
        """The server's word on `document`; a deny when none came within 250 ms, or from a server in doubt."""
        if self._proof.doubt(self._now_ms()):
            return STALE
        try:
            question = msgspec.json.encode({"input": document})
        except (ValueError, TypeError, RecursionError) as cause:
            return no_answer(type(cause).__name__)
        if not self._breaker.lets_in(self._now_ms()):
            return NO_ANSWER
        return await self._ask(question)

    def close(self) -> None:
        self._http.close()

    async def _ask(self, question: bytes) -> PolicyAnswer:
        alive = False
        try:
            async with asyncio.timeout(ANSWER_MS_MAX / 1000):
                status, data = await self._http.request("POST", _DECISION_PATH, question)
            alive = status not in _NOBODY_BEHIND_IT
        except _FAILURES as cause:
            return no_answer(type(cause).__name__)
        finally:
            self._count(alive=alive)
        if status != HTTPStatus.OK:
            return no_answer(f"status {status}")
        try:
            answer = _result.decode(data)
        except (ValueError, RecursionError) as cause:
            return no_answer(type(cause).__name__)
        if not self._proof.answered_under(_revisions(answer)):
            return STALE
        return NO_RULE if isinstance(answer.result, msgspec.UnsetType) else read_answer(bytes(answer.result))

    def _count(self, *, alive: bool) -> None:
        before = self._breaker.state
        if alive:
            self._breaker.answered()
        else:
            self._breaker.failed(self._now_ms())
        if self._breaker.state is not before:
            log.warning("the circuit of the policy server is %s", self._breaker.state.name.lower())

    async def _difference(self) -> str:
        """What the server holds that the directory does not, or the other way round; empty when there is nothing."""
        modules = msgspec.json.decode(await self._held("/v1/policies"), type=list[_Module])
        if sorted(module.raw for module in modules) != sorted(text for _, text in self._files.modules):
            return "OPA holds other modules than the policy directory"
        if not _holds(msgspec.json.decode(await self._held("/v1/data")), msgspec.json.decode(self._files.data)):
            return "OPA holds other data than the policy directory"
        return ""

    async def _held(self, path: str) -> bytes:
        found = (await self._read("GET", path, b"")).result
        return b"null" if isinstance(found, msgspec.UnsetType) else bytes(found)

    async def _read(self, method: str, path: str, body: bytes) -> _Result:
        status, data = await self._http.request(method, path, body)
        if status != HTTPStatus.OK:
            raise ValueError(f"status {status} of {method} {path}")
        return _result.decode(data)


def _revisions(answer: _Result) -> tuple[str, Any]:
    return answer.provenance.revision, answer.provenance.bundles


def _holds(whole: Any, part: Any) -> bool:
    """Whether every value of `part` stands in `whole` at the same place; the rules' own documents stand beside them."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and _holds(whole[key], part[key]) for key in part)
    return bool(whole == part)
