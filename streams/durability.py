"""The standing proof that a 202 means durable: what the servers say of themselves, compared with what is declared.

With the server's default fsync interval a power cut of the whole cluster lost every acknowledged
message (23,070 of 23,070), with `sync_interval: always` none of 318,994. So the proof is asked of
the running servers, at start-up and every 55 s, and a proof older than two intervals is none.
"""

import asyncio
import logging
from typing import NamedTuple

import msgspec

from schemas.answers import NoAnswer
from schemas.subjects import ingest_stream
from schemas.units import Clock, UnixMs, parse_rfc3339
from streams.jetstream import ApiError, JetStream
from streams.settings import StreamSettings
from streams.topology import durability_drift

log = logging.getLogger("streams")

WATCH_INTERVAL_MS = 55_000
RETRY_INTERVAL_MS = 1_000
ANSWER_TIMEOUT_MS = 2_000
UNSETTLED_MARGIN_MS = 15_000
"""Between the broker's clock and ours, and for what is on its way."""
NEVER = UnixMs(2**53)
"""No event is younger than this: nothing is known of what the broker remembers."""


class _Config(msgspec.Struct):
    sync_always: bool = False


class _JetStreamData(msgspec.Struct):
    config: _Config = msgspec.field(default_factory=_Config)


class _JetStreamAnswer(msgspec.Struct):
    data: _JetStreamData


class _ServerData(msgspec.Struct):
    server_id: str
    start: str


class _ServerAnswer(msgspec.Struct):
    data: _ServerData


class _StreamState(msgspec.Struct):
    messages: int
    first_ts: str


class _StreamInfo(msgspec.Struct):
    state: _StreamState


class _Servers(NamedTuple):
    """What the servers say of themselves, and when the last of them started."""

    findings: list[str]
    start_ms: UnixMs


class DurabilityWatch:
    """Keeps the proof fresh. `findings` says in words why there is none."""

    def __init__(self, jetstream: JetStream, system: JetStream, settings: StreamSettings, clock: Clock) -> None:
        self._jetstream = jetstream
        self._system = system
        self._settings = settings
        self._clock = clock
        self._proven_at_ms: UnixMs | None = None
        self._broker_start_ms = NEVER
        self._unsettled_since_ms = UnixMs(0)
        self.findings: list[str] = ["the streams were not checked yet"]
        self._recheck = asyncio.Event()
        self._checking = asyncio.Lock()
        self._reconnections = 0
        jetstream.on_reconnect(self._on_reconnect)

    def proven(self) -> bool:
        """Whether the last check found nothing, less than two intervals ago."""
        at_ms = self._proven_at_ms
        return at_ms is not None and 0 <= self._clock.now_ms() - at_ms < 2 * WATCH_INTERVAL_MS

    def remembers_since_ms(self) -> UnixMs:
        """Ids published after this moment are known to the broker: its window, cut short by its last start.

        A restarted broker forgets the ids of settled messages (measured).
        """
        window = self._clock.now_ms() - self._settings.duplicate_window_ms
        return UnixMs(max(window, self._broker_start_ms))

    def forgotten_before_ms(self) -> UnixMs:
        """A message from before this moment may be unsettled and forgotten by the broker; 0 while none can be.

        The broker knows an id for its window only. Where settling lags behind by as much, neither it nor
        Postgres knows the ids of the oldest unsettled messages.
        """
        window_start_ms = self._clock.now_ms() - self._settings.duplicate_window_ms
        lags = self._unsettled_since_ms <= window_start_ms + UNSETTLED_MARGIN_MS
        return UnixMs(window_start_ms) if lags else UnixMs(0)

    async def check(self) -> list[str]:
        """Ask every server and compare every stream; returns the findings and remembers them. Never raises NoAnswer.

        One check at a time: what was asked first must not be believed last.
        """
        async with self._checking:
            return await self._check()

    async def _check(self) -> list[str]:
        reconnections = self._reconnections
        try:
            servers = await self._servers()
            found = servers.findings + await durability_drift(self._jetstream, self._settings)
            unsettled_since_ms = await self._oldest_ms()
        except NoAnswer as failure:
            found = [f"no answer from the broker ({failure.code.value})"]
        except msgspec.MsgspecError:
            found = ["a server's description of itself cannot be read"]
        except ApiError as failure:
            found = [f"the broker refused to describe its streams ({failure.error.err_code})"]
        else:
            if reconnections == self._reconnections:
                self._broker_start_ms = servers.start_ms
                self._unsettled_since_ms = unsettled_since_ms
            else:  # one server answered, and now there may be another
                found = ["the connection was lost during the check"]
        if found and found != self.findings:
            log.warning("durability is not proven: %s", "; ".join(found))
        self.findings = found
        self._proven_at_ms = None if found else self._clock.now_ms()
        return found

    async def run(self, stopping: asyncio.Event) -> None:
        """Check until `stopping` is set: every 55 s while proven, every second while not, at once on reconnection."""
        while not stopping.is_set():
            found = await self.check()
            interval_ms = RETRY_INTERVAL_MS if found else WATCH_INTERVAL_MS
            self._recheck.clear()
            waits = [asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(self._recheck.wait())]
            await asyncio.wait(waits, timeout=interval_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _servers(self) -> _Servers:
        servers = self._settings.replicas
        jsz = await self._system.collect("$SYS.REQ.SERVER.PING.JSZ", b'{"config":true}', servers, ANSWER_TIMEOUT_MS)
        varz = await self._system.collect("$SYS.REQ.SERVER.PING.VARZ", b"", servers, ANSWER_TIMEOUT_MS)
        found = []
        if len(jsz) < servers or len(varz) < servers:
            found.append(f"{min(len(jsz), len(varz))} of {servers} servers answered")
        configs = [msgspec.json.decode(answer, type=_JetStreamAnswer).data.config for answer in jsz]
        if not all(config.sync_always for config in configs):
            found.append("a server does not run with sync_interval: always")
        starts = [msgspec.json.decode(answer, type=_ServerAnswer).data.start for answer in varz]
        return _Servers(found, max(map(parse_rfc3339, starts), default=NEVER))

    async def _oldest_ms(self) -> UnixMs:
        """No message that is in an ingest stream now, or comes later, is from before this moment."""
        oldest_ms: int = self._clock.now_ms()
        for shard in range(self._settings.shards):
            info = await self._jetstream.api(f"STREAM.INFO.{ingest_stream(shard)}", None, _StreamInfo)
            if info.state.messages:
                oldest_ms = min(oldest_ms, parse_rfc3339(info.state.first_ts))
        return UnixMs(oldest_ms)

    def _on_reconnect(self) -> None:
        self._reconnections += 1
        self._broker_start_ms = NEVER  # perhaps a restarted broker: unknown until it says so
        self._proven_at_ms = None
        self._recheck.set()
