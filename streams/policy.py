"""The policy's word on one event: the port, the reading of an answer, and the engine in this process.

Nothing here can fail open: only an answer that says `allow` in exactly the agreed shape allows.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import regorus

from schemas.codes import PolicyCode
from schemas.decision import PolicyAnswer
from streams.policy_files import PolicyError, PolicyFiles, read_policy
from streams.policy_lint import faults_of
from streams.stopping import set_within

ENTRY_POINT = "data.fg.decision.decision"
NO_RULE = PolicyAnswer(PolicyCode.POLICY_NO_RULE_DENY, ())
NO_ANSWER = PolicyAnswer(PolicyCode.OPA_UNAVAILABLE_DENY, ())
STALE = PolicyAnswer(PolicyCode.POLICY_STALE_DENY, ())
CHECK_S = 30.0
_UNDEFINED = '"<undefined>"'

log = logging.getLogger("streams")


class Policy(Protocol):
    """Decides events by one set of rules, named by `policy_hash`."""

    @property
    def policy_hash(self) -> str: ...

    @property
    def in_flight_max(self) -> int:
        """How many questions may be asked at once."""

    @property
    def findings(self) -> Sequence[str]:
        """Why events are denied whatever the rules say, in words for whoever asks for readiness."""

    @property
    def notices(self) -> Sequence[str]:
        """What an operator should know while decisions go on as before."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep an eye on the rules until `stopping` is set."""

    async def evaluate(self, document: Mapping[str, Any]) -> PolicyAnswer:
        """The rules' word on `document`, their `input`. Never raises for what the rules do: no answer is a deny."""


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    """The agreed shape of `data.fg.decision.decision`."""

    allow: bool
    reasons: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=128)]], msgspec.Meta(max_length=64)
    ] = []


_answer = msgspec.json.Decoder(_Answer)


def read_answer(result: bytes | str) -> PolicyAnswer:
    """The meaning of a defined result, given as JSON: none for any other shape, also for an `allow` with reasons."""
    try:
        answer = _answer.decode(result)
    except ValueError:
        return NO_ANSWER
    if not answer.allow:
        return PolicyAnswer(PolicyCode.POLICY_DENY, tuple(sorted(set(answer.reasons))))
    return NO_ANSWER if answer.reasons else PolicyAnswer(PolicyCode.POLICY_ALLOW, ())


_read_own_answer = lru_cache(maxsize=256)(read_answer)
"""For the engine in this process: its rules have few answers, most of them the same."""


def no_answer(cause: str) -> PolicyAnswer:
    """The deny for an engine that failed, with a log line that says how; the event must not be in `cause`."""
    log.warning("the policy gave no answer: %s", cause, extra={"error_code": NO_ANSWER.code.value})
    return NO_ANSWER


def sentence_of(fault: RuntimeError) -> str:
    """What the engine says of rules it cannot use, without its own insides."""
    return str(fault).split("\n\nStack backtrace")[0].strip()


def refuse_impure(files: PolicyFiles) -> None:
    """Raises PolicyError when a module does not parse, calls what it must not or depends on itself."""
    engine = regorus.Engine()
    try:
        for name, text in files.modules:
            engine.add_policy(name, text)
        faults = faults_of(msgspec.json.decode(engine.get_ast_as_json()))
    except RuntimeError as cause:
        raise PolicyError(sentence_of(cause)) from cause
    finally:
        del engine  # of this thread: kept by a traceback it could be freed by another one
    if faults:
        raise PolicyError("; ".join(faults))


class EmbeddedPolicy:
    """Rego rules compiled once and run in this process, each evaluation bounded by the engine to 25,000 steps.

    Belongs to the thread that made it: elsewhere every evaluation is a deny. The rules are those of
    the start: what the directory holds later is never used, only told.
    """

    in_flight_max = 1
    findings: Sequence[str] = ()

    def __init__(self, files: PolicyFiles, directory: Path | None = None) -> None:
        """Compile the rules.

        Raises PolicyError when a module does not parse, calls what it must not or does not exist,
        depends on itself or meets its own name in the data, and when nothing defines the decision
        or it is of another shape.
        """
        refuse_impure(files)
        try:
            program = regorus.Program.compile_from_modules(files.data, list(files.modules), [ENTRY_POINT])
            self._machine = regorus.Rvm()
            self._machine.load_program(program)
            self._machine.set_data_json(files.data)
            probe = self._run({})
        except RuntimeError as cause:
            vars(self).pop("_machine", None)
            raise PolicyError(sentence_of(cause)) from cause
        if probe == NO_ANSWER:
            del self._machine  # of this thread: kept by a traceback it could be freed by another one
            raise PolicyError(f"{ENTRY_POINT} must be an object of `allow` and, when it denies, `reasons`")
        self.policy_hash = files.policy_hash
        self._directory = directory
        self.notices: Sequence[str] = ()

    @classmethod
    def load(cls, directory: Path) -> "EmbeddedPolicy":
        """Compile the rules in `directory`. Raises PolicyError for rules that cannot be read or used."""
        return cls(read_policy(directory), directory)

    async def run(self, stopping: asyncio.Event) -> None:
        """Compare the directory with the rules in use every 30 s until `stopping` is set."""
        while not await set_within(stopping, CHECK_S):
            self.look()

    def look(self) -> None:
        """Notice rules on disk that are not the ones in use."""
        if self._directory is None:
            return
        try:
            found = read_policy(self._directory).policy_hash
        except PolicyError:
            found = ""
        noticed = () if found == self.policy_hash else ("the policy directory has changed: restart to load its rules",)
        if noticed and noticed != self.notices:
            log.warning("%s; decisions keep to %s", noticed[0], self.policy_hash)
        self.notices = noticed

    async def evaluate(self, document: Mapping[str, Any]) -> PolicyAnswer:
        """The rules' word on `document`; a `msgspec.Raw` inside it is handed on as it is."""
        try:
            return self._run(document)
        except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
            raise
        except BaseException as cause:  # noqa: BLE001  (a panic of the engine is a BaseException of no public name)
            return no_answer(type(cause).__name__)

    def _run(self, document: Mapping[str, Any]) -> PolicyAnswer:
        # As JSON, never as Python objects: the engine's own conversion crashes the process on a lone surrogate.
        self._machine.set_input_json(msgspec.json.encode(document).decode())
        result = self._machine.execute()
        return NO_RULE if result == _UNDEFINED else _read_own_answer(result)
