"""One connection to NATS: the only module that names the client library.

Replies are multiplexed over one inbox: a dict of futures, failed together when the connection
drops, so a caller learns within milliseconds that its answer will not come. Nothing is buffered
while disconnected (`pending_size=0`): a message replayed after its sender was told "no" would be
a lie (measured, docs/adr/0003).
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from schemas.answers import NoAnswer
from schemas.codes import Code
from streams.wire import ErrorBody, MaybeError, MessageAnswer, QuickClient, StoredMessage

log = logging.getLogger("streams")

T = TypeVar("T")
Delivered = Callable[[Msg], Awaitable[None]]

NO_MESSAGE = 10037
CONNECT_TIMEOUT_S = 2
RECONNECT_WAIT_S = 1
PING_INTERVAL_S = 2
PINGS_OUTSTANDING_MAX = 2
SUBSCRIPTION_BYTES_MAX = 64 * 1024 * 1024


class ApiError(Exception):
    """The JetStream API answered with an error."""

    def __init__(self, subject: str, error: ErrorBody) -> None:
        super().__init__(f"{subject}: {error.err_code} {error.description}")
        self.error = error


class JetStream:
    """A connection with typed answers. Use `connect`; close with `close`."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._waiting: dict[str, asyncio.Future[Msg | None]] = {}
        self._tokens = itertools.count()
        self._reconnected: list[Callable[[], None]] = []
        self._closing = False
        self._lost = False

    @classmethod
    async def connect(cls, url: str, role: str) -> "JetStream":
        """Return a connected client. Raises NoAnswer(STREAM_UNAVAILABLE) when no server answers within 2 s.

        `role` is the user's name in nats.conf; it may subscribe to `_INBOX_<role>.>` alone.
        """
        client = QuickClient()
        prefix = f"_INBOX_{role}.{client._nuid.next().decode()}"  # noqa: SLF001  (the library's own unique ids)
        self = cls(client, prefix)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):  # the library retries a first connection for ever
                await client.connect(
                    servers=url.split(","),
                    name=f"frostgate-{role}",
                    inbox_prefix=f"_INBOX_{role}",
                    connect_timeout=CONNECT_TIMEOUT_S,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_S,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                    pending_size=0,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    error_cb=self._on_error,
                )
        except (nats.errors.Error, OSError, TimeoutError) as cause:
            await client.close()
            raise NoAnswer(Code.STREAM_UNAVAILABLE) from cause
        await client.subscribe(f"{prefix}.*", cb=self._on_reply, pending_msgs_limit=-1, pending_bytes_limit=0)
        return self

    async def close(self) -> None:
        """Close the connection; whoever still waits for a reply is told that none came."""
        self._closing = True
        await self._client.close()
        self._fail_waiting()

    @property
    def connected(self) -> bool:
        """Whether frames may be written. A new connection counts once everyone was told that the old one is gone:
        the library calls itself connected some round trips before that.
        """
        return self._client.is_connected and not self._lost

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call back on every reconnection, before it counts: pulls and what was known of the old server are gone."""
        self._reconnected.append(callback)

    async def request(self, subject: str, data: bytes, inbox: str) -> None:
        """Send a request whose answers go to `inbox`. Raises NoAnswer(STREAM_UNAVAILABLE) when nothing was sent."""
        await self._send(subject, data, inbox, None)

    async def settle(self, settlements: Iterable[tuple[str, bytes]]) -> None:
        """Send acknowledgements, (reply subject, verb) each, in one write.

        Raises NoAnswer(STREAM_UNAVAILABLE) when nothing was sent; a lost one means one more delivery.
        """
        if not self.connected:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        frames = b"".join(b"PUB %b %d\r\n%b\r\n" % (reply.encode(), len(verb), verb) for reply, verb in settlements)
        await self._write(frames)

    async def ask_with(self, frames: bytes, token: str, timeout_ms: int) -> Msg:
        """Write ready protocol frames, of which one names `token` as its reply subject, and return that reply.

        The client library spends 40 us on a message with headers, the frames of a batch cost 5 (measured,
        docs/adr/0003). Raises as `ask`.
        """
        if not self.connected:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        future = self._expect(token)
        try:
            await self._write(frames)
            return await self._reply(future, timeout_ms)
        finally:
            del self._waiting[token]

    def reply_token(self) -> str:
        """A fresh reply subject of this connection."""
        return f"{self._prefix}.{next(self._tokens)}"

    async def ask(self, subject: str, data: bytes, headers: Mapping[str, str] | None, timeout_ms: int) -> Msg:
        """Send and return the reply.

        Raises NoAnswer(STREAM_UNAVAILABLE) when nothing was sent or nobody listens, and
        NoAnswer(OUTCOME_UNKNOWN) when the bytes were sent and no answer came.
        """
        token = self.reply_token()
        future = self._expect(token)
        try:
            await self._send(subject, data, token, headers)
            return await self._reply(future, timeout_ms)
        finally:
            del self._waiting[token]

    async def api(self, subject: str, request: object, answer: type[T], timeout_ms: int = 5_000) -> T:
        """Call the JetStream API. Raises ApiError with the server's error, NoAnswer when none came."""
        body = b"" if request is None else msgspec.json.encode(request)
        reply = await self.ask(f"$JS.API.{subject}", body, None, timeout_ms)
        failure = msgspec.json.decode(reply.data, type=MaybeError)
        if failure.error is not None:
            raise ApiError(subject, failure.error)
        return msgspec.json.decode(reply.data, type=answer)

    async def stored(self, stream: str, seq: int) -> StoredMessage | None:
        """A stored message, None when it is gone. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        return await self._message(stream, {"seq": seq})

    async def next_stored(self, stream: str, seq: int, subject: str) -> StoredMessage | None:
        """The first message from `seq` on whose subject matches, None when there is none. Raises as `stored`."""
        return await self._message(stream, {"seq": seq, "next_by_subj": subject})

    async def _message(self, stream: str, which: Mapping[str, object]) -> StoredMessage | None:
        try:
            return (await self.api(f"STREAM.MSG.GET.{stream}", which, MessageAnswer)).message
        except ApiError as failure:
            if failure.error.err_code == NO_MESSAGE:
                return None
            log.warning("reading a stored message failed: %d", failure.error.err_code)
            raise NoAnswer(Code.STREAM_UNAVAILABLE) from None
        except NoAnswer:
            raise NoAnswer(Code.STREAM_UNAVAILABLE) from None  # a read has no outcome to be unsure of

    async def delete_stored(self, stream: str, seq: int) -> None:
        """Remove a message from its stream; one that is gone already is fine. Raises NoAnswer(STREAM_UNAVAILABLE)."""
        try:
            await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True}, dict)
        except (ApiError, NoAnswer):
            # The server has one error for every failed deletion, so whether it is gone is asked.
            if await self.stored(stream, seq) is not None:
                raise NoAnswer(Code.STREAM_UNAVAILABLE) from None

    async def subscribe(self, name: str, deliver: Delivered) -> tuple[Subscription, str]:
        """Subscribe to a fresh subject below this connection's inbox; returns the subscription and that subject."""
        subject = f"{self._prefix}-{name}"
        subscription = await self._client.subscribe(
            subject, cb=deliver, pending_msgs_limit=-1, pending_bytes_limit=SUBSCRIPTION_BYTES_MAX
        )
        return subscription, subject

    @staticmethod
    async def unsubscribe(subscription: Subscription) -> None:
        """On return nothing more is delivered; the broker learns of it before anything sent after."""
        with suppress(nats.errors.Error):  # a closed connection has no subscriptions left
            await subscription.unsubscribe()

    async def collect(self, subject: str, data: bytes, answers_min: int, timeout_ms: int) -> list[bytes]:
        """Ask every server at once (system account) and return the answers that came within `timeout_ms`.

        Stops early once `answers_min` came.
        """
        found: list[bytes] = []
        enough = asyncio.Event()

        async def keep(message: Msg) -> None:
            found.append(message.data)
            if len(found) >= answers_min:
                enough.set()

        if not self.connected:
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        subscription, inbox = await self.subscribe(f"collect{next(self._tokens)}", keep)
        try:
            await self._send(subject, data, inbox, None)
            async with asyncio.timeout(timeout_ms / 1000):
                await enough.wait()
        except TimeoutError:
            log.warning("fewer servers answered than expected")
        finally:
            await self.unsubscribe(subscription)
        return found

    async def _write(self, frames: bytes) -> None:
        await self._client._send_command(frames)  # noqa: SLF001  (no public way to write ready frames)
        await self._client._flush_pending()  # noqa: SLF001

    def _expect(self, token: str) -> "asyncio.Future[Msg | None]":
        future: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        return future

    @staticmethod
    async def _reply(future: "asyncio.Future[Msg | None]", timeout_ms: int) -> Msg:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                reply = await future
        except TimeoutError:
            raise NoAnswer(Code.OUTCOME_UNKNOWN) from None
        if reply is None:
            raise NoAnswer(Code.OUTCOME_UNKNOWN)
        if reply.headers and reply.headers.get("Status") == "503":
            raise NoAnswer(Code.STREAM_UNAVAILABLE)
        return reply

    async def _send(self, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None) -> None:
        try:
            await self._client.publish(subject, data, reply, dict(headers) if headers else None)
        except (nats.errors.Error, OSError):
            raise NoAnswer(Code.STREAM_UNAVAILABLE) from None

    async def _on_reply(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    async def _on_disconnected(self) -> None:
        self._lost = True
        # Frames written just before must not be sent by the next connection: their senders are told below.
        self._client._pending.clear()  # noqa: SLF001  (see _write)
        self._client._pending_data_size = 0  # noqa: SLF001
        if not self._closing:
            log.warning("connection to the broker lost")
        self._fail_waiting()

    async def _on_reconnected(self) -> None:
        log.warning("connection to the broker is back")
        for callback in self._reconnected:
            callback()
        self._lost = False

    async def _on_error(self, error: Exception) -> None:
        log.info("broker connection: %s", type(error).__name__)

    def _fail_waiting(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
