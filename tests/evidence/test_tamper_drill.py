"""The drill: thousands of random changes to bundles, every one found, with the right status and the right place."""

import itertools
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.evidence.conftest import Verify
from tests.evidence.kinds import KINDS, mutate
from tests.evidence.loading import SCRIPT, verifier
from tests.evidence.mutations import OK, Mutation, Sample, nothing, samples

Kind = Callable[[random.Random, Sample], Mutation]
IN_PROCESS = 8_300
CHUNKS = (2_000, 1024 * 1024)
"""Read so many bytes at once, the entries of a bundle are some pages or one."""
AS_COMMAND = 200
"""Changes that have to be found. Together with the 1,500 of the drill on what is live they are 10,000."""
APART = 60


def _judged(mutation: Mutation, status: int, seq: int | None) -> bool:
    return status in mutation.statuses and (not mutation.seqs or seq in mutation.seqs)


def test_every_change_to_a_bundle_is_found_with_the_right_status(
    verify: Verify, root: str, seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"FG_TEST_SEED={seed}")
    seen: Counter[int] = Counter()
    numbers = itertools.count()
    while seen.total() - seen[OK] < IN_PROCESS:
        number = next(numbers)
        monkeypatch.setattr(verifier, "CHUNK_BYTES", CHUNKS[number % 2])
        mutation = mutate(f"{seed}-{number}")
        verdict = verify(mutation.data, root if mutation.pinned else None, mutation.tenant_key, mutation.ring)
        assert _judged(mutation, verdict.status, verdict.seq), (f"{seed}-{number}", mutation.name, verdict)
        assert verdict.status == OK or mutation.data not in {sample.tar for sample in samples()}
        seen[verdict.status] += 1
    assert set(seen) == set(range(7))
    assert seen[OK] < IN_PROCESS // 10
    print({verifier.WORDS[status]: count for status, count in sorted(seen.items())})


def test_the_command_finds_the_same(tmp_path: Path, root: str, seed: str) -> None:
    print(f"FG_TEST_SEED={seed}")

    def run(number: int, mutation: Mutation) -> str:
        file = tmp_path / f"{number}.tar"
        file.write_bytes(mutation.data)
        known = ["--root", root] if mutation.pinned else []
        known += ["--tenant-key", mutation.tenant_key] if mutation.tenant_key else []
        if mutation.ring:
            ring = file.with_suffix(".ring")
            ring.write_bytes(mutation.ring)
            known += ["--keyring", str(ring)]
        done = subprocess.run(
            [sys.executable, "-I", "-S", SCRIPT, file, *known], capture_output=True, text=True, timeout=60, check=False
        )
        file.unlink()
        right = (
            done.returncode in mutation.statuses and done.stderr == "" and done.stdout.replace("\n", "").isprintable()
        )
        return "" if right else f"{seed}-command-{number} {mutation.name}: {done.returncode} {done.stderr}"

    drawn = ((number, mutate(f"{seed}-command-{number}")) for number in itertools.count())
    to_find = itertools.islice((one for one in drawn if OK not in one[1].statuses), AS_COMMAND)
    with ThreadPoolExecutor(2) as pool:
        assert [fault for fault in pool.map(run, *zip(*to_find, strict=True)) if fault] == []


def test_a_large_bundle_is_read_by_two_processes_with_the_same_verdicts(
    verify: Verify, root: str, seed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"FG_TEST_SEED={seed}")
    monkeypatch.setattr(verifier, "APART_BYTES_MIN", 0)
    for number in range(APART):
        mutation = mutate(f"{seed}-{number}")
        file = tmp_path / "bundle.tar"
        file.write_bytes(mutation.data)
        with file.open("rb") as opened:
            apart = verifier.verify_file(opened, root)
        assert apart == verify(mutation.data, root), (f"{seed}-{number}", mutation.name)


@pytest.mark.parametrize("kind", [kind for _, kind in KINDS if kind is not nothing])
def test_no_kind_of_change_is_a_change_of_nothing(kind: Kind, seed: str) -> None:
    choose = random.Random(seed)
    made = [kind(choose, sample) for sample in samples() for _ in range(4)]
    assert {mutation.data for mutation in made} - {sample.tar for sample in samples()}
