"""NATS, Postgres and Valkey from their wheels, as child processes of this one."""

import asyncio
from pathlib import Path
from typing import Protocol

from ops.embedded.directory import DataDirectory
from ops.embedded.nats import NatsServer
from ops.embedded.postgres import PostgresServer
from ops.embedded.process import Child, Command, StartError, free_port, spawn, until_ready
from ops.embedded.valkey import ValkeyServer

__all__ = ["EmbeddedServers", "StartError"]

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 2.0
START_DELAYS_S = (0.1, 0.4, 1.6)
"""Waits after each failed start: the port may have been lost to another program, or an old process is still ending."""


class Server(Protocol):
    """What one embedded server says about itself."""

    @property
    def name(self) -> str: ...

    async def prepare(self) -> None:
        """Make its files. Raises StartError."""

    def command(self, port: int) -> Command: ...

    async def probe(self, port: int) -> None:
        """Return when it serves us on that port. Raises NotAnsweringError."""


class EmbeddedServers:
    """The three servers over one data directory.

    Ports are chosen anew at every start and kept when a single server is restarted, so that URLs
    stay true for the life of this object.
    """

    def __init__(self, directory: DataDirectory, unprivileged_user: str = "nobody") -> None:
        self._directory = directory
        self._nats = NatsServer(directory)
        self._postgres = PostgresServer(directory, unprivileged_user)
        self._valkey = ValkeyServer(directory)
        self._servers: dict[str, Server] = {
            server.name: server for server in (self._postgres, self._nats, self._valkey)
        }
        self._ports: dict[str, int] = {}
        self.children: dict[str, Child] = {}

    @property
    def data_dir(self) -> Path:
        return self._directory.path

    @property
    def postgres_home(self) -> Path:
        """Where the database lies: in the data directory, or outside of it when root's is out of Postgres's reach."""
        return self._postgres.home

    @property
    def redis_url(self) -> str:
        return self._valkey.url(self._ports["valkey"])

    @property
    def redis_admin_url(self) -> str:
        """Of the user who may do everything."""
        return self._valkey.operator_url(self._ports["valkey"])

    @property
    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self.children.items()}

    def nats_url(self, role: str) -> str:
        """The URL of `edge`, `worker`, `admin` or `system`."""
        return self._nats.url(role, self._ports["nats"])

    def postgres_dsn(self, role: str) -> str:
        """The DSN of `edge`, `worker` or `operator`, or of `admin`: the superuser, who runs migrations."""
        return self._postgres.dsn(role, self._ports["postgres"])

    def role_passwords(self) -> dict[str, str]:
        return dict(self._postgres.role_passwords())

    async def start(self) -> None:
        """On return all three answer. Raises StartError with the end of the log; then none runs."""
        try:
            async with asyncio.TaskGroup() as group:
                for name in self._servers:
                    group.create_task(self.start_one(name))
        except BaseExceptionGroup as failures:
            await self.stop()
            raise failures.exceptions[0] from None
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """On return none runs. Postgres ends last: the others' clients may still be writing."""
        await asyncio.gather(self.stop_one("valkey"), self.stop_one("nats"))
        await self.stop_one("postgres")

    async def start_one(self, name: str) -> Child:
        """Return the running server once it answers, on the port it had before if it had one. Raises StartError."""
        server = self._servers[name]
        await server.prepare()
        for delay_s in START_DELAYS_S:
            try:
                return await self._launch(server)
            except StartError:
                await asyncio.sleep(delay_s)
        return await self._launch(server)

    async def stop_one(self, name: str, grace_s: float = STOP_GRACE_S) -> None:
        """On return the server does not run."""
        child = self.children.pop(name, None)
        if child is not None:
            await child.stop(grace_s)

    async def restart(self, name: str) -> None:
        """Stop the server if it runs, and start it on the same port."""
        await self.stop_one(name)
        await self.start_one(name)

    async def _launch(self, server: Server) -> Child:
        port = self._ports.get(server.name) or free_port()
        child = await spawn(server.command(port), self._directory.logs, (self._directory.lock,))
        try:
            await until_ready(child, lambda: server.probe(port), START_TIMEOUT_S)
        except TimeoutError as cause:
            await child.kill()
            raise StartError(
                f"{server.name} did not answer within {START_TIMEOUT_S:.0f} s. "
                f"The last lines of {child.log_file}:\n{child.last_lines()}"
            ) from cause
        except BaseException:
            await child.kill()
            raise
        self._ports[server.name] = port
        self.children[server.name] = child
        return child
