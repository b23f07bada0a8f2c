"""`frostgate up`: the servers, the edge and the worker as children of one process, kept running until told to stop."""

import asyncio
import errno
import functools
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ops.children import Kept, Say
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from ops.embedded.files import write_private
from ops.embedded.process import Command, StartError, free_port, kill_group, spawn
from ops.instance import Pids, Stack, stack_file
from ops.overview import Overview

GRACE_S = {"edge": 2.5, "worker": 5.0}
"""Time each service has to stop by itself. A worker whose database is frozen waits for its answer before it hands over.
One may need its whole time, not all: with the servers' (ops/embedded) a stop takes less than 10 s."""
SERVICES = tuple(GRACE_S)
READY_POLL_S = 0.1
SLOW_START_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stack runs. Port 0 takes a free one."""

    data_dir: Path
    scheme: str
    """Of the edge: http or https."""
    http_host: str
    http_port: int
    admin_host: str
    admin_port: int
    ready_file: Path | None
    unprivileged_user: str


class Provision(NamedTuple):
    """What the stores hold once laid out. `first` says that the key has just been made."""

    tenant_id: str
    api_key: str
    first: bool


class Plan(NamedTuple):
    """What runs on the servers: how the stores are laid out, and a service's command for its HTTP and admin port."""

    provision: Callable[[EmbeddedServers, DataDirectory], Awaitable[Provision]]
    command: Callable[[str, EmbeddedServers, int, int], Command]


class Supervisor:
    """Runs one stack. `announce` is told once, when everything is ready; `say` whenever something happens."""

    def __init__(self, place: Place, plan: Plan, say: Say, announce: Callable[[Stack, bool], None]) -> None:
        self._place = place
        self._plan = plan
        self._say = say
        self._announce = announce
        self._kept: dict[str, Kept] = {}
        self._stack: Stack | None = None
        self._stopping = False

    async def run(self) -> None:
        """Return when a signal said so. Raises StartError when the stack cannot be started. Then none of it runs."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told_to_stop, task)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup stays nohup
            loop.add_signal_handler(signal.SIGHUP, self._told_to_stop, task)
        try:
            with await DataDirectory.open(self._place.data_dir) as directory:
                await self._serve(directory)
        except asyncio.CancelledError:
            self._say("stopped")

    async def _serve(self, directory: DataDirectory) -> None:
        ports = {name: free_port() for name in SERVICES}
        overview = Overview(ports, self._servers_down)
        admin = overview.server(self._place.admin_host, self._place.admin_port)
        servers = EmbeddedServers(directory, self._place.unprivileged_user)
        try:
            self._forget()
            admin_port = await _listen(admin.start, self._place.admin_host, self._place.admin_port, "--admin-port")
            http_port = await _unused_port(self._place.http_host, self._place.http_port)
            await servers.start()
            provision = await self._plan.provision(servers, directory)
            await self._start_services(servers, directory, http_port, ports)
            stack = self._described(servers, provision, http_port, admin_port)
            await self._keep(overview, stack, first=provision.first)
        finally:
            self._stopping = True
            self._forget()
            for name in SERVICES:
                if name in self._kept:
                    await self._kept[name].child.stop(GRACE_S[name])
            await servers.stop()
            await admin.stop()

    async def _start_services(
        self, servers: EmbeddedServers, directory: DataDirectory, http_port: int, admin_ports: dict[str, int]
    ) -> None:
        for name, child in servers.children.items():
            self._kept[name] = Kept(child, functools.partial(servers.start_one, name), self._say)
        for name in SERVICES:
            command = self._plan.command(name, servers, http_port, admin_ports[name])
            start = functools.partial(spawn, command, directory.logs, (directory.lock,))
            self._kept[name] = Kept(await start(), start, self._say)

    async def _keep(self, overview: Overview, stack: Stack, *, first: bool) -> None:
        """Keep everything running; ends only by being cancelled."""
        async with asyncio.TaskGroup() as keepers:
            for kept in self._kept.values():
                keepers.create_task(kept.keep(self._publish))
            await self._until_ready(overview)
            self._stack = stack
            self._publish()
            self._announce(stack, first)

    async def _until_ready(self, overview: Overview) -> None:
        clock = asyncio.get_running_loop().time
        slow_at = clock() + SLOW_START_S
        while not (health := await overview.health()).ready:
            if clock() > slow_at:
                self._say(f"not ready yet: {'; '.join(health.reasons)}")
                slow_at = clock() + SLOW_START_S
            await asyncio.sleep(READY_POLL_S)

    def _publish(self) -> None:
        """Write the stack's files with the present process ids, once it has been ready."""
        if self._stack is None:
            return
        self._stack.pids = self._pids()
        document = msgspec.json.format(msgspec.json.encode(self._stack), indent=2) + b"\n"
        for file in self._files():
            write_private(file, document)

    def _forget(self) -> None:
        """What the files say is no longer, or not yet, true."""
        for file in self._files():
            file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        ready_file = self._place.ready_file
        return [stack_file(self._place.data_dir), *([ready_file] if ready_file else [])]

    def _servers_down(self) -> list[str]:
        return [name for name, kept in self._kept.items() if name not in SERVICES and not kept.child.alive]

    def _pids(self) -> Pids:
        return Pids(supervisor=os.getpid(), **{name: kept.child.pid for name, kept in self._kept.items()})

    def _described(self, servers: EmbeddedServers, provision: Provision, http_port: int, admin_port: int) -> Stack:
        return Stack(
            url=_url(self._place.scheme, self._place.http_host, http_port),
            admin_url=_url("http", self._place.admin_host, admin_port),
            tenant_id=provision.tenant_id,
            api_key=provision.api_key,
            nats_url=servers.nats_url("admin"),
            postgres_dsn=servers.postgres_dsn("admin"),
            operator_postgres_dsn=servers.postgres_dsn("operator"),
            redis_url=servers.redis_url,
            data_dir=str(servers.data_dir),
            pids=self._pids(),
        )

    def _told_to_stop(self, task: "asyncio.Task[Any]") -> None:
        """The first signal stops everything in order, the next one at once."""
        if not self._stopping:
            self._stopping = True
            self._say("stopping")
            task.cancel()
            return
        for kept in self._kept.values():
            if kept.child.alive:
                kill_group(kept.child.pid)


async def _unused_port(host: str, port: int) -> int:
    """The edge's port, proven free: the edge takes it in a moment, and keeps it when it is started again."""

    async def bind() -> int:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), host, port)
        found: int = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return found

    return await _listen(bind, host, port, "--http-port")


async def _listen(bind: Callable[[], Awaitable[int]], host: str, port: int, option: str) -> int:
    try:
        return await bind()
    except OSError as cause:
        reason = "the port is in use" if cause.errno == errno.EADDRINUSE else cause.strerror
        raise StartError(f"cannot listen on {host}:{port}: {reason}; choose another with {option}") from cause


def _url(scheme: str, host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  (read, never bound)
    return f"{scheme}://{reachable}:{port}"
