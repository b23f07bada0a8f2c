"""How long a stranger waits for the verdict on a bundle: the offline verifier over one of real shape."""

import asyncio
import shutil
from pathlib import Path

from ops.bench import evidence, verifying
from ops.bench.processes import APP_ROOT, BenchError, answered
from ops.bench.report import Verifier

SCRIPT = APP_ROOT / "scripts" / "verify_data_plane_hashchain.py"
ENTRY_BYTES = 6_000
"""Of disk for each entry while its bundle is made: the bundle, and its lines once more."""
MISSING = "the offline verifier stands in the repository and not in the wheel: run the bench from a checkout"


async def measure(home: Path, entries: int) -> Verifier:
    """Make a bundle of so many entries in `home`, verify it, and remove it. Raises BenchError."""
    if not await asyncio.to_thread(SCRIPT.is_file):
        return Verifier(not_measured=MISSING)
    if shutil.disk_usage(home).free < entries * ENTRY_BYTES:
        raise BenchError(f"a bundle of {entries:,} entries needs {entries * ENTRY_BYTES / 2**30:.1f} GiB in {home}")
    file = home / "bundle.tar"
    try:
        made = await answered("ops.bench.evidence", evidence.Job(str(file), entries), evidence.Made)
        job = verifying.Job(str(SCRIPT), str(file), made.root_fingerprint)
        used = await answered("ops.bench.verifying", job, verifying.Used)
    finally:
        await asyncio.to_thread(file.unlink, missing_ok=True)
    if used.status != 0:
        raise BenchError(f"the verifier refused the bundle that was made for it:\n{used.said[-2000:]}")
    return Verifier(
        entries=entries,
        bundle_bytes=made.bytes,
        seconds=used.seconds,
        entries_per_s=entries / used.seconds,
        cpu_us=used.cpu_s / entries * 1e6,
        peak_mib=used.peak_mib,
    )
