"""Whether Redis is what admission relies on: nothing lost that was answered, nothing evicted, nobody else's login."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis, SSLConnection
from redis.exceptions import RedisError, ResponseError

from streams.stopping import set_within

log = logging.getLogger("ops")

INTERVAL_S = 5.0
"""So that readiness follows a lost server within seconds."""
PROOF_S = 110.0
RETRY_S = 1.0
ANSWER_S_MAX = 2.0
REQUIRED = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}
"""An evicted or lost nonce opens a replay; without room the server refuses, and so do we."""


class RedisWatch:
    """Proves the server at start-up and every 5 s, and every second while it is not proven or does not answer.

    Drift is reported, never repaired.
    """

    def __init__(self, client: "Redis", env: str) -> None:
        self._client = client
        self._env = env
        self._proven_s: float | None = None
        self.findings: list[str] = ["the coordination store was not checked yet"]

    def proven(self) -> bool:
        """Whether all of it was seen to be so lately; a server that does not answer is not asked about itself."""
        now_s = asyncio.get_running_loop().time()
        return self._proven_s is not None and now_s - self._proven_s <= PROOF_S

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self.check()
            await set_within(stopping, RETRY_S if self.findings else INTERVAL_S)

    async def check(self) -> None:
        """Look now. A server that does not answer is a finding, but leaves the last proof standing for its time."""
        begun_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                found = await drift(self._client, self._env)
        except (RedisError, OSError):
            self.findings = ["the coordination store does not answer, or refuses the login"]
            return
        if found and found != self.findings:
            log.error("the coordination store is not what admission relies on: %s", "; ".join(found))
        self._proven_s = None if found else begun_s
        self.findings = found


async def drift(client: "Redis", env: str) -> list[str]:
    """What is not as it must be. Raises RedisError or OSError when the server does not answer."""
    try:
        user = _text(await _ask(client, "ACL WHOAMI"))
        info: Mapping[str, Any] = await client.info("replication", "cluster")
        settings: Mapping[Any, Any] = await client.config_get(*REQUIRED)
    except ResponseError:
        return ["the coordination store does not let itself be checked"]
    found = [
        f"{name} of the coordination store must be {wanted}, and is {_text(settings.get(name, 'not known'))}"
        for name, wanted in REQUIRED.items()
        if _text(settings.get(name)) != wanted
    ]
    if user == "default":
        found.append("the coordination store knows us as the user `default`: use one with only the rights it needs")
    if info["role"] != "master":
        found.append("the coordination store is a replica")
    if info["cluster_enabled"]:
        found.append("the coordination store is a node of a cluster, and one call takes keys of many slots")
    if env == "prod" and not issubclass(client.connection_pool.connection_class, SSLConnection):
        found.append("the connection to the coordination store is not encrypted")
    return found


async def _ask(client: "Redis", command: str) -> object:
    return await client.execute_command(command)  # type: ignore[no-untyped-call]  # not annotated there


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
