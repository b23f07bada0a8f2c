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


class _Config(msgspec.Struct):
    retention: str


class _State(msgspec.Struct):
    messages: int
    last_seq: int


class _Info(msgspec.Struct):
    config: _Config
    state: _State

    @property
    def may_go(self) -> bool:
        """Asked of one answer: another upgrade may have put the new stream in its place by now."""
        return self.config.retention == "workqueue" and self.state.messages == 0


async def retired(jetstream: JetStream, live: Mapping[str, Any], declared: Mapping[str, Any]) -> int | None:
    """The first sequence of the stream to be, where this one was a work queue, is declared as none, and is gone now.

    Its successor goes on counting: what names a message of the old one must not meet one of the new.
    None for one that holds messages, which stays as it is, its subjects with it: let it run empty and
    ask again. So does every other stream. Raises ApiError and NoAnswer; asking again goes on where it
    stopped.
    """
    if (live["retention"], declared["retention"]) != ("workqueue", "limits"):
        return None
    name = str(declared["name"])
    gone = False
    found = await look(jetstream, name)
    try:
        if found.may_go:
            await _give_subjects(jetstream, live, [CLOSED])
            found = await look(jetstream, name)
            if found.may_go:
                await jetstream.api(f"STREAM.DELETE.{name}", None, dict)
                gone = True
    finally:
        if not gone:
            await _give_subjects(jetstream, live, declared["subjects"])
    return found.state.last_seq + 1 if gone else None


async def look(jetstream: JetStream, name: str) -> _Info:
    return await jetstream.api(f"STREAM.INFO.{name}", None, _Info)


async def _give_subjects(jetstream: JetStream, live: Mapping[str, Any], subjects: list[str]) -> None:
    await jetstream.api(f"STREAM.UPDATE.{live['name']}", {**live, "subjects": subjects}, dict)
