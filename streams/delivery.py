"""One delivered message and the ways to settle it."""

from dataclasses import dataclass

from nats.aio.msg import Msg

ACK = b"+ACK"
IN_PROGRESS = b"+WPI"
_DELAYED = b'-NAK {"delay": '
REPLY_TOKENS_SHORT = 9
REPLY_TOKENS_LONG = 11
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message of a stream under the sequence it was stored with. `reply` is where its settlement goes.

    A `suspect` was in the hands of an owner that ended without settling it: it may be what ended it.
    """

    subject: str
    data: bytes
    reply: str
    stream: str
    seq: int
    suspect: bool = False


def from_message(message: Msg) -> Delivery:
    """Raises ValueError when the reply subject is not a JetStream acknowledgement subject."""
    stream, _, _, seq = _named(message.reply)
    return Delivery(message.subject, message.data, message.reply, stream, int(seq))


def first_time(reply: str) -> bool:
    """Whether a delivery, told by its reply subject, is the first of its message since the consumer was reset."""
    return _named(reply)[2] == "1"


def pending_behind(reply: str) -> int:
    """How many more messages the consumer had to deliver when it made a delivery, told by the delivery's reply subject,
    of which `from_message` has seen that it is one."""
    tokens = reply.split(".")
    return int(tokens[REPLY_TOKENS_SHORT - 1 if len(tokens) == REPLY_TOKENS_SHORT else REPLY_TOKENS_LONG - 1])


def _named(reply: str) -> list[str]:
    """Stream, consumer, number of the delivery, sequence. Raises ValueError as `from_message`."""
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"]:
        raise ValueError("not a JetStream delivery")
    if len(tokens) == REPLY_TOKENS_SHORT:
        return tokens[2:6]
    if len(tokens) >= REPLY_TOKENS_LONG:  # two tokens more in front: domain and account hash
        return tokens[4:8]
    raise ValueError("not a JetStream delivery")


def delayed(delay_ms: int) -> bytes:
    """A negative acknowledgement with its delay. One without ignores every backoff: 4 deliveries in 5 ms."""
    return b"%b%d}" % (_DELAYED, delay_ms * NS_PER_MS)


def is_later(verb: bytes) -> bool:
    """Whether a verb lets its delivery come again."""
    return verb.startswith(_DELAYED)
