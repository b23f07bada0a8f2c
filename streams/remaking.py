"""The one stream that an upgrade makes anew: FG_RETRY was a work queue, which the broker turns into nothing else.

A work queue loses what is terminated in it (docs/adr/0011). Only an empty one may go, and nothing may
be stored in it between the look and the end: so its subjects are taken from it first. Whoever wants
to store a retry meanwhile gets no answer, and asks again.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from streams.jetstream import JetStream

CLOSED = "fg.closed.retry"
"""Nothing is published here."""


class _State(msgspec.Struct):
    messages: int


class _Info(msgspec.Struct):
    state: _State


async def retired(jetstream: JetStream, live: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    """Whether the stream was a work queue, is declared as none, and is gone now.

    One that holds messages stays as it is: let it run empty and ask again. So does every other stream.
    Raises ApiError and NoAnswer; asking again goes on where it stopped.
    """
    if (live["retention"], declared["retention"]) != ("workqueue", "limits"):
        return False
    name = str(declared["name"])
    if await _messages(jetstream, name) == 0:
        await _give_subjects(jetstream, live, [CLOSED])
        if await _messages(jetstream, name) == 0:
            await jetstream.api(f"STREAM.DELETE.{name}", None, dict)
            return True
    await _give_subjects(jetstream, live, declared["subjects"])
    return False


async def _messages(jetstream: JetStream, name: str) -> int:
    return (await jetstream.api(f"STREAM.INFO.{name}", None, _Info)).state.messages


async def _give_subjects(jetstream: JetStream, live: Mapping[str, Any], subjects: list[str]) -> None:
    await jetstream.api(f"STREAM.UPDATE.{live['name']}", {**live, "subjects": subjects}, dict)
