"""Writing a bundle, looking into it, and what a stranger says to it."""

import io
import tarfile

from schemas.checkpoint import Round, note_text
from schemas.subjects import partition_of
from sinks.bundle_source import Range
from sinks.bundles import Bundler, Wanted, Written
from sinks.checkpoints import Checkpoints
from sinks.notes import sign
from tests.evidence.loading import verifier
from tests.integration.sinks.sealed import SECRET, Evidence


async def written(bundler: Bundler, wanted: Range, *, include_trace: bool = False) -> tuple[Written, io.BytesIO]:
    file = io.BytesIO()

    async def sink(data: bytes) -> None:
        file.write(data)

    made = await bundler.write(Wanted("bundle-1", wanted, include_trace), sink, lambda *_: None)
    file.seek(0)
    return made, file


def members(file: io.BytesIO) -> dict[str, bytes]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        found = {}
        for member in archive:
            assert (member.mode, member.uid, member.gid, member.mtime, member.uname) == (0o444, 0, 0, 0, "")
            data = archive.extractfile(member)
            assert data is not None
            found[member.name] = data.read()
    file.seek(0)
    return found


def verdict(file: io.BytesIO, evidence: Evidence) -> tuple[int, str]:
    file.seek(0)
    found = verifier.verify_file(file, evidence.keyring.root_fingerprint)
    return found.status, found.text


async def lost_round(evidence: Evidence, tenant: str) -> None:
    """Lay in the store the round after the database's last, as if a backup had been restored since."""
    partition = partition_of(tenant)
    last = await Checkpoints(evidence.pool, evidence.signer, SECRET, witnessed=False).last(partition)
    assert last is not None
    number = last.number + 1
    lost = last._replace(number=number, note=sign(note_text(Round(partition, number, bytes(32))), evidence.signer))
    await evidence.worm.put(lost.key, lost.data, retain_days=1)
