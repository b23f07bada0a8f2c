"""What a running stack says about itself, for the command line, scripts and tests."""

import os
from pathlib import Path

import msgspec


class Pids(msgspec.Struct):
    """Process ids; those of restarted children change, and the file with them."""

    supervisor: int
    edge: int
    worker: int
    nats: int
    postgres: int
    valkey: int


class Stack(msgspec.Struct):
    """A running stack. `nats_url` is the admin user's; the file is 0600.

    `postgres_dsn` is the superuser's, for migrations and for looking after the server; operators' commands use
    `operator_postgres_dsn`, whose role has operators' rights alone.
    """

    url: str
    admin_url: str
    tenant_id: str
    api_key: str
    nats_url: str
    postgres_dsn: str
    operator_postgres_dsn: str
    redis_url: str
    data_dir: str
    pids: Pids

    def __repr__(self) -> str:
        return f"Stack({self.url})"


def stack_file(data_dir: Path) -> Path:
    return data_dir / "stack.json"


def read_stack(data_dir: Path) -> Stack | None:
    """The stack that runs on the directory, None when none does: no file, or its supervisor is gone."""
    try:
        stack = msgspec.json.decode(stack_file(data_dir).read_bytes(), type=Stack)
        os.kill(stack.pids.supervisor, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        # Not ours to signal, or not ours to read; only the latter leaves nothing to return.
        if not os.access(stack_file(data_dir), os.R_OK):
            raise
    return stack
