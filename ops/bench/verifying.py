"""The offline verifier as a command, and what it took.

A process of its own, one job in on stdin, one result out on stdout, both JSON.
What a process had in memory before it became another counts as that one's, so this one has little.

    python -m ops.bench.verifying < job.json
"""

import resource
import subprocess
import sys
import time

import msgspec


class Job(msgspec.Struct, frozen=True):
    """Verify this file with this script, the root key known from elsewhere."""

    script: str
    file: str
    root_fingerprint: str


class Used(msgspec.Struct, frozen=True):
    """The command's status and words; wall time, CPU of all its processes, and memory of the largest of them."""

    status: int
    said: str
    seconds: float
    cpu_s: float
    peak_mib: float


def _verified(job: Job) -> Used:
    words = (sys.executable, "-I", "-S", job.script, job.file, "--root", job.root_fingerprint)
    began_s = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    seconds = time.perf_counter() - began_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Used(done.returncode, done.stdout, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(_verified(job)))


if __name__ == "__main__":
    main()
