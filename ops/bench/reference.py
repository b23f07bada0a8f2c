"""What the reference edges share: where they publish and how they are told."""

import socket
import sys
from pathlib import Path

import msgspec

from edge.settings import TlsSettings

STREAM = "FG_BENCH"
SUBJECT = "bench.events"
STREAM_CONFIG = {
    "name": STREAM,
    "subjects": [SUBJECT],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "num_replicas": 1,
    "duplicate_window": 120_000_000_000,
    "allow_atomic": True,
}


class ReferenceConfig(msgspec.Struct, frozen=True):
    """Read from a private file, since the URL holds a password."""

    nats_url: str
    port: int
    tls: TlsSettings | None = None


def read_config() -> ReferenceConfig:
    """The configuration in the file named by the only argument."""
    return msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ReferenceConfig)


def listener(port: int) -> socket.socket:
    """A loopback socket ready to accept."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    return listening
