"""Writes docs/configuration.md from the table of variables: `python -m ops.settings_docs > docs/configuration.md`."""

import sys

from ops.settings_table import GROUPS
from ops.settings_types import Variable

_HEAD = """# Configuration

Everything is configured by environment variables, read once at start and judged as a whole: a process with a fault
in its configuration says all faults at once, opens no socket, and ends with status 2. An empty variable is an absent
one. A variable with the prefix `FG_` that nobody reads is a warning on stderr, with the nearest name that is read.

`frostgate doctor` prints the effective values and where each comes from. Secrets, and the user part of every URL, are
masked wherever a value is shown.

`frostgate up` needs none of these: it gives its edge and worker the addresses of the servers it starts. Client
commands (`send`, `agent`, `why`, `tenants`, `keys`) find the stack running in `FG_DATA_DIR`; `FG_URL` and
`FG_ADMIN_POSTGRES_DSN` win over it.

The configuration's hash (`config_hash` in log lines and chain entries) covers every value that says how events are
handled, and no secret, address or path: two hosts set alike have the same hash.

*This page is written by `python -m ops.settings_docs`; change `ops/settings_table.py` instead.*
"""


def document() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(title, group) for title, group in GROUPS)])


def _section(title: str, group: tuple[Variable, ...]) -> str:
    rows = ["| variable | default | unit | read by | meaning |", "|---|---|---|---|---|", *map(_row, group)]
    return "\n".join([f"## {title}", "", *rows, ""])


def _row(variable: Variable) -> str:
    readers = [f"**{service}**" if service in variable.required_by else service for service in variable.services]
    required = " Required by the services in bold." if variable.required_by else ""
    secret = " Secret." if variable.secret else ""
    idle = "" if variable.acted_on else " *Checked; nothing in this version acts on it.*"
    cells = (
        f"`{variable.name}`",
        _default(variable),
        variable.unit,
        ", ".join(readers),
        variable.description + required + secret + idle,
    )
    return f"| {' | '.join(cells)} |"


def _default(variable: Variable) -> str:
    return variable.default_note if variable.default is None else f"`{variable.default}`"


if __name__ == "__main__":
    sys.stdout.write(document())
