"""Files that appear whole or not at all, and stay."""

import os
import tempfile
from pathlib import Path


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Return once `path` holds exactly `data` on disk, with `mode`.

    Raises FileExistsError when the name is taken, and OSError when the disk refuses; the name is
    then as it was before. Nobody ever sees a part of the data under that name.
    """
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        path.hardlink_to(temporary)  # unlike a rename, a link never replaces
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Return once the names in `directory` are on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
