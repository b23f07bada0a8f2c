"""`frostgate edge --workers N`: edge processes that share one port, run and kept running as one service.

Each process listens with a socket of its own (SO_REUSEPORT), and the kernel spreads connections
over them evenly: of 64 connections to two processes 30 to 34 went to either, while one inherited
socket gave 56 to 8. A process that ends loses the connections it had, and no new one goes to it.
"""

import asyncio
import functools
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ops.admin_http import AdminServer
from ops.children import Kept, this_program
from ops.embedded.process import Child, Command, StartError, free_port, kill_group, spawn
from ops.overview import HOST, Overview
from ops.settings import Settings, environment

log = logging.getLogger("ops")

LABEL = "process"
"""Tells the processes' series apart; their sum is the service's."""
SHARED_PORT = "--shared-port"
"""The option by which an edge is told that it is one of several."""
GRACE_S = 2.0


def shared_listener(host: str, port: int) -> socket.socket:
    """A bound socket beside those of other processes of this user. Raises OSError."""
    return _bound(host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


class EdgeGroup:
    """Runs so many edges as `settings.edge_workers` says, on the port and admin port that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = [str(number) for number in range(1, settings.edge_workers + 1)]
        self._admin_ports: dict[str, int] = {}
        self._kept: dict[str, Kept] = {}
        self._stopping = False

    async def run(self) -> None:
        """Return when a signal said so; then none of it runs. Raises StartError when it cannot be started."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._told_to_stop, task)
        try:
            with _reserved(self._settings.http_host, self._settings.http_port) as reserved:
                await self._serve(reserved.getsockname()[1])
        except asyncio.CancelledError:
            log.info("stopped")

    async def _serve(self, port: int) -> None:
        """Ends only by being cancelled."""
        overview = Overview(self._admin_ports, list, LABEL)
        admin = overview.server(self._settings.admin_host, self._settings.admin_port)
        try:
            await self._listen(admin)
            for name in self._names:
                start = functools.partial(self._start, name, port)
                self._kept[name] = Kept(await start(), start, log.warning)
            log.info("%d edges share port %d", len(self._names), port)
            async with asyncio.TaskGroup() as keepers:
                for kept in self._kept.values():
                    keepers.create_task(kept.keep(lambda: None))
        finally:
            self._stopping = True
            await asyncio.gather(*(kept.child.stop(GRACE_S) for kept in self._kept.values()))
            await admin.stop()

    async def _listen(self, admin: AdminServer) -> None:
        try:
            await admin.start()
        except OSError as cause:
            raise _cannot_listen(self._settings.admin_host, self._settings.admin_port, cause) from cause

    async def _start(self, name: str, port: int) -> Child:
        self._admin_ports[name] = free_port()
        return await spawn(self._command(name, port), None)

    def _command(self, name: str, port: int) -> Command:
        """One edge as this process would be, but for its ports."""
        values: Mapping[str, str] = {
            "FG_DATA_DIR": str(self._settings.data_dir),
            "FG_HTTP_PORT": str(port),
            "FG_EDGE_WORKERS": "1",
            "FG_ADMIN_HOST": HOST,
            "FG_ADMIN_PORT": str(self._admin_ports[name]),
        }
        return Command(
            name=f"edge {name}",
            arguments=this_program("edge", SHARED_PORT),
            environment={**environment(), **values},
        )

    def _told_to_stop(self, task: "asyncio.Task[Any]") -> None:
        """The first signal lets every edge answer what it has begun, the next one ends them at once."""
        if not self._stopping:
            self._stopping = True
            task.cancel()
            return
        for kept in self._kept.values():
            if kept.child.alive:
                kill_group(kept.child.pid)


@contextmanager
def _reserved(host: str, port: int) -> Iterator[socket.socket]:
    """Hold the port while the edges come and go. Raises StartError, also when another program listens on it."""
    try:
        with _bound(host, port, socket.SO_REUSEADDR) as alone:
            alone.listen()  # of listening sockets the kernel lets none share that did not all agree to
            port = alone.getsockname()[1]
        held = shared_listener(host, port)
    except OSError as cause:
        raise _cannot_listen(host, port, cause) from cause
    with held:
        yield held


def _bound(host: str, port: int, *options: int) -> socket.socket:
    family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _cannot_listen(host: str, port: int, cause: OSError) -> StartError:
    reason = os.strerror(cause.errno) if cause.errno else str(cause)
    return StartError(f"cannot listen on {host}:{port}: {reason}")
