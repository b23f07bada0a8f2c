"""What travels to and from the broker: answers of the JetStream API, and frames of the client protocol."""

import base64

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.units import UnixMs, parse_rfc3339

STATUS_AT = len(b"NATS/1.0")
PULL_HEARTBEAT = "100"
PULL_EXPIRED = "408"
PULL_PIN_LOST = "423"
PULL_CUT = "409"
"""Over its byte limit: more waits. Also said when the consumer's leader changes or the consumer is gone."""
PULL_ENDED = frozenset({"404", PULL_EXPIRED, PULL_CUT})
"""The pull is over and all is well: nothing there, expired, or over its byte limit."""
PULL_LEFT_HEADER = "Nats-Pending-Messages"
"""How many messages short a pull ended. Where its bytes are limited the broker says so of one that got all, too."""
PIN_HEADER = "Nats-Pin-Id"
_PIN_LINE = b"\r\nNats-Pin-Id: "


class QuickClient(Client):
    """Headers of delivered messages are for the broker and for people: parsing them costs more than the message.

    Only a status line (`NATS/1.0 503`) is parsed, which is how the broker answers without data, and the pin looked for.
    """

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        if headers and headers[STATUS_AT : STATUS_AT + 1] == b" ":
            parsed: dict[str, str] | None = await super()._process_headers(headers)
            return parsed
        at = headers.find(_PIN_LINE) if headers else -1
        if at < 0:
            return None
        begin = at + len(_PIN_LINE)
        return {PIN_HEADER: headers[begin : headers.index(b"\r\n", begin)].decode("ascii")}


class ErrorBody(msgspec.Struct, frozen=True):
    """JetStream's own error: `err_code` is stable, the description is for people."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The stream's answer to a publish. With `error` nothing was stored."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    batch: str = ""
    count: int = 0
    error: ErrorBody | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode


def decode_ack(reply: Msg) -> PubAck:
    """The stream's answer in a reply. Raises NoAnswer(OUTCOME_UNKNOWN) for anything that is not one."""
    try:
        return _decode_ack(reply.data)
    except msgspec.MsgspecError:
        raise NoAnswer(Code.OUTCOME_UNKNOWN) from None


def frame(subject: str, reply: str, headers: str, data: bytes) -> bytes:
    """One HPUB frame of the NATS client protocol; `headers` are `Name: value` lines, each ended by CRLF.

    The caller answers for what goes in: no value may hold a CR or LF.
    """
    head = f"NATS/1.0\r\n{headers}\r\n".encode()
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        subject.encode(),
        reply.encode(),
        len(head),
        len(head) + len(data),
        head,
        data,
    )


class PullRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The request of CONSUMER.MSG.NEXT; times in nanoseconds."""

    batch: int
    expires: int
    max_bytes: int = 0
    idle_heartbeat: int = 0
    group: str = ""
    id: str = ""


NS_PER_S = 1_000_000_000
WAITING = PullRequest(batch=1, expires=30 * NS_PER_S, idle_heartbeat=5 * NS_PER_S)
OWNER_EXPIRES_S = 1
"""Short, because every request of the owner renews its pin and every answer confirms it."""
OWNING = PullRequest(batch=1, expires=OWNER_EXPIRES_S * NS_PER_S)


class MaybeError(msgspec.Struct):
    """Every API answer has an error or the rest."""

    error: ErrorBody | None = None


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as the stream keeps it."""

    subject: str
    seq: int
    time: str
    data_base64: str = msgspec.field(name="data", default="")

    @property
    def data(self) -> bytes:
        return base64.b64decode(self.data_base64)

    @property
    def stored_ms(self) -> UnixMs:
        """When the stream stored it, by the broker's clock."""
        return parse_rfc3339(self.time)


class MessageAnswer(msgspec.Struct):
    """The answer to STREAM.MSG.GET."""

    message: StoredMessage
