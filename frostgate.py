"""The one name this distribution owns: puts the private root first on the path and hands over to the command line."""

import sys
from pathlib import Path

_app = Path(__file__).resolve().parent / "_app"  # there in the wheel; in a checkout the folders lie beside this file
if _app.is_dir():
    sys.path.insert(0, str(_app))

from ops.cli import main  # noqa: E402  (the path must be set first)

__all__ = ["main"]

if __name__ == "__main__":
    main()
