"""Where the servers' programs are: in the installed wheels, never looked up on PATH."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ops.embedded.process import StartError


def installed_file(wheel: str, *tail: str) -> Path:
    """The file of an installed wheel whose path ends with the given parts. Raises StartError when it is missing."""
    try:
        files = distribution(wheel).files or []
    except PackageNotFoundError as cause:
        raise StartError(f"the package {wheel} is not installed; install frostgate again") from cause
    for file in files:
        if file.parts[-len(tail) :] == tail:
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise StartError(f"the package {wheel} has no {'/'.join(tail)}; install {wheel} again")
