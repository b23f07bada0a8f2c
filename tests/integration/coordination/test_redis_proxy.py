"""The fault proxy as a program, before the real server."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ReadOnlyError

from edge.redis_store import redis_client
from ops.embedded import EmbeddedServers


async def test_the_program_gives_the_fault_it_is_asked_for(store: EmbeddedServers) -> None:
    port = urlsplit(store.redis_url).port
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos.redis_proxy", "--upstream", f"127.0.0.1:{port}", "--fault", "readonly"),
        stdout=PIPE,
    )
    assert program.stdout is not None
    said = (await program.stdout.readline()).decode()
    client = redis_client(store.redis_url.replace(f":{port}", f":{int(said.rpartition(':')[2])}"))
    assert await client.ping()
    with pytest.raises(ReadOnlyError):
        await client.set("fg:proxy", "1")
    await client.aclose()
    program.terminate()
    async with asyncio.timeout(20):
        assert await program.wait() == 0
