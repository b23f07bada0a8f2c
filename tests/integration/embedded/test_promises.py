"""What the embedded servers promise, asked of the running servers."""

import asyncio
import json
import stat
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from ops.embedded import EmbeddedServers


async def refusals(servers: EmbeddedServers, role: str, commands: str) -> list[str]:
    """What the NATS server objects to in the role's protocol lines; its order makes one PONG the end of all answers."""
    url = urlsplit(servers.nats_url(role))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    hello = {"user": url.username, "pass": url.password, "verbose": False, "headers": True}
    writer.write(f"CONNECT {json.dumps(hello)}\r\n{commands}PING\r\n".encode())
    found = []
    while (line := await reader.readline()) != b"PONG\r\n":
        if line.startswith(b"-ERR"):
            found.append(line.decode())
    writer.close()
    await writer.wait_closed()
    return found


async def test_jetstream_syncs_every_write_before_it_answers(servers: EmbeddedServers) -> None:
    system = await nats.connect(servers.nats_url("system"), inbox_prefix="_INBOX_system")
    answer = await system.request("$SYS.REQ.SERVER.PING.JSZ", b'{"config":true}')
    await system.close()
    data = json.loads(answer.data)["data"]
    assert data["config"]["sync_always"] is True
    assert data["limits"]["max_request_batch"] == 1000


@pytest.mark.parametrize(
    ("role", "allowed", "forbidden"),
    [
        ("edge", "fg.in.of-no-stream", "fg.decide.1.demo"),
        ("edge", "$JS.API.STREAM.INFO.FG_DECIDE", "$JS.API.STREAM.DELETE.FG_DECIDE"),
        ("edge", "$JS.API.INFO", "$JS.API.STREAM.CREATE.X"),
        ("worker", "$JS.API.CONSUMER.MSG.NEXT.X.Y", "fg.in.1.demo"),
        ("worker", "$JS.ACK.x", "$JS.API.STREAM.DELETE.FG_DECIDE"),
        ("worker", "$JS.API.INFO", "$JS.API.CONSUMER.CREATE.FG_DECIDE.x"),
        ("system", "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.SERVER.PING.CONNZ"),
    ],
)
async def test_each_nats_user_may_publish_its_own_subjects_alone(
    servers: EmbeddedServers, role: str, allowed: str, forbidden: str
) -> None:
    assert await refusals(servers, role, f"PUB {allowed} 0\r\n\r\n") == []
    refused = await refusals(servers, role, f"PUB {forbidden} 0\r\n\r\n")
    assert [f'Permissions Violation for Publish to "{forbidden}"' in line for line in refused] == [True]


async def test_a_nats_user_can_listen_to_its_own_answers_alone(servers: EmbeddedServers) -> None:
    assert await refusals(servers, "edge", "SUB _INBOX_edge.x.* 1\r\n") == []
    assert len(await refusals(servers, "edge", "SUB fg.in.> 1\r\nSUB _INBOX_worker.> 2\r\nSUB > 3\r\n")) == 3


async def test_postgres_keeps_what_it_has_acknowledged(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    names = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "password_encryption")
    rows = await connection.fetch("SELECT setting FROM pg_settings WHERE name = ANY ($1)", names)
    await connection.close()
    assert sorted(row["setting"] for row in rows) == ["on", "on", "on", "on", "scram-sha-256"]


async def test_postgres_lets_nobody_in_without_the_password(servers: EmbeddedServers) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(servers.postgres_dsn("admin"), password="wrong")


async def test_postgres_never_runs_as_root_and_its_files_are_closed_to_others(servers: EmbeddedServers) -> None:
    status = Path(f"/proc/{servers.pids['postgres']}").stat()
    assert status.st_uid != 0
    assert servers.postgres_home.stat().st_uid == status.st_uid
    assert stat.S_IMODE(servers.postgres_home.stat().st_mode) == 0o700
    assert not (servers.postgres_home / "password").exists()


async def test_what_clients_send_never_reaches_the_database_log(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(servers.postgres_dsn("admin"))
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.execute("SELECT 'marker-in-a-statement' FROM missing_table")
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await connection.fetch("SELECT $1::text::int", "marker-in-a-parameter")
    await connection.close()
    log = (servers.data_dir / "logs" / "postgres.log").read_text()
    assert "marker-in" not in log
    assert "missing_table" not in log


async def test_valkey_syncs_every_write_and_evicts_nothing(servers: EmbeddedServers) -> None:
    async with Redis.from_url(servers.redis_url, decode_responses=True) as redis:
        settings = await redis.config_get("appendonly", "appendfsync", "maxmemory-policy")
    assert settings == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


async def test_valkey_gives_its_one_user_the_projects_keys_alone(servers: EmbeddedServers) -> None:
    async with Redis.from_url(servers.redis_url) as redis:
        assert await redis.set("fg:promises", "1", px=1_000)
        with pytest.raises(NoPermissionError):
            await redis.get("other")
        with pytest.raises(NoPermissionError):
            await redis.config_set("appendfsync", "no")
    port = int(servers.redis_url.rpartition(":")[2].partition("/")[0])
    async with Redis(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0)) as anonymous:
        with pytest.raises((AuthenticationError, ResponseError)):
            await anonymous.get("fg:promises")
    wrong = f"redis://frostgate:wrong@127.0.0.1:{port}/0"
    async with Redis.from_url(wrong, retry=Retry(NoBackoff(), 0)) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.get("fg:promises")


def test_no_secret_stands_on_a_command_line_or_in_a_file_others_can_read(servers: EmbeddedServers) -> None:
    passwords = json.loads((servers.data_dir / "secrets.json").read_text())["passwords"].values()
    for pid in servers.pids.values():
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert not [password for password in passwords if password in arguments]
    for file in ("secrets.json", "nats/node.conf", "valkey/valkey.conf", "logs/postgres.log", "lock"):
        assert stat.S_IMODE((servers.data_dir / file).stat().st_mode) == 0o600


async def test_a_server_killed_and_restarted_is_found_at_the_same_place(servers: EmbeddedServers) -> None:
    url, pid = servers.redis_url, servers.pids["valkey"]
    async with Redis.from_url(url) as redis:
        await redis.set("fg:promises:kept", "1", px=60_000)
    await servers.children["valkey"].kill()
    await servers.restart("valkey")
    assert servers.redis_url == url
    assert servers.pids["valkey"] != pid
    async with Redis.from_url(url) as redis:
        assert await redis.get("fg:promises:kept") == b"1"
