"""`python -m tests.fuzz SECONDS`: every target for so many seconds, each in a process of its own (`make fuzz`).

Ends with status 1 when a target failed; the input that did it is printed as libFuzzer shows it, in base64.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = ("envelope", "signature")
INPUT_BYTES_MAX = 8_192
INPUT_SECONDS_MAX = 5
"""One input that takes longer is a failure: nothing a sender can write may hold the event loop."""


def main(seconds: int) -> int:
    failed = []
    for target in TARGETS:
        print(f"fuzz: {target} for {seconds} s", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            corpus = Path(scratch, "corpus")
            corpus.mkdir()
            arguments = [
                str(corpus),
                f"-artifact_prefix={scratch}/",
                f"-max_total_time={seconds}",
                f"-max_len={INPUT_BYTES_MAX}",
                f"-timeout={INPUT_SECONDS_MAX}",
                "-print_final_stats=1",
            ]
            ended = subprocess.run([sys.executable, "-m", f"tests.fuzz.{target}", *arguments], check=False)
        if ended.returncode != 0:
            failed.append(target)
    print(f"fuzz: failed: {', '.join(failed)}" if failed else "fuzz: no failure", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
