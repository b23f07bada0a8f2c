"""The load generator has a core to itself where there are enough of them."""

import os

import pytest

from ops.bench.processes import spared_core


def test_of_four_cores_one_is_left_to_the_load_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: left.append(cores))
    assert spared_core() == 3
    assert left == [{0, 1, 2}]


def test_two_cores_are_shared_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: pytest.fail(f"barred to {cores}"))
    assert spared_core() is None
