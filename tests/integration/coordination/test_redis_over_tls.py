"""`FG_REDIS_URL` as compose.yaml gives it: TLS, trusted by an authority of the deployment's own.

The embedded server is built without TLS, so something in front of it speaks it.
"""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from edge.ports import Ask
from edge.redis_store import redis_client
from ops.embedded import EmbeddedServers
from ops.redis_watch import drift
from ops.settings import load
from tests.integration.coordination.conftest import AMPLE, coordinating
from tests.unit.test_compose import ROOT


def _certificates(*arguments: str | Path) -> None:
    subprocess.run(["sh", ROOT / "scripts" / "certificates", *arguments], check=True, capture_output=True)


async def _passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return when either side is gone, with both closed."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


@pytest.fixture
async def url(store: EmbeddedServers, tmp_path: Path) -> AsyncIterator[str]:
    """The store by TLS, with its authority in the URL."""
    _certificates("authority", tmp_path / "ours")
    _certificates("server", tmp_path / "ours", "valkey", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ours" / "valkey.crt", tmp_path / "ours" / "valkey.key")
    plain_port = urlsplit(store.redis_url).port

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", plain_port)
        await asyncio.gather(_passed_on(reader, behind_writer), _passed_on(behind_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        encrypted = store.redis_url.replace("redis://", "rediss://").replace(f":{plain_port}", f":{port}")
        yield f"{encrypted}?ssl_ca_certs={tmp_path}/ours/ca.crt"


async def test_it_is_all_that_production_wants(url: str) -> None:
    client = redis_client(load({"FG_REDIS_URL": url}).redis_url)
    try:
        assert await drift(client, "prod") == []
    finally:
        await client.aclose()


async def test_admission_goes_that_way(url: str, tenant: str) -> None:
    async with coordinating(url) as coordination:
        assert (await coordination.admit(Ask(tenant, ["evt-1"], AMPLE))).admitted == [True]


@pytest.mark.parametrize("other", ["?ssl_ca_certs={directory}/theirs/ca.crt", ""], ids=["another-authority", "none"])
async def test_a_server_that_does_not_prove_itself_is_not_talked_to(url: str, tmp_path: Path, other: str) -> None:
    _certificates("authority", tmp_path / "theirs")
    client = redis_client(url.partition("?")[0] + other.format(directory=tmp_path))
    try:
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await drift(client, "prod")
    finally:
        await client.aclose()


async def test_a_server_of_another_name_is_not_talked_to(url: str) -> None:
    client = redis_client(url.replace("@127.0.0.1", "@localhost"))
    try:
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await drift(client, "prod")
    finally:
        await client.aclose()
