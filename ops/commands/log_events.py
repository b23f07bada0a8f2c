"""A line of a log as an event."""

import codecs
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ops.clock import new_uuid7
from ops.commands.lines import Line
from schemas.canonical import canonical_plain, sha256_hex
from schemas.units import Clock, format_rfc3339

LINE_BYTES_MAX = 16 * 1024
LINE_JSON_BYTES_MAX = 48 * 1024
"""A line of control characters grows sixfold in JSON; the payload still has to fit its 64 KiB."""
EVENT_BYTES_MAX = 80 * 1024


class Origin(NamedTuple):
    """What all events of one log have in common."""

    tenant_id: str
    agent_id: str
    source: str
    path: Path
    schema_version: str


def log_event(line: Line, generation: str, origin: Origin, clock: Clock) -> bytes:
    """The line as one request line. Its id is made of the file's generation and the offset, and of nothing else."""
    event = {
        "tenant_id": origin.tenant_id,
        "event_id": f"log-{generation}-{line.offset}",
        "trace_id": new_uuid7(),
        "agent_id": origin.agent_id,
        "schema_version": origin.schema_version,
        "created_at": format_rfc3339(clock.now_ms()),
        "source": origin.source,
        "payload": _payload(line, origin.path),
    }
    return canonical_plain(event | {"integrity_hash": f"sha256:{sha256_hex(canonical_plain(event))}"})


def _payload(line: Line, path: Path) -> dict[str, Any]:
    """The text with a flag for each thing that was changed about it: no flag, the line as it is in the file."""
    # With final=False a character that the cut has split is left out rather than taken for invalid.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(line.text, final=not line.cut)
    kept = text.replace("\0", "\N{SYMBOL FOR NULL}")
    while len(msgspec.json.encode(kept)) > LINE_JSON_BYTES_MAX:
        kept = kept[: len(kept) // 2]
    flags = {
        "cut": line.cut or len(kept) < len(text),
        "invalid_utf8": _has_invalid(line, text),
        "nul_replaced": "\0" in text,
        "unterminated": not line.terminated,
    }
    return {
        "kind": "log.line",
        "path": os.fsencode(path).decode(errors="replace"),
        "offset": line.offset,
        "line_bytes": line.size_bytes,
        "line": kept,
    } | {name: True for name, raised in flags.items() if raised}


def _has_invalid(line: Line, text: str) -> bool:
    """Whether a replacement character stands in the text that was not in the file."""
    return text.count("\N{REPLACEMENT CHARACTER}") > line.text.count("\N{REPLACEMENT CHARACTER}".encode())
