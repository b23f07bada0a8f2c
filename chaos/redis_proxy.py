"""A Redis that misbehaves: `python -m chaos.redis_proxy --listen PORT --upstream HOST:PORT --fault NAME`.

Stands before a real server and speaks its protocol, so that a fault is an answer where the real one
would be an answer. Under every fault but `none` no command that could write reaches the server, save
`slow` for a client that waits, and `noscript-once` after its one refusal.
"""

import argparse
import asyncio
import contextlib
import signal
from enum import StrEnum
from typing import Self

SLOW_S = 3.0
LINE_BYTES_MAX = 1024 * 1024


class Fault(StrEnum):
    NONE = "none"
    DOWN = "down"
    SLOW = "slow"
    HALF_OPEN = "half-open"
    WRONG_PASSWORD = "wrong-password"  # noqa: S105  (the name of a fault)
    READONLY = "readonly"
    OOM = "oom"
    LOADING = "loading"
    MASTERDOWN = "masterdown"
    CLUSTERDOWN = "clusterdown"
    MOVED = "moved"
    NOSCRIPT = "noscript"
    NOSCRIPT_ONCE = "noscript-once"


_NOSCRIPT = b"-NOSCRIPT No matching script.\r\n"
_REFUSALS = {
    Fault.READONLY: b"-READONLY You can't write against a read only replica.\r\n",
    Fault.OOM: b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    Fault.LOADING: b"-LOADING the dataset is being loaded in memory\r\n",
    Fault.MASTERDOWN: b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    Fault.CLUSTERDOWN: b"-CLUSTERDOWN The cluster is down\r\n",
    Fault.MOVED: b"-MOVED 1 127.0.0.1:1\r\n",
}
"""What every command on keys is answered with."""
_LOGINS = (b"AUTH", b"HELLO")
_WITHOUT_KEYS = (*_LOGINS, b"CLIENT", b"PING", b"TIME", b"INFO", b"CONFIG", b"ACL", b"SCRIPT")


class RedisProxy:
    """Forwards to one server, one command of a connection at a time. Its fault can be switched at any moment."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._switched = asyncio.Event()
        self._fault = Fault.NONE
        self.port = 0

    @classmethod
    async def open(cls, host: str, port: int, listen_port: int = 0) -> Self:
        self = cls(host, port)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", listen_port, limit=LINE_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.switch(Fault.DOWN)
        await self._server.wait_closed()

    def switch(self, fault: Fault) -> None:
        """From now on the proxy has this fault. Where the fault is one of connecting, those there are lose theirs."""
        self._fault = fault
        self._switched.set()
        self._switched = asyncio.Event()
        if fault in (Fault.DOWN, Fault.WRONG_PASSWORD):
            for client in self._clients:
                client.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault is Fault.DOWN:
            writer.transport.abort()
            return
        self._clients.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            there = await asyncio.open_connection(*self._upstream, limit=LINE_BYTES_MAX)
            try:
                while await self._serve_one(reader, writer, there):
                    continue
            finally:
                there[1].transport.abort()
        self._clients.discard(writer)
        writer.transport.abort()

    async def _serve_one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """Answer the client's next command. False when the connection is to end."""
        words, command = await _command(reader)
        if self._fault is Fault.HALF_OPEN:
            await self._switched.wait()
            return False
        if self._fault is Fault.SLOW:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOW_S):
                    await self._switched.wait()
        if reader.at_eof() or reader.exception() is not None:
            return False  # who asked has gone: what they asked must not happen behind their back
        answer = self._refusal(words)
        if answer is None:
            there[1].write(command)
            answer = await _reply(there[0])
        writer.write(answer)
        await writer.drain()
        return True

    def _refusal(self, words: list[bytes]) -> bytes | None:
        """What the fault answers to this command, None when the server is to answer."""
        verb = words[0].upper()
        match self._fault:
            case Fault.WRONG_PASSWORD:
                logs_in = verb in _LOGINS
                return b"-WRONGPASS invalid username-password pair\r\n" if logs_in else b"-NOAUTH Authentication\r\n"
            case Fault.NOSCRIPT | Fault.NOSCRIPT_ONCE if verb == b"EVALSHA":
                if self._fault is Fault.NOSCRIPT_ONCE:
                    self._fault = Fault.NONE
                return _NOSCRIPT
            case fault if verb not in _WITHOUT_KEYS:
                return _REFUSALS.get(fault)
            case _:
                return None


async def _command(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes]:
    """The words of the next command, and its bytes. Raises IncompleteReadError at the end."""
    head = await reader.readuntil(b"\r\n")
    words, raw = [], [head]
    for _ in range(int(head[1:])):
        length = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(length[1:]) + 2)
        words.append(word[:-2])
        raw += [length, word]
    return words, b"".join(raw)


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """The bytes of the next reply, of protocol 2 or 3, whatever lies within it."""
    head = await reader.readuntil(b"\r\n")
    kind, count = head[:1], head[1:-2]
    if kind in b"$=!" and int(count) >= 0:
        return head + await reader.readexactly(int(count) + 2)
    parts = [head]
    if kind in b"*%~>" and int(count) > 0:
        for _ in range(int(count) * (2 if kind == b"%" else 1)):
            parts.append(await _reply(reader))  # noqa: PERF401  (one after the other)
    return b"".join(parts)


async def _serve(listen_port: int, upstream: str, fault: Fault) -> None:
    """Until SIGTERM or SIGINT."""
    host, _, port = upstream.rpartition(":")
    proxy = await RedisProxy.open(host, int(port), listen_port)
    proxy.switch(fault)
    print(f"listening on 127.0.0.1:{proxy.port}", flush=True)  # noqa: T201  (whoever started it waits for this)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await proxy.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos.redis_proxy")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="0 takes a free one")
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT")
    parser.add_argument("--fault", type=Fault, default=Fault.NONE, choices=list(Fault))
    chosen = parser.parse_args()
    asyncio.run(_serve(chosen.listen, chosen.upstream, chosen.fault))


if __name__ == "__main__":
    main()
