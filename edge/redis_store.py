"""The way to Redis or Valkey: a client that fails at once, and scripts that are loaded when they are missing."""

import hashlib
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

CONNECTIONS_MAX = 8


def redis_client(url: str) -> "Redis":
    """A client of one server, not of a cluster, that fails at once instead of retrying.

    The deadline of a request is shorter than any backoff.
    """
    client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=CONNECTIONS_MAX)
    return client


class Script:
    """A Lua script of this package, known to the server by its hash."""

    def __init__(self, file_name: str) -> None:
        self._text = (Path(__file__).parent / file_name).read_bytes()
        self._sha1 = hashlib.sha1(self._text, usedforsecurity=False).hexdigest()

    async def call(self, client: "Redis", keys: list[str], *arguments: object) -> Any:
        """The script's answer. A server that does not know the script is told once.

        Raises RedisError or OSError; then the script may have run.
        """
        command = ("EVALSHA", self._sha1, len(keys), *keys, *arguments)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # not annotated there
        except NoScriptError:
            await client.execute_command("SCRIPT LOAD", self._text)  # type: ignore[no-untyped-call]  # as above
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # as above
