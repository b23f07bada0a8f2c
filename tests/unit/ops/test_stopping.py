"""A signal ends a run at a moment of its choosing, and a second one at once."""

import os
import signal
from collections.abc import Iterator

import pytest

from ops.commands.stopping import Stopping


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
