"""How a target is run: its seeds in the corpus folder, then inputs without end."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris


def fuzz(target: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Never returns: libFuzzer ends the process when the time is over or the target raised.

    The first argument is the corpus folder, the others are libFuzzer's.
    """
    corpus = Path(sys.argv[1])
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
