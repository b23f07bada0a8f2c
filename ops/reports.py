"""The worker's signed reports: the attestation of row-level security, for whoever has no way into the database."""

import asyncio
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from schemas.units import Clock, UnixMs, format_rfc3339
from sinks.attest import RULES, UNATTESTABLE, Attestation, Finding
from sinks.durable_file import sync_directory
from sinks.signing import SignatureError, Signer, verified_payload

REPORT = "rls_attestation.txt"
ENVELOPE = "rls_attestation.txt.dsse"
LOCK = ".rls_attestation.lock"
PAYLOAD_TYPE = "application/vnd.frostgate.report+text"
RENEWED_MS = 3_600_000
TURN_WAIT_S = 5.0
"""How long a worker waits for another to have written: one that was stopped in the middle must not stop all."""
_TRIED_AGAIN_S = 0.05
_MODE = 0o644


class AttestationReport:
    """Keeps `rls_attestation.txt` and its envelope in a directory true to the last attestation.

    Several workers may keep the same directory: the two files are always of one of them.
    """

    def __init__(self, directory: Path, signer: Signer, clock: Clock) -> None:
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._told: tuple[Finding, ...] | None = None
        self._told_ms = UnixMs(0)

    async def publish(self, attestation: Attestation) -> list[str]:
        """On return both files are on disk if the verdict is another one or the last report is an hour old.

        What stands in the way is returned, and tried again with the next attestation.
        """
        now_ms = self._clock.now_ms()
        if attestation.findings == self._told and 0 <= now_ms - self._told_ms < RENEWED_MS:
            return []
        report = text_of(attestation, now_ms).encode()
        try:
            await asyncio.to_thread(self._write, report)
        except OSError as failure:
            return [f"{self._directory / REPORT} cannot be written ({failure.strerror}): see FG_REPORTS_DIR"]
        self._told, self._told_ms = attestation.findings, now_ms
        return []

    def _write(self, report: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with _turn(self._directory / LOCK):
            _replace(self._directory / ENVELOPE, self._signer.sign(PAYLOAD_TYPE, report))
            _replace(self._directory / REPORT, report)


def text_of(attestation: Attestation, now_ms: UnixMs) -> str:
    """The report: who asked whom when, every rule with what was found, and every table that was probed."""
    findings = attestation.findings
    lines = [
        "Attestation of row-level security",
        "",
        f"verdict   {'NOT ATTESTED' if findings else 'attested'}",
        f"time      {format_rfc3339(now_ms)}",
        f"server    PostgreSQL {attestation.server}",
        f"database  {attestation.database}",
        f"login     {attestation.login}",
        "",
        "Rules",
    ]
    # Where the database could not be asked, nothing is known of any rule.
    asked = all(finding.rule != UNATTESTABLE for finding in findings)
    for rule, sentence in RULES.items():
        broken = [finding for finding in findings if finding.rule == rule]
        lines.append(f"  {rule}  {_verdict(len(broken), asked):<12}{sentence}")
        lines += [f"        {finding.object}: {finding.finding}" for finding in broken]
    lines += [f"  {finding}" for finding in findings if finding.rule not in RULES]
    lines += ["", "Tables probed with row_security off", *(f"  {name}" for name in attestation.probed), ""]
    return "\n".join(lines)


def checked_report(directory: Path, public_keys: Mapping[str, Ed25519PublicKey]) -> str:
    """The report of that directory, which a known key has signed word for word.

    Raises SignatureError where it proves nothing, and OSError where it is not there. While a worker
    writes, the two files can be of two attestations: that is a SignatureError too, and gone with the
    next look.
    """
    signed = verified_payload((directory / ENVELOPE).read_bytes(), PAYLOAD_TYPE, public_keys)
    if (directory / REPORT).read_bytes() != signed:
        raise SignatureError("the report is not the one that was signed")
    return signed.decode()


def _verdict(broken: int, asked: bool) -> str:
    if broken:
        return f"{broken} broken"
    return "ok" if asked else "unknown"


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """While no other process is in this block for the same file. Raises OSError when it has waited for too long."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited_s = 0.0
        while not _is_free(descriptor):
            if waited_s >= TURN_WAIT_S:
                raise TimeoutError(errno.ETIMEDOUT, "another worker is writing it")
            time.sleep(_TRIED_AGAIN_S)
            waited_s += _TRIED_AGAIN_S
        yield
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Whether the lock was free, and is now this descriptor's."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _replace(path: Path, data: bytes) -> None:
    """Return once `path` holds `data` on disk. Nobody ever sees a part of it. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, _MODE)
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
