"""The only file that names the driver's errors: what Postgres did, in the project's words.

The server's sentences can carry values of a tenant, so none of them leaves here: what is raised
has the SQLSTATE at most, and no cause.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import asyncpg

from schemas.answers import NoAnswer, NotNow, Refusal
from schemas.codes import Code, DeadReason

DatabaseError: TypeAlias = asyncpg.PostgresError

_SILENT_CLASSES = (
    "08",  # connection exceptions
    "58",  # the server's own system errors
)
_SILENT = frozenset(
    {
        "57014",  # statement timeout
        "57P02",  # crash shutdown
    }
)
# What asks for the same call again: no value of it is at fault.
_NOT_NOW_CLASSES = ("53",)  # out of connections, memory or disk
_NOT_NOW = frozenset(
    {
        "25006",  # read-only transaction: this is a standby now
        "25P03",  # idle too long inside a transaction
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55P03",  # lock timeout
        "57P01",  # administrator's shutdown
        "57P03",  # starting up
        "57P05",  # idle session timeout
    }
)
_UNFIT_CLASSES = (
    "0A",  # a feature this server does not have
    "26",  # a prepared statement that is not there
    "28",  # no tenant is named, or not as this login may
    "3D",  # no such database
    "3F",  # no such schema
    "42",  # no such table, column or function, or no right to it
)
_UNSTORABLE_CLASS = "22"
_DENIED = frozenset(
    {
        "28000",  # no tenant is named, or not as this login may
        "42501",  # want of a privilege, row-level security included
    }
)
_CHECK_VIOLATION = "23514"
_UNIQUE_VIOLATION = "23505"


class UnexpectedAnswerError(NoAnswer):
    """The database answered what the program does not provide for: a fault of the program or of the schema.

    It is no answer, so whoever waits for a database waits here too: a process that ended would be
    started again with what it had in hand under suspicion.
    """

    def __init__(self, answer: str) -> None:
        super().__init__(Code.STORE_UNAVAILABLE)
        self.args = (answer,)


class UnfitError(UnexpectedAnswerError, NotNow):
    """The schema or the rights are not as this program needs them, which no value of the call has to do with."""


class DeniedError(UnfitError):
    """The statement was refused for want of a tenant or a right. Nothing of the transaction took effect."""


class TakenError(UnexpectedAnswerError):
    """A row with this unique key is there already. Nothing of the transaction took effect."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours.

    Raises NoAnswer(STORE_UNAVAILABLE) where the database did not answer, and whether a commit took
    effect is unknown; NotNow where it asks to try again or, as UnfitError, lacks what the call needs;
    Refusal(STORE_REFUSED) where a value of the call can never be stored, and nothing was;
    UnexpectedAnswerError, a NoAnswer too, for every other answer.
    """
    try:
        yield
    except (OSError, asyncpg.InvalidCachedStatementError):
        # OSError includes TimeoutError. The cached statement is one a migration has outdated: the driver has
        # dropped it, and the next call prepares a new one.
        raise NoAnswer(Code.STORE_UNAVAILABLE) from None
    except asyncpg.PostgresError as error:
        raise _meaning(error) from None
    except asyncpg.InterfaceError as error:
        # The plain class is how the driver says that the connection under a running call has gone; its
        # subclasses say that it was called wrongly.
        if type(error) is not asyncpg.InterfaceError:
            raise
        raise NoAnswer(Code.STORE_UNAVAILABLE) from None


def _meaning(error: asyncpg.PostgresError) -> Exception:
    sqlstate = error.sqlstate or ""
    if sqlstate in _SILENT or sqlstate.startswith(_SILENT_CLASSES):
        return NoAnswer(Code.STORE_UNAVAILABLE)
    if sqlstate in _NOT_NOW or sqlstate.startswith(_NOT_NOW_CLASSES):
        return NotNow(Code.STORE_UNAVAILABLE)
    if sqlstate == _CHECK_VIOLATION or sqlstate.startswith(_UNSTORABLE_CLASS):
        return Refusal(DeadReason.STORE_REFUSED)
    answer = f"{type(error).__name__} (SQLSTATE {sqlstate})"
    if sqlstate in _DENIED:
        return DeniedError(answer)
    if sqlstate.startswith(_UNFIT_CLASSES):
        return UnfitError(answer)
    return TakenError(answer) if sqlstate == _UNIQUE_VIOLATION else UnexpectedAnswerError(answer)


def sentence_of(error: DatabaseError) -> str:
    """The server's sentence without its DETAIL. Only for statements that carry no tenant's values: migrations."""
    return f"{error.message} (SQLSTATE {error.sqlstate})"


async def is_denied(statement: Awaitable[object]) -> bool:
    """Whether the server refuses the statement for want of privilege, row-level security included."""
    try:
        await statement
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False
