"""The answers the parts give each other, so that no foreign exception crosses a package.

A dependency that cannot answer raises `NoAnswer`, one that says so `NotNow`; a value the store will never take raises
`Refusal`. What became of a published message is a value, `PublishOutcome`, because a batch has
many of them.
"""

from dataclasses import dataclass

from schemas.codes import Code, DeadReason


class NoAnswer(Exception):
    """The dependency did not answer. Whether the call took effect is unknown unless the code says nothing was done."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.value)
        self.code = code


class NotNow(NoAnswer):
    """The dependency answered that it cannot, whatever it is asked. Nothing was done, and no event is at fault."""


class Refusal(Exception):
    """The dependency answered, and will refuse the same bytes for ever."""

    def __init__(self, reason: DeadReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Stored:
    """The stream acknowledged the bytes: they are on disk under this sequence."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The stream already held this id; `seq` is the sequence of the first message."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The message was not stored, or, for OUTCOME_UNKNOWN alone, may have been."""

    code: Code


PublishOutcome = Stored | Duplicate | Refused
