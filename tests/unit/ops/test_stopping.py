"""A signal ends a run at a moment of its choosing, and a second one at once."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from ops.commands.stopping import Stopping, run_until_signal


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = Stopping()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_waits_for_the_request_in_hand(stopping: Stopping) -> None:
    stopping.check()
    os.kill(os.getpid(), signal.SIGTERM)
    request_ended = True
    with pytest.raises(KeyboardInterrupt):
        stopping.check()
    with pytest.raises(KeyboardInterrupt):
        stopping.sleep(0)
    assert request_ended


def test_a_second_signal_does_not_wait(stopping: Stopping) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopping.check()


def test_a_sleep_ends_with_the_signal(stopping: Stopping) -> None:
    signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    with pytest.raises(KeyboardInterrupt):
        stopping.sleep(5)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_midst_of_a_step_lets_it_end_and_clean_up(number: signal.Signals) -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            seen.append("the step ended")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        run_until_signal(work())
    assert seen == ["the step ended", "cleaned up"]


def test_what_ends_by_itself_is_answered() -> None:
    assert run_until_signal(asyncio.sleep(0, "done")) == "done"
