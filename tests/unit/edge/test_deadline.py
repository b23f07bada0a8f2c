"""A deadline that counts the other side's time, not our own."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from edge.deadline import within

TIMEOUT_MS = 50


@pytest.fixture
async def pipe() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_an_answer_in_time_is_the_answer() -> None:
    assert await within(TIMEOUT_MS, asyncio.sleep(0, "answer")) == "answer"


async def test_a_failure_of_the_call_is_the_callers() -> None:
    async def fails() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await within(TIMEOUT_MS, fails())


async def test_a_call_without_an_answer_is_cancelled() -> None:
    ended = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        await within(TIMEOUT_MS, hangs())
    assert ended.is_set()


async def test_a_call_that_fails_while_it_is_cancelled_is_a_timeout_all_the_same() -> None:
    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None

    with pytest.raises(TimeoutError):
        await within(TIMEOUT_MS, hangs())


async def test_who_gives_up_takes_the_call_along() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(within(60_000, hangs()))
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_an_answer_that_lies_here_while_we_are_kept_from_running_is_taken(
    pipe: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pipe
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    async def ask() -> bytes:
        asked.set()
        answer = await loop.sock_recv(ours, 6)
        for _ in range(10):
            await asyncio.sleep(0)  # an answer is read in several steps
        return answer

    waiting = asyncio.create_task(within(TIMEOUT_MS, ask()))
    await asked.wait()
    theirs.send(b"answer")
    until = loop.time() + 4 * TIMEOUT_MS / 1000
    while loop.time() < until:
        pass  # the whole process stands still, four times as long as the deadline
    assert await waiting == b"answer"
